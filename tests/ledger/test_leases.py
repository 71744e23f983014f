"""Leases and fences: who holds an item acks it; who comes late leaves doubt, and a repair."""

from __future__ import annotations

import sqlalchemy as sa

from indexer import changes, entries, indexes
from indexer.indexes import Index
from ledger.world import ack, claim, expire, insert, keys_of, row, run


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
