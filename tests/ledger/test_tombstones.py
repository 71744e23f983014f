"""What was deleted is forgotten, but not before the store has forgotten it."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from indexer import changes, entries
from indexer.entries import Written
from indexer.indexes import Index
from ledger.world import ack, claim, expire, insert, row, run


def test_purge_removes_old_tombstones_only(engine: sa.Engine, index: Index) -> None:
    insert(engine, "kept", "gone")
    changes.route(engine, limit=10)
    ack(engine, claim(engine, index))
    run(engine, "DELETE FROM public.items WHERE id = 'gone'")
    changes.route(engine, limit=10)
    batch = claim(engine, index)
    gone = [Written(claim=one, present=False) for one in batch.claims]
    entries.ack_if_held(engine, batch, gone, read_at=datetime.now(UTC))
    assert entries.purge(engine, tombstone_s=60) == 0
    run(engine, "UPDATE indexer.entries SET changed_at = changed_at - interval '1 day'")
    assert entries.purge(engine, tombstone_s=60) == 1
    assert row(engine, index, "kept")["present"]


def test_a_tombstone_in_the_store_is_deleted_before_the_ledger_forgets_it(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    claim(engine, index)
    expire(engine)
    run(engine, "DELETE FROM public.items")
    changes.route(engine, limit=10)

    def delete() -> None:
        batch = claim(engine, index)
        gone = [Written(claim=one, present=False) for one in batch.claims]
        assert entries.ack_if_held(engine, batch, gone, read_at=datetime.now(UTC)) == 1

    delete()
    run(
        engine,
        "UPDATE indexer.entries SET changed_at = changed_at - interval '2 days',"
        " lost_at = lost_at - interval '2 days'",
    )
    assert entries.purge(engine, tombstone_s=86_400) == 0
    delete()
    assert entries.purge(engine, tombstone_s=86_400) == 1
