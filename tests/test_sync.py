"""From a commit to the store: the whole drain on real PostgreSQL and both embedded stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hashing import HashingEncoder, info

from indexer import (
    catalog,
    collection,
    database,
    entries,
    filters,
    indexes,
    ledger,
    reindex,
    rollout,
    sync,
    verify,
)
from indexer.catalog import spec
from indexer.errors import IndexStateError, StoreUnavailable
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Towers


@dataclass(kw_only=True)
class World:
    engine: sa.Engine
    store: VectorStore
    encoder: HashingEncoder
    towers: Towers
    settings: Settings
    index: Index

    def run(self, statement: str, **parameters: object) -> None:
        with database.begin(self.engine) as connection:
            connection.execute(sa.text(statement), parameters)

    def insert(self, *keys: str, title: str = "") -> None:
        for start in range(0, len(keys), 1_000):
            self.run(
                "INSERT INTO public.items (id, title, attributes)"
                " SELECT k, coalesce(nullif(:title, ''), 'film ' || k), '{\"genres\": [\"Drama\"]}'"
                " FROM unnest(CAST(:keys AS text[])) AS k",
                keys=list(keys[start : start + 1_000]),
                title=title,
            )

    def drain(self, **arguments: object) -> sync.Report:
        return sync.drain(self.engine, self.store, self.towers, self.settings, **arguments)

    def compare(self, index: Index | None = None) -> verify.Comparison:
        index = index or self.index
        tower = self.towers.get(index.encoder_id, index.encoder_uri)
        return verify.compare(self.engine, self.store, index, tower=tower)

    def assert_agrees(self, items: int, index: Index | None = None) -> None:
        seen = self.compare(index)
        assert (seen.items, seen.agree, seen.drift) == (items, items, 0), seen

    def expire(self) -> None:
        self.run("UPDATE indexer.entries SET lease_until = now() WHERE lease_until IS NOT NULL")


def build(world: World, encoder: HashingEncoder, encoder_id: str) -> Index:
    attached = catalog.get(world.engine, "items")
    facts = info(encoder_id)
    world.towers.add(encoder_id, encoder)
    index = indexes.register(
        world.engine, catalog_id=attached.id, alias="items", encoder=facts, queue="twinspan"
    )
    world.store.ensure_collection(collection.spec_of(index, attached, facts.vectors))
    for _ in reindex.fill(world.engine, index):
        pass
    return index


@pytest.fixture
def world(engine: sa.Engine, store: VectorStore, settings: Settings) -> World:
    catalog.attach(engine, spec.BUILTIN)
    encoder = HashingEncoder()
    made = World(
        engine=engine,
        store=store,
        encoder=encoder,
        towers=Towers(settings),
        settings=settings.model_copy(update={"backoff_s": 0.0, "gate_wait_s": 0.0}),
        index=None,  # pyright: ignore[reportArgumentType] - the next line
    )
    made.index = build(made, encoder, "e1")
    return made


def test_what_is_committed_is_in_the_store_after_a_drain(world: World) -> None:
    world.insert(*(f"k{n}" for n in range(1_500)))
    report = world.drain()
    assert (report.encoded, report.failed, report.lost) == (1_500, 0, 0)
    world.assert_agrees(1_500)
    world.run("UPDATE public.items SET title = 'changed ' || id WHERE id < 'k2'")
    world.run("DELETE FROM public.items WHERE id >= 'k8'")
    world.insert("new")
    world.drain()
    left = world.store.count(world.index.ref)
    world.assert_agrees(left)
    assert left < 1_500


def test_a_drain_with_nothing_to_do_touches_nothing(world: World) -> None:
    world.insert("a")
    world.drain()
    report = world.drain()
    assert (report.items, report.batches, report.routed) == (0, 0, 0)


def test_unchanged_content_is_not_encoded_again_and_a_changed_payload_alone_is_written(
    world: World,
) -> None:
    world.insert("a", "b")
    world.drain()
    before = world.encoder.encoded
    world.run("UPDATE public.items SET title = title || ' '")
    world.run("UPDATE public.items SET title = rtrim(title)")
    report = world.drain()
    assert (report.skipped, report.encoded) == (2, 0)
    world.run(
        "UPDATE public.items SET attributes = attributes || '{\"year\": 1999}' WHERE id = 'a'"
    )
    report = world.drain()
    assert report.encoded + report.payload_only == 1
    assert world.encoder.encoded <= before + 1
    world.assert_agrees(2)


def test_truncate_empties_the_index(world: World) -> None:
    world.insert(*(f"k{n}" for n in range(100)))
    world.drain()
    world.run("TRUNCATE public.items")
    assert world.drain().deleted == 100
    world.assert_agrees(0)
    world.insert("k1")
    world.drain()
    world.assert_agrees(1)


def test_one_poison_item_in_512_harms_only_itself_and_returns_after_a_fix(world: World) -> None:
    world.settings = world.settings.model_copy(update={"max_attempts": 1})
    world.insert(*(f"k{n:03d}" for n in range(511)))
    world.insert("bad", title="POISON")
    report = world.drain()
    assert (report.encoded, report.quarantined) == (511, 1)
    assert world.encoder.passes < 60, "bisection, not one by one"
    (failure,) = ledger.failures(world.engine)
    assert failure.key == "bad"
    assert "is poison" in failure.error
    assert world.compare().quarantined == 1
    world.run("UPDATE public.items SET title = 'cured' WHERE id = 'bad'")
    assert world.drain().encoded == 1
    world.assert_agrees(512)


def test_a_vector_that_is_not_finite_never_reaches_the_store(world: World) -> None:
    world.settings = world.settings.model_copy(update={"max_attempts": 1})
    world.insert(*(f"k{n:03d}" for n in range(511)))
    world.insert("bad", title="NAN")
    report = world.drain()
    assert (report.encoded, report.quarantined) == (511, 1)
    assert "not finite" in ledger.failures(world.engine)[0].error
    world.run("UPDATE public.items SET title = 'cured' WHERE id = 'bad'")
    world.drain()
    world.assert_agrees(512)


def test_a_failing_item_is_tried_as_often_as_the_setting_says(world: World) -> None:
    world.settings = world.settings.model_copy(update={"max_attempts": 3})
    world.insert("bad", title="POISON")
    report = world.drain()
    assert (report.failed, report.quarantined) == (3, 1)
    assert ledger.failures(world.engine)[0].attempts == 3


def test_a_tower_that_fails_on_everything_charges_nobody(world: World) -> None:
    world.insert("a", "b")
    world.encoder.broken = True
    report = world.drain()
    assert report.released == 2
    assert "no item is charged" in report.outages[0]
    assert ledger.failures(world.engine) == []
    world.encoder.broken = False
    world.run("UPDATE indexer.entries SET due_at = now()")
    world.drain()
    world.assert_agrees(2)


def test_rows_that_cannot_be_indexed_are_refused_alone(world: World) -> None:
    world.settings = world.settings.model_copy(update={"max_attempts": 1, "payload_limit": 1_000})
    world.insert("a", "b")
    world.run("UPDATE public.items SET title = repeat('x', 5000) WHERE id = 'b'")
    report = world.drain()
    assert (report.encoded, report.quarantined) == (1, 1)
    assert "payload_limit" in ledger.failures(world.engine)[0].error


class Outage:
    """A store that is out of reach for the next calls of one verb; everything else is the real
    store."""

    def __init__(self, store: VectorStore, verb: str, *, calls: int, after: bool) -> None:
        self._store, self._verb, self._after = store, verb, after
        self.left = calls

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._store, name)
        return self._failing(attribute) if name == self._verb else attribute

    def _failing(self, verb: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if self.left <= 0:
                return verb(*arguments, **named)
            self.left -= 1
            if self._after:
                verb(*arguments, **named)
            raise StoreUnavailable("the store is out of reach")

        return call


@pytest.mark.parametrize("verb", ["write_if_newer", "delete_if_newer", "flush"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_outage_of_the_store_costs_time_and_nothing_else(
    world: World, verb: str, after: bool
) -> None:
    world.insert(*(f"k{n}" for n in range(100)))
    world.drain()
    world.run("UPDATE public.items SET title = 'changed ' || id WHERE id < 'k5'")
    world.run("DELETE FROM public.items WHERE id >= 'k8'")
    real = world.store
    world.store = Outage(real, verb, calls=3, after=after)  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(4):
        report = world.drain()
        world.run("UPDATE indexer.entries SET due_at = now()")
    assert report.outages == []
    world.store = real
    assert ledger.failures(world.engine) == []
    world.assert_agrees(world.store.count(world.index.ref))


@pytest.mark.parametrize("steps", ["claimed", "encoded", "written"])
def test_whatever_a_lost_worker_did_the_next_one_puts_right(world: World, steps: str) -> None:
    """The first worker dies between two steps (an exception nobody handles), in mid-change."""
    world.insert(*(f"k{n}" for n in range(50)))
    world.drain()
    world.run("UPDATE public.items SET title = 'B ' || id")

    def die(*_: object, **__: object) -> None:
        raise Killed

    targets = {
        "claimed": "catalog.read",
        "encoded": "writing.write",
        "written": "entries.ack_if_held",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"indexer.{targets[steps]}", die)
        with pytest.raises(Killed):
            world.drain()
    world.run("UPDATE public.items SET title = 'film ' || id")  # back to what the ledger knew
    world.drain()
    world.expire()
    world.drain()
    world.assert_agrees(50)


def test_a_zombie_can_neither_overwrite_nor_resurrect(world: World) -> None:
    world.insert("stale", "deleted")
    world.drain()
    world.run("UPDATE public.items SET title = 'zombie view'")
    asleep, awake, encoder = threading.Event(), threading.Event(), world.encoder

    def sleep(_: object) -> None:
        asleep.set()
        assert awake.wait(30)

    encoder.before = sleep
    zombie = threading.Thread(target=world.drain)
    zombie.start()
    assert asleep.wait(30)
    encoder.before = None
    world.towers.add("e1", encoder)  # a process of its own would have its own lock
    world.expire()
    world.run("UPDATE public.items SET title = 'truth' WHERE id = 'stale'")
    world.run("DELETE FROM public.items WHERE id = 'deleted'")
    world.drain()
    world.assert_agrees(1)
    awake.set()
    zombie.join(30)
    world.assert_agrees(1)
    world.drain()
    world.assert_agrees(1)


class Killed(BaseException):
    """Nothing handles it, as nothing handles a SIGKILL."""


class Late(Outage):
    """Writes reach the store only when `arrive` is called; their callers wait, die or give up."""

    def __init__(self, store: VectorStore, verb: str, error: type[BaseException]) -> None:
        super().__init__(store, verb, calls=1, after=False)
        self.error = error
        self.held: list[Callable[[], object]] = []

    def _failing(self, verb: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if self.left <= 0:
                return verb(*arguments, **named)
            self.left -= 1
            self.held.append(lambda: verb(*arguments, **named))
            raise self.error("on its way")

        return call

    def arrive(self) -> None:
        for write in self.held:
            write()


def lose(world: World, verb: str, error: type[BaseException]) -> Late:
    """A drain whose first call of `verb` is on its way for long: its process is gone, or gave up.
    The store works again afterwards, for those who come later."""
    real = world.store
    late = world.store = Late(real, verb, error)  # pyright: ignore[reportAttributeAccessIssue]
    if error is Killed:
        with pytest.raises(Killed):
            world.drain()
        world.expire()
    else:
        assert world.drain().outages
        world.run("UPDATE indexer.entries SET due_at = now()")
    world.store = real
    assert late.held
    return late


@pytest.mark.parametrize("error", [Killed, StoreUnavailable])
@pytest.mark.parametrize("routed", [False, True], ids=["delete", "write, then delete"])
def test_a_first_insert_that_arrives_after_the_delete_brings_nothing_back(
    world: World, error: type[BaseException], routed: bool
) -> None:
    world.insert("a", "b")
    late = lose(world, "write_if_newer", error)
    if routed:
        world.drain()
        world.assert_agrees(2)
    world.run("DELETE FROM public.items WHERE id = 'a'")
    world.drain()
    world.assert_agrees(1)
    late.arrive()
    world.assert_agrees(1)
    world.insert("a")
    world.drain()
    late.arrive()
    world.assert_agrees(2)


@pytest.mark.parametrize("error", [Killed, StoreUnavailable])
@pytest.mark.parametrize("arrives", ["at once", "later"])
def test_an_item_whose_delete_was_lost_and_that_came_back_is_there(
    world: World, error: type[BaseException], arrives: str
) -> None:
    world.insert("a", "b")
    world.drain()
    world.run("DELETE FROM public.items WHERE id = 'a'")
    late = lose(world, "delete_if_newer", error)
    if arrives == "at once":
        late.arrive()
    world.insert("a")
    world.drain()
    world.assert_agrees(2)
    late.arrive()
    world.assert_agrees(2)


def test_a_point_that_vanished_is_written_again_when_marked(world: World) -> None:
    world.insert("a")
    world.drain()
    world.store.delete_if_newer(world.index.ref, ["a"], fence=2**40)
    entries.mark(world.engine, world.index.id, ["a"], lane=1)
    world.drain()
    world.assert_agrees(1)


def test_a_tombstone_is_gone_from_the_store_when_the_ledger_forgets_it(world: World) -> None:
    world.insert("a")
    lose(world, "write_if_newer", Killed)
    world.run("DELETE FROM public.items")
    world.drain()
    buried = world.store.fetch(world.index.ref, ["a"])
    assert buried == {}
    ago = "UPDATE indexer.entries SET changed_at = now() - interval '9 days',"
    world.run(f"{ago} lost_at = now() - interval '9 days'")
    assert entries.purge(world.engine, tombstone_s=86_400) == 0
    world.drain()
    assert entries.purge(world.engine, tombstone_s=86_400) == 1
    world.assert_agrees(0)


def test_a_stop_gives_the_batch_back_at_once(world: World) -> None:
    stop = threading.Event()
    world.insert(*(f"k{n}" for n in range(10)))
    world.encoder.before = lambda _: stop.set()
    report = world.drain(stop=stop)
    assert report.released == 10
    world.encoder.before = None
    assert world.drain().encoded == 10


def test_a_batch_too_slow_for_its_lease_writes_nothing(world: World) -> None:
    world.settings = world.settings.model_copy(
        update={"lease_s": 1.0, "store_timeout_s": 0.999, "max_attempts": 1}
    )
    world.insert("slow", title="SLOW")
    report = world.drain()
    assert world.store.count(world.index.ref) == 0
    assert report.quarantined == 1
    assert "too long for lease_s" in ledger.failures(world.engine)[0].error


def test_an_item_whose_worker_stood_still_is_charged_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a SIGSTOP: the lease is used up, but not by the tower."""
    world.settings = world.settings.model_copy(
        update={"lease_s": 1.0, "store_timeout_s": 0.5, "max_attempts": 1}
    )
    world.insert("innocent")
    real = catalog.read

    def read_late(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.6)
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "read", read_late)
        report = world.drain()
    assert report.released == 1
    assert "too long for lease_s" in report.outages[0]
    assert ledger.failures(world.engine) == []
    assert world.store.count(world.index.ref) == 0
    time.sleep(sync.OUTAGE_PAUSE_S)
    assert world.drain().encoded == 1


