"""Each way in which catalog, ledger and store can part is found, named, and repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder, info

from encoders.types import ItemRecord
from indexer import catalog, collection, database, indexes, reindex, sync, verify
from indexer.catalog import spec
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import KEY_FIELD, Point, VectorStore
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Tower, Towers
from indexer.verify import Comparison, Options

ITEMS = 20

Fault = Callable[["World", str], None]


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


@pytest.fixture(params=["edge", "qdrant"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    made: VectorStore = (
        EdgeStore(tmp_path / "edge") if request.param == "edge" else QdrantStore.in_memory()
    )
    yield made
    made.close()


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
