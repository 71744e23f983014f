"""What is claimed first, and what does not starve behind it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from indexer import changes, database, entries
from indexer.indexes import Index
from ledger.world import ack, claim, expire, insert, keys_of, run


def test_deletes_are_claimed_first_then_live_changes_then_backfill(
    engine: sa.Engine, index: Index
) -> None:
    with database.begin(engine) as connection:
        entries.fill(connection, index.id, ["backfilled"])
    insert(engine, "new", "old")
    changes.route(engine, limit=10)
    ack(engine, claim(engine, index))
    run(
        engine,
        "UPDATE indexer.entries SET wanted = wanted + 1, lane = 2 WHERE item_key = 'backfilled'",
    )
    run(engine, "UPDATE public.items SET title = 'x' WHERE id = 'new'")
    run(engine, "DELETE FROM public.items WHERE id = 'old'")
    changes.route(engine, limit=10)
    first = claim(engine, index, limit=1)
    assert "old" in keys_of(first)
    assert {one.lane for one in first.claims if one.key == "old"} == {0}
    assert "new" in keys_of(claim(engine, index, limit=1))


def test_backfill_gets_its_share_under_a_steady_stream_of_changes(
    engine: sa.Engine, index: Index
) -> None:
    with database.begin(engine) as connection:
        entries.fill(connection, index.id, [f"b{n}" for n in range(50)])
    insert(engine, *(f"live{n}" for n in range(100)))
    changes.route(engine, limit=1_000)
    batch = claim(engine, index, limit=16)
    lanes = [one.lane for one in batch.claims]
    assert lanes.count(1) == 16
    assert lanes.count(2) == 2


def test_fresh_changes_do_not_wait_behind_what_lost_workers_left(
    engine: sa.Engine, index: Index
) -> None:
    """Lost twice, 200 items are claimed two at a time; 50 that change now are claimed at once."""
    insert(engine, *(f"k{n:03d}" for n in range(200)))
    changes.route(engine, limit=1_000)
    for _ in range(2):
        while entries.claim(engine, index.id, limit=512, lease_s=60):
            pass
        expire(engine)
    insert(engine, *(f"fresh{n:02d}" for n in range(50)))
    changes.route(engine, limit=1_000)
    two = [keys_of(entries.claim(engine, index.id, limit=512, lease_s=60)) for _ in range(2)]
    fresh = [batch for batch in two if batch[0].startswith("fresh")]
    assert [len(batch) for batch in fresh] == [50]
    assert sum(len(batch) for batch in two) <= 52


@pytest.mark.parametrize("first", [0, 1])
def test_what_lost_workers_left_does_not_starve_while_two_indexes_take_turns(
    engine: sa.Engine, index: Index, first: int
) -> None:
    """Every other fence goes to somebody else, and there is always a fresh change."""
    insert(engine, "lost")
    changes.route(engine, limit=1_000)
    assert entries.claim(engine, index.id, limit=512, lease_s=60)
    expire(engine)
    _burn_fences(engine, first)
    claimed: list[str] = []
    for turn in range(8):
        insert(engine, f"fresh{turn}")
        changes.route(engine, limit=1_000)
        claimed += keys_of(entries.claim(engine, index.id, limit=512, lease_s=60))
        _burn_fences(engine, 1)
    assert "lost" in claimed


def _burn_fences(engine: sa.Engine, count: int) -> None:
    with engine.begin() as connection:
        for _ in range(count):
            connection.exec_driver_sql("SELECT nextval('indexer.fences')")
