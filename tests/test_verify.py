"""Each way in which catalog, ledger and store can part is found, named, and repaired."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder, info

from encoders.types import ItemRecord
from indexer import (
    catalog,
    changes,
    collection,
    database,
    entries,
    history,
    indexes,
    reindex,
    sync,
    verify,
)
from indexer.catalog import spec
from indexer.errors import UsageError
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import KEY_FIELD, Point, VectorStore
from indexer.towers import Tower, Towers
from indexer.verify import Comparison, Options, asking, comparison, looking, records, running
from workers import upkeep

ITEMS = 20

Fault = Callable[["World", str], None]

either_store = pytest.mark.parametrize("store", ["edge"], indirect=True)  # nothing hangs on which


@dataclass(kw_only=True)
class World:
    engine: sa.Engine
    store: VectorStore
    towers: Towers
    settings: Settings
    index: Index

    @property
    def tower(self) -> Tower:
        return self.towers.get(self.index.encoder_id, self.index.encoder_uri)

    def run(self, statement: str, **parameters: object) -> None:
        with database.begin(self.engine) as connection:
            connection.execute(sa.text(statement), parameters)

    def unseen(self, *statements: str) -> None:
        """Changes that no trigger sees."""
        for statement in (
            "ALTER TABLE public.items DISABLE TRIGGER ALL",
            *statements,
            "ALTER TABLE public.items ENABLE ALWAYS TRIGGER ALL",
        ):
            for one in _enabled_one_by_one(self.engine, statement):
                self.run(one)

    def drain(self) -> sync.Report:
        return sync.drain(self.engine, self.store, self.towers, self.settings)

    def compare(self, **options: object) -> Comparison:
        return verify.compare(
            self.engine, self.store, self.index, tower=self.tower, options=Options(**options)
        )

    def point(self, key: str) -> dict[str, object]:
        return dict(self.store.fetch(self.index.ref, [key])[key].payload)

    def fence(self) -> int:
        """One that a claim could have taken."""
        with database.begin(self.engine) as connection:
            return connection.scalar(sa.text("SELECT nextval('indexer.fences')"))

    def put(self, key: str, *, payload: Mapping[str, object], salt: str = "") -> None:
        """A point as anyone could write it, with the vectors of a hashing encoder."""
        record = ItemRecord(key=key, features={"title": f"film {key[1:]}"})
        vectors = HashingEncoder(salt=salt).encode_items([record]).vectors
        point = Point(key=key, vectors={"hashing": vectors["hashing"][0]}, payload=payload)
        self.store.write_if_newer(self.index.ref, [point], fence=self.fence(), mode="upsert")


def _enabled_one_by_one(engine: sa.Engine, statement: str) -> list[str]:
    if "ENABLE ALWAYS" not in statement:
        return [statement]
    with database.begin(engine) as connection:
        names = connection.scalars(
            sa.text("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'twinspan%'")
        )
        return [f"ALTER TABLE public.items ENABLE ALWAYS TRIGGER {name}" for name in names]


@pytest.fixture
def world(engine: sa.Engine, store: VectorStore, settings: Settings) -> World:
    """Twenty items in an index that agrees."""
    attached = catalog.attach(engine, spec.BUILTIN)
    facts = info("e1")
    index = indexes.register(
        engine, catalog_id=attached.id, alias="items", encoder=facts, queue="twinspan"
    )
    store.ensure_collection(collection.spec_of(index, attached, facts.vectors))
    for _ in reindex.fill(engine, index):
        pass
    made = World(
        engine=engine, store=store, towers=Towers(settings), settings=settings, index=index
    )
    made.towers.add("e1", HashingEncoder())
    made.run(
        "INSERT INTO public.items (id, title, attributes)"
        " SELECT 'k' || n, 'film ' || n, '{\"genres\": [\"Drama\"], \"year\": 1999}'"
        " FROM generate_series(0, :last) AS n",
        last=ITEMS - 1,
    )
    made.drain()
    return made


def clean(items: int) -> Comparison:
    return Comparison(items=items, agree=items, vectors=items)


# -- planted faults --------------------------------------------------------------------------------


def insert_unseen(world: World, key: str) -> None:
    world.unseen(f"INSERT INTO public.items (id, title) VALUES ('{key}', 'unseen')")


def update_unseen(world: World, key: str) -> None:
    world.unseen(f"UPDATE public.items SET title = 'unseen' WHERE id = '{key}'")


def update_payload_unseen(world: World, key: str) -> None:
    world.unseen(f"UPDATE public.items SET attributes = '{{}}' WHERE id = '{key}'")


def delete_unseen(world: World, key: str) -> None:
    world.unseen(f"DELETE FROM public.items WHERE id = '{key}'")


def delete_point(world: World, key: str) -> None:
    world.store.delete_if_newer(world.index.ref, [key], fence=world.fence())


def alter_vector(world: World, key: str) -> None:
    world.put(key, payload=world.point(key), salt="other")


def lose_a_write(world: World, key: str) -> None:
    """The store goes back to what it held before the last change."""
    before = world.point(key)
    world.run("UPDATE public.items SET title = 'seen' WHERE id = :key", key=key)
    world.drain()
    world.put(key, payload=before)


def alter_payload(world: World, key: str) -> None:
    payload = {**world.point(key), "genres": ["Horror"]}
    world.store.set_payload_if_newer(world.index.ref, {key: payload}, fence=world.fence())


def empty_payload(world: World, key: str) -> None:
    world.store.set_payload_if_newer(world.index.ref, {key: {KEY_FIELD: key}}, fence=world.fence())


def add_ghost(world: World, key: str) -> None:
    world.put(key, payload={"year": 1999})


def believe_in_nothing(world: World, key: str) -> None:
    world.run(
        "INSERT INTO indexer.entries"
        " (index_id, item_key, wanted, written, lane, changed_at, present)"
        " VALUES (:index, :key, 2, 2, 1, now(), true)",
        index=world.index.id,
        key=key,
    )


def forget(world: World, key: str) -> None:
    world.run("DELETE FROM indexer.entries WHERE item_key = :key", key=key)


def fence_of_the_future(world: World, key: str) -> None:
    """As after the database was restored from a backup: the store would refuse what we write."""
    world.store.set_payload_if_newer(world.index.ref, {key: world.point(key)}, fence=1 << 40)


def ledger(change: str) -> Fault:
    def alter(world: World, key: str) -> None:
        world.run(f"UPDATE indexer.entries SET {change} WHERE item_key = :key", key=key)

    return alter


FAULTS: dict[str, list[Fault]] = {
    "missed_change": [insert_unseen, update_unseen, update_payload_unseen, delete_unseen],
    "missing": [delete_point],
    "stale_vector": [alter_vector, lose_a_write],
    "stale_payload": [alter_payload, empty_payload],
    "ghost": [add_ghost],
    "ledger_wrong": [
        ledger("present = false"),
        ledger("content_hash = 'x'"),
        ledger("payload_hash = 'x'"),
        ledger("written = wanted + 9"),
        believe_in_nothing,
        forget,
        fence_of_the_future,
    ],
}
WITHOUT_ROW = (insert_unseen, add_ghost, believe_in_nothing)


def plant(world: World) -> dict[str, list[str]]:
    """One fault of each kind, each on an item of its own; returns the keys by cause."""
    planted: dict[str, list[str]] = {}
    known = iter(f"k{n}" for n in range(ITEMS))
    new = iter(("a1", "a2", "a3"))
    for cause, faults in FAULTS.items():
        for fault in faults:
            key = next(new if fault in WITHOUT_ROW else known)
            fault(world, key)
            planted.setdefault(cause, []).append(key)
    return planted


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


# -- stored, interrupted and gone on with ----------------------------------------------------------


def run_until(world: World, record: records.Record, *, phase: str, chunks: int) -> None:
    """The process is gone after so many steps of a phase: what was saved is what there is."""
    for now in running.run(world.engine, world.store, world.index, record, tower=world.tower):
        chunks -= now.place.phase == phase
        if not chunks:
            return


@either_store
@pytest.mark.parametrize(("phase", "chunks"), [("rows", 2), ("ledger", 3), ("points", 3)])
def test_an_interrupted_verification_goes_on_and_counts_nothing_twice(
    world: World, phase: str, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SAVE_S", 0.0)
    planted = plant(world)
    world.run("UPDATE public.items SET title = 'on its way' WHERE id = 'k19'")
    options = Options(chunk_items=4)
    record = running.started(world.engine, world.index, options=options)
    run_until(world, record, phase=phase, chunks=chunks)
    resumed = running.resumed(world.engine, world.index, options=options)
    assert (resumed.id, resumed.place.phase) == (record.id, phase)
    for _ in running.run(world.engine, world.store, world.index, resumed, tower=world.tower):
        pass
    found = records.latest(world.engine, world.index.id, mode="once")
    assert found is not None
    assert found.finished_at is not None
    assert found.seen == resumed.seen
    assert found.seen.causes == {cause: len(keys) for cause, keys in planted.items()}
    assert (found.seen.items, found.seen.in_flight) == (ITEMS - 1, 1)  # k19 was not judged
    with pytest.raises(UsageError, match="leave out --resume"):
        running.resumed(world.engine, world.index, options=options)


@either_store
def test_a_repair_is_in_the_history_and_a_second_look_says_zero(world: World) -> None:
    planted = sum(map(len, plant(world).values()))
    wish = asking.Wish(vectors=True, repair=True)
    *_, first = asking.verified(world.engine, world.store, world.towers, world.index, wish)
    assert (first.seen.drift, first.seen.repaired) == (planted, planted)
    [step] = history.of(world.engine)
    assert (step.action, step.index_id) == ("repair", world.index.id)
    assert step.report is not None
    assert step.report["repaired"] == planted
    world.drain()
    wish = asking.Wish(sample=5)
    *_, second = asking.verified(world.engine, world.store, world.towers, world.index, wish)
    assert (second.seen.agree, second.seen.drift) == (ITEMS, 0)
    assert 0 < second.seen.vectors < ITEMS


@either_store
def test_old_verifications_are_trimmed(world: World) -> None:
    for _ in range(4):
        running.started(world.engine, world.index, options=Options())
    assert records.trim(world.engine, kept=2) == 2
    assert records.trim(world.engine, kept=2) == 0


@either_store
def test_a_verification_keeps_to_its_rate(world: World) -> None:
    began = time.monotonic()
    world.compare(chunk_items=5, items_per_s=100)  # rows, entries and points: sixty in all
    assert time.monotonic() - began >= 0.5


# -- upkeep ----------------------------------------------------------------------------------------


def rounds(world: World, **settings: object) -> upkeep.Rounds:
    chosen = world.settings.model_copy(update={"verify_items_per_s": 1_000, **settings})
    return upkeep.Rounds(world.engine, world.store, chosen)


def newest_round(world: World) -> records.Record:
    found = records.latest(world.engine, world.index.id, mode="continuous")
    assert found is not None
    return found


def finish(world: World, going: upkeep.Rounds, *, after: int = 0) -> records.Record:
    """The first round that has finished behind the one with that id."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        going.go_on(0.1)
        found = newest_round(world)
        if found.id > after and found.finished_at is not None:
            return found
    raise AssertionError(newest_round(world))


