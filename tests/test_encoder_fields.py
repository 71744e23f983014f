"""Payload fields that an encoder stores beside its vectors, whatever changes about an item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder, info

from encoders.types import EncodedItems, ItemRecord
from indexer import catalog, collection, database, filters, indexes, reindex, sync, verify
from indexer.catalog import spec
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Towers

DESCRIBED = {
    "name": "items",
    "table": "public.items",
    "key": "id",
    "features": {"title": "text"},
    "filters": {"year": {"kind": "integer", "from": "attributes.year"}},
    "returned": {"title": "title", "year": "attributes.year"},
}


class NamingEncoder(HashingEncoder):
    """Also gives each item a semantic ID: the lengths of its title's words."""

    payload_fields = ("_hashing_id", "_hashing_words")

    def encode_items(self, records: Sequence[ItemRecord]) -> EncodedItems:
        titles = [str(record.features.get("title") or "").split() for record in records]
        return EncodedItems(
            vectors=super().encode_items(records).vectors,
            payload=[
                {"_hashing_id": [len(word) for word in words], "_hashing_words": len(words)}
                for words in titles
            ],
        )


@dataclass(kw_only=True)
class World:
    engine: sa.Engine
    store: VectorStore
    settings: Settings
    encoder: NamingEncoder
    towers: Towers
    index: Index

    def run(self, statement: str) -> None:
        with database.begin(self.engine) as connection:
            connection.exec_driver_sql(statement)

    def drain(self) -> sync.Report:
        return sync.drain(self.engine, self.store, self.towers, self.settings)

    def seen(self, index: Index | None = None) -> verify.Comparison:
        tower = self.towers.get("naming", "")
        return verify.compare(self.engine, self.store, index or self.index, tower=tower)

    def stored(self, key: str) -> dict[str, object]:
        return dict(self.store.fetch(self.index.ref, [key])[key].payload)


def build(world: World) -> Index:
    attached = catalog.get(world.engine, "items")
    index = indexes.register(
        world.engine, catalog_id=attached.id, alias="items", encoder=info("naming"), queue="q"
    )
    world.store.ensure_collection(collection.spec_of(index, attached, world.encoder.vectors))
    for _ in reindex.fill(world.engine, index):
        pass
    return index


@pytest.fixture
def world(engine: sa.Engine, store: VectorStore, settings: Settings) -> World:
    """Two items, indexed."""
    catalog.attach(engine, spec.parse(DESCRIBED, name="test"))
    encoder, towers = NamingEncoder(), Towers(settings)
    towers.add("naming", encoder)
    made = World(
        engine=engine,
        store=store,
        settings=settings,
        encoder=encoder,
        towers=towers,
        index=None,  # pyright: ignore[reportArgumentType] - the next line
    )
    made.index = build(made)
    made.run(
        "INSERT INTO public.items (id, title, attributes) VALUES"
        """ ('a', 'to be or', '{"year": 1990}'), ('b', 'not to', '{"year": 1990}')"""
    )
    assert made.drain().encoded == 2
    return made


def test_they_stay_when_only_a_filter_column_changes(world: World) -> None:
    before = world.encoder.encoded
    for year in (1999, 2001):
        world.run(f"UPDATE public.items SET attributes = '{{\"year\": {year}}}' WHERE id = 'a'")
        report = world.drain()
        assert (report.payload_only, report.encoded) == (1, 0)
    assert world.encoder.encoded == before, "what did not change is not encoded again"
    stored = world.stored("a")
    assert (stored["_hashing_id"], stored["_hashing_words"]) == ([2, 2, 2], 3)
    assert (stored["title"], stored["year"]) == ("to be or", 2001)
    where = filters.parse({"year": 2001}, {"year": "integer"})
    assert world.store.count(world.index.ref, where) == 1
    seen = world.seen()
    assert (seen.items, seen.agree, seen.drift, seen.vectors) == (2, 2, 0, 2)


def test_they_change_with_the_content(world: World) -> None:
    world.run("UPDATE public.items SET title = 'a question' WHERE id = 'a'")
    assert world.drain().encoded == 1
    assert world.stored("a")["_hashing_id"] == [1, 8]
    assert world.seen().drift == 0


@pytest.mark.parametrize("lost", [{}, {"_content": "0" * 32}], ids=["field", "content"])
def test_an_item_whose_stored_ones_cannot_be_kept_is_encoded_after_all(
    world: World, lost: dict[str, object]
) -> None:
    payload = {**world.stored("a"), **lost}
    if not lost:
        del payload["_hashing_id"]
    world.store.set_payload_if_newer(world.index.ref, {"a": {**payload, "_fence": 2}}, fence=2)
    world.run("UPDATE public.items SET attributes = '{\"year\": 1999}'")
    world.run("SELECT setval('indexer.fences', 3)")
    report = world.drain()
    assert (report.payload_only, report.encoded) == (1, 1)
    assert world.stored("a")["_hashing_id"] == [2, 2, 2]
    assert world.seen().drift == 0


def test_verify_sees_where_they_are_not_what_the_tower_gives(world: World) -> None:
    payload = {**world.stored("b"), "_hashing_words": 7}
    world.store.set_payload_if_newer(world.index.ref, {"b": {**payload, "_fence": 2}}, fence=2)
    world.run("SELECT setval('indexer.fences', 3)")
    assert world.seen().causes == {"stale_vector": 1}


def test_they_are_taken_over_with_the_vectors(world: World) -> None:
    second = build(world)
    world.run(f"UPDATE indexer.indexes SET adopts = 'items-1' WHERE id = {second.id}")
    report = world.drain()
    assert (report.adopted, report.encoded) == (2, 0)
    assert world.seen(second).agree == 2
    found = world.store.fetch(second.ref, ["a"])["a"].payload
    assert found["_hashing_id"] == [2, 2, 2]


def test_an_encoder_that_gives_others_than_it_says_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NamingEncoder, "payload_fields", ("_hashing_id",))
    world.run("UPDATE public.items SET title = 'a question' WHERE id = 'a'")
    report = world.drain()
    assert report.failed == 0
    assert "payload fields ['_hashing_id', '_hashing_words']" in report.outages[0]
    monkeypatch.setattr(NamingEncoder, "payload_fields", ())
    world.run("UPDATE indexer.entries SET due_at = now()")
    assert "not []" in world.drain().outages[0]
