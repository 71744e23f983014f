"""Shadow reads that are kept: live queries that were also asked of an index that is being built.

Owner of table `shadow_reads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa

from indexer import database, tables

LATEST = 10_000  # reads that a summary looks at

_SUMMARY = sa.text("""
    SELECT count(*) AS reads, avg(overlap) AS overlap, min(at) AS since,
           mode() WITHIN GROUP (ORDER BY k) AS k,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY live_ms) AS live_p95_ms,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY shadow_ms) AS shadow_p95_ms
    FROM (
        SELECT * FROM indexer.shadow_reads WHERE index_id = :index_id
        ORDER BY at DESC LIMIT :latest
    ) AS latest
""")
# Index by index, in the order of the table's index: what is kept is not looked at.
_TRIM = sa.text("""
    DELETE FROM indexer.shadow_reads WHERE id IN (
        SELECT old.id FROM indexer.indexes AS i CROSS JOIN LATERAL (
            SELECT id FROM indexer.shadow_reads
            WHERE index_id = i.id AND at < now() - make_interval(secs => :kept_s)
            ORDER BY at LIMIT :limit
        ) AS old
        LIMIT :limit
    )
""")


@dataclass(frozen=True, kw_only=True)
class Read:
    """One query that both indexes answered. `overlap` is the share of the live index's hits that
    the other one gave, too."""

    index_id: int
    live_index_id: int
    at: datetime
    k: int
    overlap: float
    live_ms: float
    shadow_ms: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The latest reads of one index. `k` is how many hits most of them had from the live index."""

    reads: int
    k: int
    overlap: float
    since: datetime
    live_p95_ms: float
    shadow_p95_ms: float

    def __str__(self) -> str:
        return (
            f"{self.reads:,} live queries: overlap@{self.k} {self.overlap:.0%}; "
            f"p95 {self.shadow_p95_ms:.1f} ms, live {self.live_p95_ms:.1f} ms"
        )


def add(engine: sa.Engine, reads: Sequence[Read]) -> None:
    """The reads are kept."""
    with database.begin(engine) as connection:
        connection.execute(sa.insert(tables.shadow_reads), [asdict(read) for read in reads])


def summary(engine: sa.Engine, index_id: int) -> Summary | None:
    """None when no live query was asked of the index."""
    with database.begin(engine) as connection:
        row = connection.execute(_SUMMARY, {"index_id": index_id, "latest": LATEST})
        found = row.mappings().one()
    return Summary(**found) if found["reads"] else None


def trim(engine: sa.Engine, *, kept_s: float, limit: int = 5_000) -> int:
    """At most `limit` reads that are older than `kept_s` seconds are gone. Returns how many."""
    with database.begin(engine) as connection:
        return connection.execute(_TRIM, {"kept_s": kept_s, "limit": limit}).rowcount