@either_store
def test_upkeep_finds_drift_round_after_round_and_repairs_where_it_may(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_unseen(world, "new")
    first = finish(world, rounds(world))
    assert (first.seen.causes, first.seen.repaired) == ({"missed_change": 1}, 0)
    second = finish(world, rounds(world, verify_repair=True), after=first.id)
    assert second.seen.repaired == 1
    assert "repair" in {step.action for step in history.of(world.engine)}
    world.drain()
    going = rounds(world)
    third = finish(world, going, after=second.id)
    assert (third.seen.agree, third.seen.drift) == (ITEMS + 1, 0)
    monkeypatch.setattr(upkeep, "ROUND_S", 0.0)
    going._rests_until.clear()
    going.go_on(1)
    assert newest_round(world).id > third.id + 1, "round after round"


@either_store
def test_upkeep_keeps_to_its_rate_and_goes_on_where_another_process_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SAVE_S", 0.0)
    slow = rounds(world, verify_items_per_s=7.0)
    for _ in range(2):
        slow.go_on(1)
    first = newest_round(world)
    assert 0 < first.place.looked <= 3 * 7
    going = rounds(world)
    whole = finish(world, going)
    assert (whole.id, whole.place.looked) == (first.id, 3 * ITEMS)
    assert (whole.seen.agree, whole.seen.drift) == (ITEMS, 0)
    for _ in range(20):
        going.go_on(1)
    assert newest_round(world).id == whole.id, "a small index rests between its rounds"


@dataclass(kw_only=True)
class Shared:
    engine: sa.Engine
    store: VectorStore
    towers: Towers


@either_store
def test_one_thread_of_all_workers_keeps_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_S", "FOLLOW_S"):
        monkeypatch.setattr(upkeep, name, 0.05)
    settings = world.settings.model_copy(update={"verify_items_per_s": 1_000})
    services = Shared(engine=world.engine, store=world.store, towers=world.towers)
    both = [upkeep.Upkeep(settings, services) for _ in range(2)]
    for one in both:
        one.start()
    try:
        until = time.monotonic() + 30
        while not (found := _latest_round(world)) or not found.finished_at:
            assert time.monotonic() < until
            time.sleep(0.02)
        with database.begin(world.engine) as connection:
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :key"
            assert connection.scalar(sa.text(held), {"key": upkeep.UPKEEP_LOCK}) == 1
    finally:
        for one in both:
            one.stop()
    assert (found.seen.agree, found.seen.drift) == (ITEMS, 0)


def _latest_round(world: World) -> records.Record | None:
    return records.latest(world.engine, world.index.id, mode="continuous")
