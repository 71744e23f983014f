"""What was committed is routed to every active index, some at a time, by one router."""

from __future__ import annotations

import threading

import sqlalchemy as sa

from indexer import changes, database, entries, indexes
from indexer.indexes import Index
from ledger.world import ENCODER, ack, claim, insert, keys_of, run


def test_a_committed_change_reaches_every_active_index_and_no_retired_one(
    engine: sa.Engine, index: Index
) -> None:
    standby = indexes.register(
        engine, catalog_id=index.catalog_id, alias="items", encoder=ENCODER, queue="twinspan"
    )
    retired = indexes.register(
        engine, catalog_id=index.catalog_id, alias="items", encoder=ENCODER, queue="twinspan"
    )
    indexes.set_state(engine, standby.id, "standby")
    indexes.set_state(engine, retired.id, "retired")
    indexes.drop_partition(engine, retired.id)
    insert(engine, "a", "b")
    assert changes.route(engine, limit=100) == 4
    assert changes.route(engine, limit=100) == 0
    assert keys_of(claim(engine, index)) == ["a", "b"]
    assert keys_of(claim(engine, standby)) == ["a", "b"]
    assert entries.claim(engine, retired.id, limit=10, lease_s=60) is None


def test_routing_moves_about_its_limit_at_a_time(engine: sa.Engine, index: Index) -> None:
    insert(engine, *(f"{n:05d}" for n in range(2_500)))
    moved = []
    while n := changes.route(engine, limit=1_000):
        moved.append(n)
    assert sum(moved) == 2_500
    assert max(moved) < 2_000, "a row of the outbox has up to 1,000 keys and is moved whole"


def test_only_one_router_works_at_a_time(engine: sa.Engine, index: Index) -> None:
    insert(engine, "a")
    with database.begin(engine) as other:
        other.execute(sa.text("SELECT pg_advisory_xact_lock(:k)"), {"k": changes.ROUTER_LOCK})
        assert changes.route(engine, limit=10) == 0
    assert changes.route(engine, limit=10) == 1


def test_truncate_marks_every_entry_in_chunks(engine: sa.Engine, index: Index) -> None:
    insert(engine, *(f"{n:03d}" for n in range(250)))
    changes.route(engine, limit=1_000)
    ack(engine, claim(engine, index, limit=1_000))
    run(engine, "TRUNCATE public.items")
    routed = []
    while n := changes.route(engine, limit=100):
        routed.append(n)
    assert routed == [100, 100, 50]
    batch = claim(engine, index, limit=1_000)
    assert len(batch.claims) == 250
    assert {one.lane for one in batch.claims} == {0}


def test_route_and_ack_in_opposite_orders_never_deadlock(engine: sa.Engine, index: Index) -> None:
    keys = [f"{n:04d}" for n in range(400)]
    insert(engine, *keys)
    changes.route(engine, limit=1_000)
    stop, errors = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            run(engine, "UPDATE public.items SET title = title || 'x'")
            try:
                changes.route(engine, limit=1_000)
            except Exception as cause:  # noqa: BLE001 - whatever it is fails the test
                errors.append(cause)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(25):
            batch = entries.claim(engine, index.id, limit=400, lease_s=60)
            if batch:
                ack(engine, batch)
    except Exception as cause:  # noqa: BLE001 - whatever it is fails the test
        errors.append(cause)
    finally:
        stop.set()
        writer.join()
    assert errors == []