def test_an_index_whose_encoder_is_missing_is_left_alone_and_others_go_on(world: World) -> None:
    attached = catalog.get(world.engine, "items")
    orphan = indexes.register(
        world.engine,
        catalog_id=attached.id,
        alias="orphan",
        encoder=info("f" * 40, uri=str(world.settings.data_dir / "nowhere")),
        queue="twinspan",
    )
    world.insert("a")
    report = world.drain()
    assert f"index {orphan.id}" in report.outages[0]
    world.assert_agrees(1)


def test_a_second_index_is_built_by_the_same_drain_and_promoted(world: World) -> None:
    world.insert(*(f"k{n}" for n in range(200)))
    world.drain()
    first = rollout.promote(world.engine, world.store, world.towers, world.settings, world.index.id)
    assert (first.state, world.store.aliases()) == ("live", {"items": first.collection})
    second = build(world, HashingEncoder(salt="other"), "e2")
    with pytest.raises(IndexStateError, match="200 items"):
        rollout.promote(world.engine, world.store, world.towers, world.settings, second.id)
    world.run("UPDATE public.items SET title = 'during the build' WHERE id = 'k7'")
    world.run("DELETE FROM public.items WHERE id = 'k8'")
    world.drain()
    world.assert_agrees(199)
    world.assert_agrees(199, second)
    live = rollout.promote(world.engine, world.store, world.towers, world.settings, second.id)
    assert world.store.aliases() == {"items": live.collection}
    assert indexes.get(world.engine, first.id).state == "standby"
    world.insert("later")
    world.drain()
    world.assert_agrees(200)
    world.assert_agrees(200, second)
    with pytest.raises(IndexStateError, match="is live"):
        rollout.retire(world.engine, world.store, second.id)
    rollout.retire(world.engine, world.store, first.id)
    assert world.store.collections() == [live.collection]
    world.insert("last")
    world.drain()
    world.assert_agrees(201, second)


