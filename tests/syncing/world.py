"""A catalog that is attached, its indexes, and the drain that brings one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from hashing import HashingEncoder, info

from indexer import catalog, collection, database, indexes, reindex, sync, verify
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

    def drain(self, **arguments: Any) -> sync.Report:
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
