"""Hostile rows by plain SQL through the whole drain: searchable and right, or failed alone by name.

Real PostgreSQL, a real content tower, both stores. See tests/hostile_rows.py for the rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile
import hostile_rows
import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from conftest import Databases
from hostile_rows import SANE, SPEC, TABLE, Row
from hypothesis import given

from encoders import artifact, content
from encoders.types import ItemRecord
from indexer import catalog, database, filters, ledger, reindex, sync, verify
from indexer.catalog import Catalog, spec
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import Search, VectorStore
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Towers

HOSTILE, NEIGHBOURS = 25, 4


@dataclass(kw_only=True, repr=False)
class World:
    engine: sa.Engine
    sql: psycopg.Connection[Any]
    store: VectorStore
    towers: Towers
    settings: Settings
    index: Index

    @property
    def catalog(self) -> Catalog:
        return catalog.get(self.engine, "things")

    def put(self, key: str, row: Row) -> bool:
        """Whether PostgreSQL took the row; what it refuses is its own error to its own user."""
        names = ", ".join(row.values)
        marks = ", ".join(f"%({name})s" for name in row.values)
        changed = ", ".join(f"{name} = excluded.{name}" for name in row.values)
        try:
            self.sql.execute(
                f"INSERT INTO things (id, {names}) VALUES (%(id)s, {marks}) "
                f"ON CONFLICT (id) DO UPDATE SET {changed}",
                {**row.values, "id": key},
            )
        except psycopg.DataError:
            return False
        return True

    def drain(self) -> None:
        report = sync.drain(self.engine, self.store, self.towers, self.settings)
        assert report.outages == [], report
        left = self.sql.execute(
            "SELECT * FROM indexer.entries WHERE wanted > written AND NOT quarantined"
        )
        assert left.fetchall() == [], report

    def failures(self) -> dict[str, str]:
        found = ledger.failures(self.engine, index_id=self.index.id)
        return {failure.key: failure.error for failure in found}

    def hits(self, where: object) -> set[str]:
        """The keys that a search under this filter finds, of all items."""
        parsed = filters.parse(where, self.catalog.spec.fields)
        [vector] = self.towers.get(self.index.encoder_id, self.index.encoder_uri).encoder.vectors
        assert vector.dimension is not None
        search = Search(
            vector=vector.name,
            values=np.ones(vector.dimension, np.float32),
            limit=500,
            where=parsed,
        )
        return {point.key for point in self.store.search(self.index.ref, [search])[0]}


@pytest.fixture(scope="module", params=["edge", "qdrant"])
def world(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_url: str,
    databases: Callable[[str], Databases],
) -> Iterator[World]:
    folder, scratch = tmp_path_factory.mktemp("hostile"), databases(postgres_url)
    url = scratch.create()
    engine = database.engine(url)
    store: VectorStore = (
        EdgeStore(folder / "edge") if request.param == "edge" else QdrantStore.in_memory()
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLE)
        yield build(engine, connection, store, folder)
    store.close()
    engine.dispose()
    scratch.drop(url)


def build(
    engine: sa.Engine, sql: psycopg.Connection[Any], store: VectorStore, folder: Path
) -> World:
    attached = catalog.attach(engine, spec.parse(SPEC, name="things"))
    records = [ItemRecord(key="k", features={"brand": "acme", "tags": ["a"], "weight": 2.0})]
    features = attached.spec.item_features
    tower = content.fit(content.Config(), records, features, popularity=np.ones(1, np.float32))
    encoder = artifact.save(tower, str(folder), facts={}, metrics={})
    settings = Settings.model_validate({"data_dir": folder, "backoff_s": 0, "max_attempts": 1})
    index = reindex.start(engine, store, catalog_name="things", encoder_uri=encoder.uri)
    for _ in reindex.fill(engine, index):
        pass
    world = World(
        engine=engine, sql=sql, store=store, towers=Towers(settings), settings=settings, index=index
    )
    for number in range(NEIGHBOURS):
        assert world.put(f"n{number}", Row(values=dict(SANE)))
    return world


@hostile.times(20)
@given(rng=hostile.rngs)
def test_a_hostile_row_is_searchable_and_right_or_fails_alone_by_name(
    world: World, rng: random.Random
) -> None:
    rows = {f"k{number}": hostile_rows.row(rng) for number in range(HOSTILE)}
    kept = {key: row for key, row in rows.items() if world.put(key, row)}
    if rng.random() < 0.3:
        world.sql.execute("DELETE FROM things WHERE id = 'k1'")
        kept.pop("k1", None)
    world.drain()
    failed = world.failures()
    for error in failed.values():
        hostile.sentence(ValueError(error))
    for key, row in kept.items():
        if row.usable is not None:
            assert (key not in failed) is row.usable, (row.values, failed.get(key))
    assert not any(key.startswith("n") for key in failed), failed
    agree(world, failed)
    found_by_their_own_values(world, kept.keys() - failed.keys())


def agree(world: World, failed: dict[str, str]) -> None:
    """Every item of the catalog is in the store and right, but for those that failed."""
    tower = world.towers.get(world.index.encoder_id, world.index.encoder_uri)
    seen = verify.compare(world.engine, world.store, world.index, tower=tower)
    assert seen.agree + len(failed) == seen.items, (seen, failed)
    assert seen.drift == 0, seen


def found_by_their_own_values(world: World, keys: set[str]) -> None:
    """What an item is said to have can be asked for, and brings the item."""
    fields = world.catalog.spec.fields
    for key, item in catalog.read(world.engine, world.catalog, sorted(keys)[:3]).items():
        where = {name: asking(kind, item.payload.get(name)) for name, kind in fields.items()}
        assert key in world.hits(where), (where, item)


def asking(kind: str, value: Any) -> Any:
    """A condition that a field with this value must meet."""
    known = [one for one in (value if isinstance(value, list) else [value]) if one is not None]
    if not known:
        return {"exists": bool(value)}
    return {"near": known[0], "within_m": 10} if kind == "geo" else known[-1]