def test_a_fresh_change_of_the_live_index_waits_for_one_batch_of_a_backfill(world: World) -> None:
    world.insert(*(f"k{n}" for n in range(700)))
    world.drain()
    rollout.promote(world.engine, world.store, world.towers, world.settings, world.index.id)
    fresh_at: list[bool] = []

    def before(_: object) -> None:
        if not fresh_at:
            world.insert("fresh")
        fresh_at.append("fresh" in world.store.fetch(world.index.ref, ["fresh"]))

    second = build(world, HashingEncoder(salt="2", before=before), "e2")
    world.drain(index_id=second.id)
    assert fresh_at[:2] == [False, True]
    world.assert_agrees(701)
    world.assert_agrees(701, second)


def test_a_backfill_goes_on_where_it_was_interrupted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reindex, "FILL_KEYS", 100)
    world.insert(*(f"k{n:04d}" for n in range(450)))
    attached = catalog.get(world.engine, "items")
    world.towers.add("e2", HashingEncoder(salt="2"))
    second = indexes.register(
        world.engine, catalog_id=attached.id, alias="items", encoder=info("e2"), queue="twinspan"
    )
    world.store.ensure_collection(collection.spec_of(second, attached, info("e2").vectors))
    world.drain()
    interrupted = reindex.fill(world.engine, second)
    assert [next(interrupted), next(interrupted)] == [100, 200]
    interrupted.close()
    assert not reindex.progress(world.engine, second.id).filled
    assert list(reindex.fill(world.engine, second)) == [100, 200, 250]
    assert reindex.progress(world.engine, second.id).filled
    world.drain()
    assert reindex.progress(world.engine, second.id).complete
    world.assert_agrees(450, second)


