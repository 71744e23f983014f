"""After a restore: the database of yesterday with the store of today, and the other way round.

A restore is made the way it is made: a copy of the database from before is put in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import live_world
import psycopg
import pytest
import sqlalchemy as sa
from live_world import ENCODER_ID, HashingTowers, World

from indexer import catalog, collection, database, entries, indexes, reconcile, sync, verify
from indexer.errors import StoreAhead
from indexer.fences import Fences, compare
from indexer.settings import Settings
from indexer.stores import Point, VectorStore
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore

FILMS = [f"m{n}" for n in range(30)]


@pytest.fixture(params=["edge", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    opened = EdgeStore(tmp_path / "edge") if request.param == "edge" else QdrantStore.in_memory()
    yield opened
    opened.close()


@pytest.fixture
def world(engine: sa.Engine, store: VectorStore) -> World:
    made = live_world.make(engine, store, queue="reconcile")
    store.point_alias("items", made.index.collection)
    with database.begin(engine) as connection:
        indexes.make_live(connection, made.index.id, "items")
    made.insert(FILMS)
    drain(made)
    made.index = indexes.get(engine, made.index.id)
    return made


def drain(world: World, fences: Fences | None = None) -> sync.Report:
    settings = Settings.model_validate({"data_dir": "/nonexistent"})
    return sync.drain(world.engine, world.store, HashingTowers(), settings, fences=fences)  # type: ignore[arg-type]


@pytest.fixture
def yesterday(
    world: World, postgres_url: str, databases: Callable[[str], Any]
) -> Iterator[Callable[[], None]]:
    """Takes a copy of the database now; a call puts it in the place of the one that there is."""
    name = world.engine.url.database
    copy = f"{name}_yesterday"
    world.engine.dispose()
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {copy} TEMPLATE {name} STRATEGY file_copy")

        def restore() -> None:
            world.engine.dispose()
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            admin.execute(f"ALTER DATABASE {copy} RENAME TO {name}")

        yield restore
        admin.execute(f"DROP DATABASE IF EXISTS {copy} WITH (FORCE)")


def a_day(world: World) -> None:
    """Items are changed, deleted and added, in many claims."""
    for n in range(6):
        world.run("UPDATE public.items SET title = title || ' of today' WHERE id = :id", id=f"m{n}")
        drain(world)
    world.run("DELETE FROM public.items WHERE id IN ('m10', 'm11')")
    world.insert([f"new{n}" for n in range(4)])
    drain(world)
    assert world.assert_agrees() == 32


def test_a_restored_database_writes_nothing_until_it_is_reconciled(
    world: World, yesterday: Callable[[], None]
) -> None:
    fences = Fences()
    drain(world, fences)
    a_day(world)
    yesterday()
    world.run("UPDATE public.items SET title = 'after the restore' WHERE id = 'm0'")
    for remembered in (fences, Fences()):  # a worker that ran all the time, and a new one
        report = drain(world, remembered)
        assert report.batches == 0
        assert "twinspan reconcile" in report.outages[0]
        assert report.released == 1, "the item is charged for nothing"
        _due_now(world)
    with pytest.raises(StoreAhead, match="given out"):
        compare(world.engine, world.store, world.index)

    report = reconcile.reconcile(world.engine, world.store)
    [one] = report.indexes
    assert (one.doubted, one.surplus, one.made) == (30, 4, False)
    assert drain(world, fences).outages == []
    assert world.assert_agrees() == 30
    assert report.fence > 1_000_000


def _due_now(world: World) -> None:
    world.run("UPDATE indexer.entries SET due_at = now()")


def test_what_differs_can_be_left_to_verify(world: World, yesterday: Callable[[], None]) -> None:
    a_day(world)
    yesterday()
    report = reconcile.reconcile(world.engine, world.store, again=False)
    assert report.indexes[0].surplus == 4
    cleaned = drain(world)
    assert (cleaned.encoded, cleaned.deleted) == (0, 4)
    options = verify.Options(repair=True)
    seen = verify.compare(world.engine, world.store, world.index, options=options)
    assert seen.drift == 8, seen  # two are gone, six are of today
    drain(world)
    assert world.assert_agrees() == 30


def test_a_lost_store_is_filled_again(world: World, tmp_path: Path) -> None:
    world.store.drop_alias("items")
    world.store.drop_collection(world.index.collection)
    report = reconcile.reconcile(world.engine, world.store)
    assert report.indexes[0].made
    assert world.store.aliases() == {"items": world.index.collection}
    drain(world)
    assert world.assert_agrees() == 30


def test_a_store_of_yesterday_is_brought_up_to_date(world: World) -> None:
    """The store is taken back by hand: what a snapshot of it would hold."""
    before = {
        point.key: point
        for batch in world.store.scroll(world.index.ref, vectors=("hashing",))
        for point in batch
    }
    fence = entries.last_fence(world.engine)
    a_day(world)
    world.store.drop_alias("items")
    world.store.drop_collection(world.index.collection)
    attached = catalog.get(world.engine, "items")
    spec = collection.spec_of(world.index, attached, indexes.vectors_of(world.engine, world.index))
    world.store.ensure_collection(spec)
    points = [Point(key=k, vectors=p.vectors, payload=p.payload) for k, p in before.items()]
    world.store.write_if_newer(world.index.ref, points, fence=fence, mode="upsert")
    reconcile.reconcile(world.engine, world.store)
    drain(world)
    assert world.assert_agrees() == 32


def test_an_index_that_the_database_has_forgotten_is_named_and_its_number_is_not_given_again(
    world: World, yesterday: Callable[[], None]
) -> None:
    """Registered and promoted after the backup."""
    facts = live_world.info(ENCODER_ID)
    attached = catalog.get(world.engine, "items")
    forgotten = indexes.register(
        world.engine, catalog_id=attached.id, alias="items", encoder=facts, queue="q"
    )
    world.store.ensure_collection(collection.spec_of(forgotten, attached, facts.vectors))
    world.store.point_alias("items", forgotten.collection)
    yesterday()
    report = reconcile.reconcile(world.engine, world.store)
    assert report.unknown == {forgotten.collection: ("items",)}
    following = indexes.register(
        world.engine, catalog_id=attached.id, alias="items", encoder=facts, queue="q"
    )
    assert following.id > forgotten.id
    assert following.collection not in world.store.collections()


def test_reconciling_where_nothing_happened_costs_writes_and_nothing_else(world: World) -> None:
    for _ in range(2):
        report = reconcile.reconcile(world.engine, world.store)
        assert report.indexes[0].surplus == 0
        assert report.unknown == {}
    drain(world)
    assert world.assert_agrees() == 30


def test_a_holder_that_lives_through_it_is_not_believed(world: World) -> None:
    """Its write was refused by the store; its ack must not say that it is there."""
    world.run("UPDATE public.items SET title = 'y' WHERE id = 'm0'")
    sync.changes.route(world.engine, limit=10)
    batch = entries.claim(world.engine, world.index.id, limit=1, lease_s=60)
    assert batch is not None
    reconcile.reconcile(world.engine, world.store, again=False)
    written = entries.Written(
        claim=batch.claims[0], present=True, content_hash=b"believed", payload_hash=b"believed"
    )
    entries.ack_if_held(world.engine, batch, [written], read_at=batch.claims[0].changed_at)
    drain(world)
    assert world.assert_agrees() == 30
