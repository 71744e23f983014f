"""A catalog, an index and what a test does to them, with a comparison of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import sqlalchemy as sa
from hashing import HashingEncoder, info

from encoders.types import ItemRecord
from indexer import catalog, collection, database, indexes, ledger, reindex, verify
from indexer.catalog import spec
from indexer.catalog.spec import CatalogSpec
from indexer.indexes import Index
from indexer.stores import KEY_FIELD, VectorStore
from indexer.towers import Tower

ATOL = 1e-5
ENCODER_ID = "hashing-for-tests"
ENCODERS = {ENCODER_ID: "", "hashing-anew": "anew"}  # id -> salt; whoever loads `faults` knows them


class HashingTowers:
    """The encoder of the tests, for whatever index."""

    def get(self, encoder_id: str, uri: str) -> Tower:
        return Tower(ENCODER_ID, HashingEncoder())


@dataclass(kw_only=True)
class World:
    """A catalog with `id` and `title`, and one index of it, built by the encoder for tests."""

    engine: sa.Engine
    store: VectorStore
    index: Index
    table: str = "public.items"
    tower: Tower = field(default_factory=lambda: Tower(ENCODER_ID, HashingEncoder()))

    def run(self, statement: str, **parameters: object) -> None:
        with database.begin(self.engine) as connection:
            connection.execute(sa.text(statement), parameters)

    def insert(self, keys: Sequence[str], title: str = "film") -> None:
        """In statements of 1,000."""
        for start in range(0, len(keys), 1_000):
            self.run(
                "INSERT INTO public.items (id, title, attributes) SELECT k, :title || ' ' || k,"
                ' \'{"genres": ["Drama"]}\' FROM unnest(CAST(:keys AS text[])) AS k',
                keys=list(keys[start : start + 1_000]),
                title=title,
            )

    def titles(self) -> dict[str, str]:
        with database.begin(self.engine) as connection:
            rows = connection.execute(sa.text(f"SELECT id, title FROM {self.table}"))
            return {row.id: row.title for row in rows}

    def is_clean(self) -> bool:
        """Whether the outbox is empty and nothing in the ledger is dirty."""
        with database.begin(self.engine) as connection:
            dirty = (
                "SELECT EXISTS (SELECT FROM indexer.changes) OR EXISTS"
                " (SELECT FROM indexer.entries WHERE wanted > written)"
            )
            return not connection.scalar(sa.text(dirty))

    def assert_agrees(self) -> int:
        """Every row has its point, whose vector is what the encoder says of the row as it is now,
        and no other point exists: looked up here with SQL and a scroll, then by `verify`. Returns
        the number of items."""
        titles = self.titles()
        points = {
            point.key: point
            for batch in self.store.scroll(self.index.ref, vectors=("hashing",))
            for point in batch
        }
        assert points.keys() == titles.keys(), _difference(titles.keys(), points.keys())
        records = [ItemRecord(key=key, features={"title": titles[key]}) for key in titles]
        fresh = HashingEncoder().encode_items(records).vectors["hashing"]
        for key, vector in zip(titles, fresh, strict=True):
            stored = points[key]
            assert np.allclose(stored.vectors["hashing"], vector, atol=ATOL), key
            assert stored.payload[KEY_FIELD] == key
            assert stored.payload["title"] == titles[key]
        seen = verify.compare(self.engine, self.store, self.index, tower=self.tower)
        assert (seen.items, seen.agree, seen.drift) == (len(titles), len(titles), 0), seen
        assert not ledger.failures(self.engine)
        return len(titles)


def make(
    engine: sa.Engine, store: VectorStore, *, queue: str, described: CatalogSpec = spec.BUILTIN
) -> World:
    """The catalog attached, the index registered and its backfill recorded in the ledger."""
    attached = catalog.attach(engine, described)
    facts = info(ENCODER_ID)
    index = indexes.register(
        engine, catalog_id=attached.id, alias=described.name, encoder=facts, queue=queue
    )
    store.ensure_collection(collection.spec_of(index, attached, facts.vectors))
    for _ in reindex.fill(engine, index):
        pass
    return World(
        engine=engine, store=store, index=indexes.get(engine, index.id), table=described.table
    )


def _difference(rows: object, points: object) -> str:
    assert isinstance(rows, type({}.keys()))
    assert isinstance(points, type({}.keys()))
    missing, extra = sorted(rows - points), sorted(points - rows)
    return f"{len(missing)} missing: {missing[:5]}, {len(extra)} extra: {extra[:5]}"
