"""The outbox: what the triggers wrote is moved into the ledger of every active index.

Owner of table `changes`. One router works at a time (an advisory lock); everything happens in one
short transaction, so a router that dies has moved nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from indexer import database, tables

ROUTER_LOCK = 7_204_001  # pg_advisory_xact_lock key, one per database

_TRY_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(:key)")

# The oldest rows whose keys add up to the limit, at least one row.
_NEXT = sa.text("""
    SELECT id FROM (
        SELECT id, sum(cardinality(item_keys)) OVER (ORDER BY id) - cardinality(item_keys) AS before
        FROM (
            SELECT id, item_keys FROM indexer.changes
            WHERE item_keys IS NOT NULL AND op <> 'T' ORDER BY id LIMIT :limit
        ) AS oldest
    ) AS summed
    WHERE before < :limit
""")

# Rows are inserted and locked in (index_id, item_key) order, as acks lock them: no deadlock.
_ROUTE = sa.text(f"""
    INSERT INTO indexer.entries AS e (index_id, item_key, lane, changed_at, due_at)
    SELECT i.id, c.item_key, c.lane, c.changed_at, now()
    FROM (
        SELECT catalog_id, item_key COLLATE "C" AS item_key,
               min(CASE op WHEN 'D' THEN 0 ELSE 1 END)::smallint AS lane,
               min(changed_at) AS changed_at
        FROM indexer.changes, unnest(item_keys) AS item_key
        WHERE id = ANY(CAST(:ids AS bigint[])) AND item_key IS NOT NULL
        GROUP BY 1, 2
    ) AS c
    JOIN indexer.indexes AS i ON i.catalog_id = c.catalog_id AND i.state IN {tables.ACTIVE}
    ORDER BY 1, 2
    ON CONFLICT (index_id, item_key) DO UPDATE SET
        wanted = e.wanted + 1,
        lane = CASE WHEN e.wanted > e.written
                    THEN least(e.lane, excluded.lane) ELSE excluded.lane END,
        changed_at = CASE WHEN e.wanted > e.written
                          THEN least(e.changed_at, excluded.changed_at)
                          ELSE excluded.changed_at END,
        due_at = excluded.due_at, attempts = 0, error = NULL, quarantined = false
""")

_FORGET = sa.text("DELETE FROM indexer.changes WHERE id = ANY(CAST(:ids AS bigint[]))")

# A TRUNCATE concerns every entry of its catalog: marked chunk by chunk, and the change's row keeps
# the last key done (as its only item key), so that no transaction grows with the catalog.
_TRUNCATION = sa.text("""
    SELECT id, catalog_id, changed_at, coalesce(item_keys[1], '') AS done_to
    FROM indexer.changes WHERE op = 'T' OR item_keys IS NULL ORDER BY id LIMIT 1
""")
_MARK_TRUNCATED = sa.text(f"""
    WITH gone AS (
        SELECT e.index_id, e.item_key FROM indexer.entries AS e
        JOIN indexer.indexes AS i ON i.id = e.index_id
        WHERE i.catalog_id = :catalog_id AND i.state IN {tables.ACTIVE}
          AND e.item_key = ANY(CAST(:keys AS text[]))
        ORDER BY e.index_id, e.item_key FOR UPDATE OF e
    )
    UPDATE indexer.entries AS e
    SET wanted = e.wanted + 1, lane = 0, due_at = now(), attempts = 0,
        error = NULL, quarantined = false,
        changed_at = CASE WHEN e.wanted > e.written
                          THEN least(e.changed_at, :changed_at) ELSE :changed_at END
    FROM gone WHERE e.index_id = gone.index_id AND e.item_key = gone.item_key
      AND e.item_key = ANY(CAST(:keys AS text[]))
""")
_TRUNCATED_KEYS = sa.text(f"""
    SELECT DISTINCT e.item_key FROM indexer.entries AS e
    JOIN indexer.indexes AS i ON i.id = e.index_id
    WHERE i.catalog_id = :catalog_id AND i.state IN {tables.ACTIVE} AND e.item_key > :done_to
    ORDER BY e.item_key LIMIT :limit
""")
_ADVANCE = sa.text("""
    UPDATE indexer.changes SET op = 'T', item_keys = ARRAY[CAST(:done_to AS text)] WHERE id = :id
""")

_WATERMARK = sa.text("SELECT clock_timestamp(), (SELECT max(id) FROM indexer.changes)")
_PENDING_BEFORE = sa.text("""
    SELECT count(*) FROM indexer.changes WHERE catalog_id = :catalog_id AND id <= :change_id
