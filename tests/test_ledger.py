"""The ledger's promises: leases, fences, lanes, attempts. Real PostgreSQL, no store, no model."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from encoders.types import EncoderInfo, HistoryNeeds, VectorSpec
from indexer import catalog, changes, database, entries, indexes, ledger
from indexer.catalog import spec
from indexer.entries import Batch, Written
from indexer.errors import IndexStateError, UsageError
from indexer.indexes import Index

ENCODER = EncoderInfo(
    id="e" * 40,
    family="content",
    uri="/nowhere",
    vectors=(VectorSpec(name="content", dimension=4),),
    item_features=(),
    user_features=(),
    history=HistoryNeeds(vectors=("content",)),
    facts={},
    metrics={},
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


@pytest.fixture
def index(engine: sa.Engine) -> Index:
    attached = catalog.attach(engine, spec.BUILTIN)
    return indexes.register(
        engine, catalog_id=attached.id, alias="items", encoder=ENCODER, queue="twinspan"
    )


def run(engine: sa.Engine, statement: str, **parameters: object) -> None:
    with database.begin(engine) as connection:
        connection.execute(sa.text(statement), parameters)


def insert(engine: sa.Engine, *keys: str) -> None:
    run(
        engine,
        "INSERT INTO public.items (id, title) SELECT k, k FROM unnest(CAST(:keys AS text[])) AS k",
        keys=list(keys),
    )


def row(engine: sa.Engine, index: Index, key: str) -> sa.RowMapping:
    with database.begin(engine) as connection:
        found = "SELECT * FROM indexer.entries WHERE index_id = :i AND item_key = :k"
        return connection.execute(sa.text(found), {"i": index.id, "k": key}).mappings().one()


def claim(engine: sa.Engine, index: Index, *, limit: int = 100, lease_s: float = 60) -> Batch:
    batch = entries.claim(engine, index.id, limit=limit, lease_s=lease_s)
    assert batch is not None
    return batch


def keys_of(batch: Batch | None) -> list[str]:
    return [] if batch is None else [one.key for one in batch.claims]


def written(batch: Batch, *, content: bytes = b"c") -> list[Written]:
    return [
        Written(claim=one, present=True, content_hash=content, payload_hash=b"p")
        for one in batch.claims
    ]


def ack(engine: sa.Engine, batch: Batch) -> int:
    return entries.ack_if_held(engine, batch, written(batch), read_at=datetime.now(UTC))


def expire(engine: sa.Engine) -> None:
    run(engine, "UPDATE indexer.entries SET lease_until = now() WHERE lease_until IS NOT NULL")


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


def test_an_expired_lease_is_claimed_again_and_a_held_one_is_not(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    first = claim(engine, index)
    assert entries.claim(engine, index.id, limit=10, lease_s=60) is None
    expire(engine)
    second = claim(engine, index)
    assert second.fence > first.fence
    assert second.claims[0].attempts == 2


def test_an_ack_makes_clean_what_it_claimed_and_not_what_changed_since(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a", "b")
    changes.route(engine, limit=10)
    batch = claim(engine, index)
    run(engine, "UPDATE public.items SET title = 'later' WHERE id = 'b'")
    changes.route(engine, limit=10)
    assert ack(engine, batch) == 2
    assert keys_of(claim(engine, index)) == ["b"]
    assert row(engine, index, "a")["content_hash"] == b"c"


def test_hashes_leave_the_ledger_with_a_claim_and_come_back_with_its_ack(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    ack(engine, claim(engine, index))
    run(engine, "UPDATE public.items SET title = 'x' WHERE id = 'a'")
    changes.route(engine, limit=10)
    holder = claim(engine, index)
    assert holder.claims[0].content_hash == b"c"
    assert row(engine, index, "a")["content_hash"] is None
    expire(engine)
    assert claim(engine, index).claims[0].content_hash is None, "a lost holder may have written"


def test_a_late_ack_changes_nothing_but_asks_for_a_repair_in_full(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    late = claim(engine, index)
    expire(engine)
    holder = claim(engine, index)
    assert ack(engine, late) == 0
    assert ack(engine, holder) == 1
    repair = claim(engine, index)
    assert keys_of(repair) == ["a"]
    assert repair.claims[0].content_hash is None, "a kept hash would make the repair a no-op"
    assert ack(engine, repair) == 1
    assert entries.claim(engine, index.id, limit=10, lease_s=60) is None


def test_a_late_ack_after_the_holders_ack_asks_for_a_repair_in_full(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    late = claim(engine, index)
    expire(engine)
    assert ack(engine, claim(engine, index)) == 1
    assert ack(engine, late) == 0
    assert claim(engine, index).claims[0].content_hash is None


def test_a_vanished_holder_leaves_doubt_for_as_long_as_its_write_may_arrive(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    assert not claim(engine, index).claims[0].doubtful
    expire(engine)
    holder = claim(engine, index)
    assert holder.claims[0].doubtful
    ack(engine, holder)
    run(engine, "DELETE FROM public.items")
    changes.route(engine, limit=10)
    holder = claim(engine, index)
    assert holder.claims[0].doubtful, "the holder before the last may still be out there"
    entries.release_if_held(engine, holder, ["a"])
    run(engine, "UPDATE indexer.entries SET lost_at = lost_at - interval '25 hours'")
    assert not claim(engine, index).claims[0].doubtful


def test_an_interrupted_write_leaves_doubt_and_an_untouched_batch_does_not(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    entries.release_if_held(engine, claim(engine, index), ["a"])
    holder = claim(engine, index)
    assert not holder.claims[0].doubtful
    entries.release_if_held(engine, holder, ["a"], doubtful=True)
    assert claim(engine, index).claims[0].doubtful


def test_a_late_ack_of_an_item_that_the_ledger_forgot_asks_for_a_repair(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    late = claim(engine, index)
    run(engine, "DELETE FROM indexer.entries")
    assert ack(engine, late) == 0
    assert keys_of(claim(engine, index)) == ["a"]
    indexes.set_state(engine, index.id, "retired")
    indexes.drop_partition(engine, index.id)
    assert ack(engine, late) == 0


def test_an_outage_gives_leases_and_attempts_back(engine: sa.Engine, index: Index) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    batch = claim(engine, index)
    assert entries.release_if_held(engine, batch, ["a"]) == 1
    again = claim(engine, index)
    assert again.claims[0].attempts == 1
    assert entries.release_if_held(engine, batch, ["a"]) == 0, "the old fence releases nothing"
    assert entries.release_if_held(engine, again, ["a"], pause_s=60) == 1
    assert entries.claim(engine, index.id, limit=10, lease_s=60) is None


def fail(engine: sa.Engine, batch: Batch, *, max_attempts: int = 2) -> int:
    errors = {one.key: "it hurts\x00" for one in batch.claims}
    return entries.fail_if_held(
        engine, batch, errors, max_attempts=max_attempts, backoff_s=0, backoff_max_s=0
    )


def test_an_item_is_quarantined_after_its_own_attempts_and_freed_by_a_change(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    assert fail(engine, claim(engine, index)) == 0
    assert fail(engine, claim(engine, index)) == 1
    assert entries.claim(engine, index.id, limit=10, lease_s=60) is None
    (failure,) = ledger.failures(engine)
    assert (failure.key, failure.quarantined, failure.attempts) == ("a", True, 2)
    assert failure.error == "it hurts�"
    run(engine, "UPDATE public.items SET title = 'mended' WHERE id = 'a'")
    changes.route(engine, limit=10)
    assert claim(engine, index).claims[0].attempts == 1


def test_a_failure_of_a_row_that_changed_meanwhile_is_not_charged(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    batch = claim(engine, index)
    run(engine, "UPDATE public.items SET title = 'mended' WHERE id = 'a'")
    changes.route(engine, limit=10)
    assert fail(engine, batch, max_attempts=1) == 0
    assert claim(engine, index).claims[0].attempts == 1


def test_backoff_grows_and_is_bounded(engine: sa.Engine, index: Index) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    waits = []
    for _ in range(4):
        batch = claim(engine, index)
        entries.fail_if_held(
            engine, batch, {"a": "no"}, max_attempts=99, backoff_s=10, backoff_max_s=25
        )
        now = datetime.now(UTC)
        waits.append((row(engine, index, "a")["due_at"] - now).total_seconds())
        run(engine, "UPDATE indexer.entries SET due_at = now()")
    assert 7 <= waits[0] <= 12.5
    assert 14 <= waits[1] <= 25
    assert all(18 <= wait <= 31.25 for wait in waits[2:])


def test_retry_frees_failures_of_all_or_of_the_named(engine: sa.Engine, index: Index) -> None:
    insert(engine, "a", "b")
    changes.route(engine, limit=10)
    assert fail(engine, claim(engine, index), max_attempts=1) == 2
    assert entries.retry(engine, index_id=index.id, keys=["a"]) == 1
    assert keys_of(claim(engine, index)) == ["a"]
    assert entries.retry(engine) == 1


def test_crashes_are_bisected_until_the_culprit_is_claimed_alone_and_quarantined(
    engine: sa.Engine, index: Index
) -> None:
    """A worker dies whenever it holds "poison"; nobody else may suffer for it."""
    insert(engine, *(f"k{n:03d}" for n in range(300)), "poison")
    changes.route(engine, limit=1_000)
    sizes = []
    for _ in range(200):
        batch = entries.claim(engine, index.id, limit=512, lease_s=60, deaths=5)
        if batch is None:
            break
        if "poison" in keys_of(batch):
            sizes.append(len(batch.claims))
            expire(engine)
        else:
            ack(engine, batch)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    (failure,) = ledger.failures(engine)
    assert failure.key == "poison"
    assert failure.quarantined
    assert ledger.summary(engine)[index.id].present == 300


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


def test_retiring_an_index_drops_its_part_of_the_ledger(engine: sa.Engine, index: Index) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    indexes.set_state(engine, index.id, "retired")
    indexes.drop_partition(engine, index.id)
    assert ledger.summary(engine) == {}
    assert indexes.get(engine, index.id).state == "retired"
    assert indexes.active(engine) == []


def test_unknown_indexes_and_bad_aliases_are_named(engine: sa.Engine, index: Index) -> None:
    with pytest.raises(IndexStateError, match="no index 999"):
        indexes.get(engine, 999)
    with pytest.raises(IndexStateError, match="'movies'"):
        indexes.live(engine, "movies")
    with pytest.raises(UsageError, match="alias"):
        indexes.register(
            engine, catalog_id=index.catalog_id, alias="a/b", encoder=ENCODER, queue="twinspan"
        )


def test_at_most_one_index_is_live_per_alias(engine: sa.Engine, index: Index) -> None:
    second = indexes.register(
        engine, catalog_id=index.catalog_id, alias="items", encoder=ENCODER, queue="twinspan"
    )
    for one in (index, second):
        with database.begin(engine) as connection:
            indexes.make_live(connection, one.id, "items")
    assert indexes.live(engine, "items").id == second.id
    assert indexes.get(engine, index.id).state == "standby"
