"""Who leads: the backends that hold the lock of the watchers."""

from __future__ import annotations

import sqlalchemy as sa

from indexer import database
from workers import watch


def leaders(engine: sa.Engine) -> list[int]:
    """Backends that hold the leader's lock."""
    held = sa.text(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = :key"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with database.begin(engine) as connection:
        return list(connection.scalars(held, {"key": watch.LEADER_LOCK}))