""")
_PENDING_KEYS = sa.text("""
    SELECT coalesce(sum(cardinality(item_keys)), 0), bool_or(op = 'T' OR item_keys IS NULL)
    FROM indexer.changes WHERE catalog_id = :catalog_id
""")
_PENDING_AMONG = sa.text("""
    SELECT key FROM unnest(CAST(:keys AS text[])) AS key
    WHERE EXISTS (
        SELECT FROM indexer.changes
        WHERE catalog_id = :catalog_id AND (op = 'T' OR item_keys IS NULL)
    ) OR key IN (
        SELECT item_key FROM indexer.changes, unnest(item_keys) AS item_key
        WHERE catalog_id = :catalog_id AND op <> 'T'
    )
""")


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """A moment: every change that was committed by then has an id up to `change_id`, or is routed
    already, and was made before `at` (PostgreSQL's clock)."""

    at: datetime
    change_id: int


def route(engine: sa.Engine, *, limit: int) -> int:
    """Move the oldest committed changes, up to about `limit` keys, into `entries` of every index
    of their catalogs that is building, live or standby: `wanted` grows, the most urgent lane wins,
    attempts start anew. Returns the keys moved; 0 when nothing is pending or another router is
    at it. Committed before it returns."""
    with database.begin(engine) as connection:
        if not connection.scalar(_TRY_LOCK, {"key": ROUTER_LOCK}):
            return 0
        return _route_keys(connection, limit) + _route_truncation(connection, limit)


def pending(engine: sa.Engine) -> int:
    """How many change rows wait to be routed, counted up to 1,000."""
    with database.begin(engine) as connection:
        counted = "SELECT count(*) FROM (SELECT 1 FROM indexer.changes LIMIT 1000) AS oldest"
        return connection.scalar(sa.text(counted)) or 0


def oldest_age_s(engine: sa.Engine) -> float | None:
    """Seconds since the oldest change that is not routed yet; None when there is none."""
    with database.begin(engine) as connection:
        age = "SELECT extract(epoch FROM clock_timestamp() - min(changed_at)) FROM indexer.changes"
        seconds = connection.scalar(sa.text(age))
        return None if seconds is None else float(seconds)


def watermark(engine: sa.Engine) -> Watermark:
    """What is committed now."""
    with database.begin(engine) as connection:
        at, change_id = connection.execute(_WATERMARK).one()
        return Watermark(at=at, change_id=change_id or 0)


def pending_before(engine: sa.Engine, catalog_id: int, mark: Watermark) -> int:
    """How many change rows up to the watermark wait to be routed."""
    with database.begin(engine) as connection:
        parameters = {"catalog_id": catalog_id, "change_id": mark.change_id}
        return connection.scalar(_PENDING_BEFORE, parameters) or 0


def pending_keys(engine: sa.Engine, catalog_id: int) -> int | None:
    """How many keys wait to be routed; None while a TRUNCATE does, which concerns all of them."""
    with database.begin(engine) as connection:
        keys, all_of_them = connection.execute(_PENDING_KEYS, {"catalog_id": catalog_id}).one()
        return None if all_of_them else int(keys)


def pending_among(engine: sa.Engine, catalog_id: int, keys: Sequence[str]) -> set[str]:
    """Those of the keys that a change not routed yet names; all of them while a TRUNCATE waits."""
    with database.begin(engine) as connection:
        parameters = {"catalog_id": catalog_id, "keys": list(keys)}
        return set(connection.scalars(_PENDING_AMONG, parameters))


def _route_keys(connection: sa.Connection, limit: int) -> int:
    ids = list(connection.scalars(_NEXT, {"limit": limit}))
    if not ids:
        return 0
    moved = connection.execute(_ROUTE, {"ids": ids}).rowcount
    connection.execute(_FORGET, {"ids": ids})
    return max(moved, len(ids))  # changes of a catalog without an index are simply forgotten


def _route_truncation(connection: sa.Connection, limit: int) -> int:
    change = connection.execute(_TRUNCATION).one_or_none()
    if change is None:
        return 0
    scope = {"catalog_id": change.catalog_id, "changed_at": change.changed_at}
    keys = list(
        connection.scalars(
            _TRUNCATED_KEYS,
            {"catalog_id": change.catalog_id, "done_to": change.done_to, "limit": limit},
        )
    )
    if keys:
        connection.execute(_MARK_TRUNCATED, {**scope, "keys": keys})
    if len(keys) < limit:
        connection.execute(_FORGET, {"ids": [change.id]})
    else:
        connection.execute(_ADVANCE, {"id": change.id, "done_to": keys[-1]})
    return max(len(keys), 1)
