"""The ledger as it is read: how an index stands, what failed, samples. `entries` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from indexer import database

_FAILURES = sa.text("""
    SELECT index_id, item_key AS key, coalesce(error, 'no error was kept') AS error,
           attempts, quarantined, due_at
    FROM indexer.entries
    WHERE (error IS NOT NULL OR quarantined) AND wanted > written
      AND (CAST(:index_id AS integer) IS NULL OR index_id = :index_id)
    ORDER BY quarantined DESC, index_id, item_key LIMIT :limit
""")

_SUMMARY = sa.text("""
    SELECT index_id,
           count(*) FILTER (WHERE present) AS present,
           count(*) FILTER (WHERE wanted > written AND NOT quarantined AND lane = 0) AS deletes,
           count(*) FILTER (WHERE wanted > written AND NOT quarantined AND lane = 1) AS live,
           count(*) FILTER (WHERE wanted > written AND NOT quarantined AND lane = 2) AS backfill,
           count(*) FILTER (WHERE quarantined) AS quarantined,
           count(*) FILTER (WHERE wanted > written AND error IS NOT NULL) AS failing,
           count(*) FILTER (WHERE lease_until > now()) AS leased,
           extract(epoch FROM clock_timestamp() - min(changed_at) FILTER
               (WHERE wanted > written AND NOT quarantined AND lane < 2))::float AS oldest_s
    FROM indexer.entries
    WHERE CAST(:index_id AS integer) IS NULL OR index_id = :index_id
    GROUP BY index_id ORDER BY index_id
""")

_STANDING = sa.text("""
    SELECT count(*) AS entries,
           count(*) FILTER (WHERE present) AS present,
           count(*) FILTER (WHERE wanted > written AND NOT quarantined) AS dirty,
           count(*) FILTER (WHERE wanted > written AND NOT quarantined AND changed_at <= :since)
               AS overdue,
           count(*) FILTER (WHERE changed_at > :since) AS recent,
           count(*) FILTER (WHERE quarantined) AS quarantined,
           count(*) FILTER (WHERE quarantined AND NOT present) AS quarantined_absent
    FROM indexer.entries WHERE index_id = :index_id
""")

_SAMPLE = sa.text("""
    SELECT item_key FROM indexer.entries WHERE index_id = :index_id AND present AND NOT quarantined
    ORDER BY hashtextextended(item_key, :seed), item_key LIMIT :limit
""")

_DIRTY_AMONG = sa.text("""
    SELECT item_key FROM indexer.entries
    WHERE index_id = :index_id AND item_key = ANY(CAST(:keys AS text[]))
      AND wanted > written
""")

# What an index lacks that is not just on its way: neither young nor in a worker's hands; of that,
# only what the other index has.
_BEHIND = sa.text("""
    SELECT count(*) FROM indexer.entries AS e
    WHERE e.index_id = :index_id AND e.wanted > e.written AND NOT e.quarantined
      AND (e.lease_until IS NULL OR e.lease_until <= now())
      AND e.changed_at < now() - make_interval(secs => :in_flight_s)
      AND NOT EXISTS (
          SELECT FROM indexer.entries AS other
          WHERE other.index_id = CAST(:than AS integer) AND other.item_key = e.item_key
            AND other.wanted > other.written
      )
""")

IN_FLIGHT_S = 5.0  # a change that is younger than this is on its way, not missed


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An item that could not be indexed, and why."""

    index_id: int
    key: str
    error: str
    attempts: int
    quarantined: bool
    due_at: datetime


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How one index stands. `oldest_s` is the age in seconds of the oldest live change or delete
    that is not in the store yet; None when there is none."""

    index_id: int
    present: int
    deletes: int
    live: int
    backfill: int
    quarantined: int
    failing: int
    leased: int
    oldest_s: float | None

    @property
    def dirty(self) -> int:
        return self.deletes + self.live + self.backfill


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How an index's ledger compares with a moment. `quarantined_absent` items have no point at
    all; `overdue` ones are dirty since before the moment, `recent` ones were changed after it."""

    entries: int
    present: int
    dirty: int
    overdue: int
    recent: int
    quarantined: int
    quarantined_absent: int


def failures(
    engine: sa.Engine, *, index_id: int | None = None, limit: int = 1_000
) -> list[Failure]:
    """Items with an error, the quarantined first."""
    with database.begin(engine) as connection:
        rows = connection.execute(_FAILURES, {"index_id": index_id, "limit": limit})
        return [Failure(**row) for row in rows.mappings()]


def summary(engine: sa.Engine, *, index_id: int | None = None) -> dict[int, Summary]:
    """Counts by index id; an index without entries is absent."""
    with database.begin(engine) as connection:
        rows = connection.execute(_SUMMARY, {"index_id": index_id}).mappings()
        return {row["index_id"]: Summary(**row) for row in rows}


def standing(engine: sa.Engine, index_id: int, *, since: datetime) -> Standing:
    """The ledger of one index, counted, as of now and as of `since`: one statement, one moment."""
    with database.begin(engine) as connection:
        row = connection.execute(_STANDING, {"index_id": index_id, "since": since})
        return Standing(**row.mappings().one())


def sample(engine: sa.Engine, index_id: int, *, limit: int, seed: int) -> list[str]:
    """`limit` items that the store should hold, drawn by the seed, in key order."""
    with database.begin(engine) as connection:
        parameters = {"index_id": index_id, "limit": limit, "seed": seed}
        return sorted(connection.scalars(_SAMPLE, parameters))


def dirty_among(engine: sa.Engine, index_id: int, keys: Sequence[str]) -> set[str]:
    """Those of the keys that are still to be written, the quarantined among them."""
    with database.begin(engine) as connection:
        parameters = {"index_id": index_id, "keys": list(keys)}
        return set(connection.scalars(_DIRTY_AMONG, parameters))


def behind(engine: sa.Engine, index_id: int, *, than: int | None, in_flight_s: float) -> int:
    """How many changes the index lacks that are older than `in_flight_s` seconds, in nobody's hands
    and not quarantined; of those, only what index `than` (None: no other) does not lack, too."""
    with database.begin(engine) as connection:
        parameters = {"index_id": index_id, "than": than, "in_flight_s": in_flight_s}
        return connection.scalar(_BEHIND, parameters) or 0