def test_stored_vectors_are_what_the_tower_gives(world: World) -> None:
    world.insert("a")
    world.drain()
    stored = world.store.fetch(world.index.ref, ["a"], vectors=["hashing"])["a"]
    fresh = world.encoder.encode_items([_record(world, "a")]).vectors["hashing"][0]
    assert np.array_equal(stored.vectors["hashing"], fresh)


def _record(world: World, key: str):
    from encoders.types import ItemRecord

    item = catalog.read(world.engine, catalog.get(world.engine, "items"), [key])[key]
    return ItemRecord(key=key, features=item.features)


def test_a_changed_description_reaches_collections_that_exist(world: World) -> None:
    world.insert("a", "b")
    world.drain()
    described = spec.BUILTIN.model_dump(mode="json")
    described["filters"]["subtitle"] = {"kind": "keyword", "column": "attributes", "path": ["sub"]}
    described["returned"]["subtitle"] = {"column": "attributes", "path": ["sub"]}
    world.run(
        "UPDATE public.items SET attributes = attributes || '{\"sub\": \"x\"}' WHERE id = 'a'"
    )
    world.drain()
    catalog.attach(world.engine, spec.parse(described, name="described anew"))
    report = world.drain()
    assert report.payload_only == 1, "only what differs is written, and nothing is encoded"
    assert report.encoded == 0
    status = world.store.status(world.index.collection)
    assert status.spec.fields["subtitle"] == "keyword"
    assert "subtitle" in status.spec.metadata["returned"]
    where = filters.parse({"subtitle": "x"}, status.spec.fields)
    assert world.store.count(world.index.ref, where) == 1
    world.assert_agrees(2)
    assert indexes.get(world.engine, world.index.id).spec_version == 2
