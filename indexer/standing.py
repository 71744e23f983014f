"""How everything stands, in a few cheap reads: for metrics, for `status`, for readiness.

Costs grow with what waits and what failed, never with the size of the ledger: both have a partial
index. All of it is one transaction's view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from indexer import database, tables

LEADER_LOCK = 7_204_003  # pg_try_advisory_lock key of the watcher that leads, one per database

_INDEXES = sa.text(f"""
    SELECT i.id, i.alias, i.state, i.backfill_done, i.written_at, v.finished_at AS verified_at,
           v.counts AS verified
    FROM indexer.indexes AS i
    LEFT JOIN LATERAL (
        SELECT finished_at, counts FROM indexer.verifications
        WHERE index_id = i.id AND finished_at IS NOT NULL ORDER BY id DESC LIMIT 1
    ) AS v ON true
    WHERE i.state IN {tables.ACTIVE} ORDER BY i.id
""")
_WAITING = sa.text("""
    SELECT index_id, lane, count(*) AS items,
           extract(epoch FROM clock_timestamp() - min(changed_at))::float AS oldest_s,
           extract(epoch FROM clock_timestamp() - min(changed_at) FILTER (WHERE error IS NULL)
           )::float AS unserved_s
    FROM indexer.entries WHERE wanted > written AND NOT quarantined GROUP BY 1, 2
""")
_FAILED = sa.text("""
    SELECT index_id, count(*) FILTER (WHERE NOT quarantined) AS failing,
           count(*) FILTER (WHERE quarantined) AS quarantined
    FROM indexer.entries
    WHERE (error IS NOT NULL OR quarantined) AND wanted > written GROUP BY 1
""")
_UNROUTED = sa.text("""
    SELECT count(*), extract(epoch FROM clock_timestamp() - min(changed_at))::float
    FROM indexer.changes
""")
_LEADERS = sa.text("""
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = :key AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Items of one lane that wait to be written: the age of the oldest change, and of the oldest
    whose item has not failed; 0 without any."""

    items: int = 0
    oldest_s: float = 0.0
    unserved_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One active index. `verified` are the counts that its last verification kept."""

    index_id: int
    alias: str
    state: str
    backfill_done: bool
    lanes: Mapping[int, Waiting]
    failing: int
    quarantined: int
    written_at: datetime | None
    verified_at: datetime | None
    verified: Mapping[str, object] | None

    @property
    def waiting(self) -> int:
        return sum(lane.items for lane in self.lanes.values())

    def oldest_s(self, *lanes: int) -> float:
        """The age of the oldest change in those lanes; 0 without any."""
        return max((self.lanes[lane].oldest_s for lane in lanes if lane in self.lanes), default=0.0)

    def unserved_s(self, *lanes: int) -> float:
        """As `oldest_s`, without items that failed by themselves."""
        ages = (self.lanes[lane].unserved_s for lane in lanes if lane in self.lanes)
        return max(ages, default=0.0)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """All active indexes, and what is on its way to them. `now` is the database's clock."""

    now: datetime
    indexes: tuple[Standing, ...]
    unrouted: int  # statements
    unrouted_oldest_s: float
    leaders: int


def look(engine: sa.Engine) -> Picture:
    """Raises DatabaseError."""
    with database.begin(engine) as connection:
        now = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
        lanes: dict[int, dict[int, Waiting]] = {}
        for row in connection.execute(_WAITING):
            waiting = Waiting(
                items=row.items,
                oldest_s=max(row.oldest_s, 0.0),
                unserved_s=max(row.unserved_s or 0.0, 0.0),
            )
            lanes.setdefault(row.index_id, {})[row.lane] = waiting
        failed = {row.index_id: row for row in connection.execute(_FAILED)}
        standings = tuple(
            Standing(
                index_id=row.id,
                alias=row.alias,
                state=row.state,
                backfill_done=row.backfill_done,
                lanes=lanes.get(row.id, {}),
                failing=failed[row.id].failing if row.id in failed else 0,
                quarantined=failed[row.id].quarantined if row.id in failed else 0,
                written_at=row.written_at,
                verified_at=row.verified_at,
                verified=row.verified,
            )
            for row in connection.execute(_INDEXES)
        )
        unrouted, oldest_s = connection.execute(_UNROUTED).one()
        return Picture(
            now=now,
            indexes=standings,
            unrouted=unrouted,
            unrouted_oldest_s=max(oldest_s or 0.0, 0.0),
            leaders=connection.execute(_LEADERS, {"key": LEADER_LOCK}).scalar_one(),
        )
