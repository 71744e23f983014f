"""Each way in which catalog, ledger and store can part is found, named, and repaired."""

from __future__ import annotations

import itertools
import threading

import pytest

from indexer import catalog, changes, entries, verify
from indexer.verify import comparison, looking
from verify.planted import plant
from verify.world import ITEMS, World, clean, either_store


def test_every_fault_is_found_with_its_cause_and_repaired(world: World) -> None:
    planted = plant(world)
    found = world.compare()
    assert {cause: sorted(keys) for cause, keys in found.examples.items()} == {
        cause: sorted(keys) for cause, keys in planted.items()
    }
    assert found.drift == sum(map(len, planted.values())) == 17
    assert found.in_flight == 0
    repaired = world.compare(repair=True)
    assert (repaired.causes, repaired.repaired) == (found.causes, 17)
    assert world.drain().failed == 0
    assert world.compare() == clean(ITEMS)  # one more row, one fewer
    assert world.compare(repair=True).repaired == 0


def test_verify_compares_numbers_as_far_as_stores_keep_them() -> None:
    fresh = {"price": 0.1 + 0.2, "tags": ["a", "b"], "ok": True, "n": 1, "at": {"lat": 1.5}}
    assert verify.same_payload({**fresh, "price": 0.3}, fresh)
    for change in ({"price": 0.31}, {"tags": ["a"]}, {"ok": 1}, {"n": 2}, {"at": {"lat": 2.5}}):
        assert not verify.same_payload({**fresh, **change}, fresh), change
    assert not verify.same_payload({"price": 0.3}, fresh)


def test_a_change_on_its_way_is_not_drift_wherever_it_is(world: World) -> None:
    world.run("UPDATE public.items SET title = 'not routed' WHERE id = 'k1'")
    seen = world.compare()
    assert (seen.drift, seen.in_flight, seen.examples) == (0, 1, {"in_flight": ["k1"]})
    changes.route(world.engine, limit=100)
    assert (world.compare().drift, world.compare().in_flight) == (0, 1)
    batch = entries.claim(world.engine, world.index.id, limit=10, lease_s=60)
    assert batch is not None
    assert (world.compare().drift, world.compare().in_flight) == (0, 1)
    entries.release_if_held(world.engine, batch, ["k1"])
    world.drain()
    assert world.compare() == clean(ITEMS)
    world.run("TRUNCATE public.items")
    seen = world.compare()
    assert (seen.items, seen.drift, seen.in_flight) == (0, 0, ITEMS)


@either_store
def test_what_changes_between_the_looks_is_looked_at_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the ledger's first word, and before the rows are read, a change is made and drained:
    the row is new, the entry seen is old, the point is new."""
    read, changed = catalog.read, []

    def change_then_read(*arguments: object) -> object:
        if not changed:
            changed.append(True)
            world.run("UPDATE public.items SET title = 'meanwhile' WHERE id = 'k1'")
            world.run("DELETE FROM public.items WHERE id = 'k2'")
            world.drain()
        return read(*arguments)

    monkeypatch.setattr(looking.catalog, "read", change_then_read)
    assert world.compare() == clean(ITEMS - 1)
    assert changed


@either_store
def test_changes_under_way_are_waited_for(world: World) -> None:
    world.run("UPDATE public.items SET title = 'late' WHERE id = 'k1'")
    drained = threading.Timer(0.3, world.drain)
    drained.start()
    assert world.compare(patience_s=30) == clean(ITEMS)
    drained.join()


def test_writers_and_workers_at_work_are_no_drift(world: World) -> None:
    stop = threading.Event()

    def write() -> None:
        for n in itertools.count():
            if stop.is_set():
                return
            world.run("UPDATE public.items SET title = :title WHERE id = 'k5'", title=f"x{n}")
            world.run("DELETE FROM public.items WHERE id = 'k6'")
            world.run("INSERT INTO public.items (id, title) VALUES ('k6', 'again')")

    def work() -> None:
        while not stop.is_set():
            world.drain()

    busy = [threading.Thread(target=each) for each in (write, work)]
    for each in busy:
        each.start()
    try:
        for _ in range(10):
            seen = world.compare(chunk_items=3)
            assert (seen.drift, seen.agree + seen.in_flight >= ITEMS - 1) == (0, True), seen
    finally:
        stop.set()
        for each in busy:
            each.join()
    world.drain()
    assert world.compare() == clean(ITEMS)


@either_store
def test_what_failed_is_told_from_what_drifted(world: World) -> None:
    world.settings = world.settings.model_copy(update={"max_attempts": 1})
    world.run("UPDATE public.items SET title = 'POISON' WHERE id = 'k1'")
    world.run("""UPDATE public.items SET attributes = '{"year": "none"}' WHERE id = 'k2'""")
    world.drain()
    seen = world.compare(repair=True)
    assert (seen.drift, seen.repaired) == (0, 0)
    assert seen.examples == {"quarantined": ["k1"], "unusable": ["k2"]}
    world.unseen("""UPDATE public.items SET attributes = '{"year": "none"}' WHERE id = 'k3'""")
    assert world.compare(repair=True).examples["missed_change"] == ["k3"]
    world.drain()
    assert world.compare().examples == {"quarantined": ["k1"], "unusable": ["k2", "k3"]}


def test_another_encoders_vectors_and_mark_are_told_from_stale_ones(world: World) -> None:
    for n in range(ITEMS):
        world.put(f"k{n}", payload=world.point(f"k{n}"), salt="other")
    seen = world.compare()
    assert (seen.causes, seen.vectors) == ({"wrong_encoder": ITEMS}, ITEMS)
    assert len(seen.examples["wrong_encoder"]) == comparison.EXAMPLES
    world.run(
        "INSERT INTO indexer.encoders (id, family, uri, vectors)"
        " SELECT 'e2', family, uri, vectors FROM indexer.encoders"
    )
    world.run("UPDATE indexer.indexes SET encoder_id = 'e2'")
    seen = verify.compare(world.engine, world.store, world.index)
    assert seen.causes == {"wrong_encoder": 1}
    assert "names e1" in seen.examples["wrong_encoder"][0]


@either_store
def test_a_share_of_the_vectors_is_encoded_again(world: World) -> None:
    assert 0 < world.compare(share=0.5).vectors < ITEMS
    assert world.compare(share=0.0).vectors == 0


@either_store
def test_an_index_that_is_still_being_filled_has_not_drifted(world: World) -> None:
    world.run("DELETE FROM indexer.entries WHERE item_key < 'k2'")
    world.run("UPDATE indexer.indexes SET backfill_done = false")
    world.store.delete_if_newer(world.index.ref, ["k1"], fence=world.fence())
    seen = world.compare()
    assert (seen.drift, seen.in_flight, seen.agree) == (0, 1, ITEMS - 1)
