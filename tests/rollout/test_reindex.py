"""Building an index: started, filled, followed, interrupted; and what need not be encoded again."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import rollout_world
import sqlalchemy as sa
from hashing import DIMENSION, HashingEncoder, info
from qdrant_client import models
from rollout_world import Killed, World, die, meddled

from encoders.types import ItemRecord, VectorSpec
from indexer import entries, history, indexes, plan, reindex
from indexer.errors import CollectionMismatch, IndexStateError, StoreUnavailable, UsageError
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import Collection, CollectionSpec, Point
from indexer.stores.qdrant import QdrantStore

# -- started, interrupted, resumed ----------------------------------------------------------------


def test_a_reindex_that_dies_anywhere_is_resumed(world: World) -> None:
    steps: tuple[tuple[object, str, str], ...] = (
        (history, "record", "after"),  # nothing is committed yet
        (world.store, "ensure_collection", "before"),
        (world.store, "ensure_collection", "after"),
        (indexes, "set_spec_version", "before"),
        (indexes, "advance", "after"),  # the first chunk of keys is rolled back
    )
    known: set[int] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reindex, "FILL_KEYS", 10)
        for number, (owner, name, when) in enumerate(steps):
            with meddled(owner, name, **{when: die}), pytest.raises(Killed):
                world.fill(world.start(f"e{number}"))
            world.run("UPDATE public.items SET title = title || '!' WHERE id = 'k1'")
            assert world.drain().outages == [], "a half-made index is nobody's work"
            left = set(world.states()) - known
            if name == "record":
                assert left == set()
                continue
            [begun] = left
            known.add(begun)
            index = reindex.resume(world.engine, world.store, begun)
            interrupted = reindex.fill(world.engine, index)
            assert next(interrupted) == 10
            interrupted.close()
            world.fill(reindex.resume(world.engine, world.store, begun))
            world.drain()
            assert reindex.progress(world.engine, begun).complete
            world.assert_agrees(index, 30)


def test_no_point_is_written_before_the_payload_indexes_are_there(world: World) -> None:
    """Even if a worker comes between the index and its collection, with a change to write."""
    seen: list[object] = []

    def a_worker_comes(*_: object) -> None:
        world.run("UPDATE public.items SET title = 'early' WHERE id = 'k1'")
        report = world.drain()
        seen.append((report.items, report.outages))

    def look(collection: Collection, *_: object, **__: object) -> None:
        status = world.store.status(collection.name)
        wanted = set(status.spec.fields)
        assert wanted, "the catalog has filters"
        assert status.payload_indexes is None or wanted <= set(status.payload_indexes)
        seen.append(status.points)

    with meddled(world.store, "ensure_collection", before=a_worker_comes, after=a_worker_comes):
        index = world.start("e1")
    assert seen == [(0, []), (0, [])]
    with meddled(world.store, "write_if_newer", before=look):
        world.fill(index)
        world.drain()
    assert seen[2] == 0
    world.assert_agrees(index, 30)


def test_a_store_that_is_away_fails_the_index_and_leaves_nothing_behind(world: World) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("away")

    with meddled(world.store, "ensure_collection", after=away), pytest.raises(StoreUnavailable):
        world.start("e1")
    [index] = indexes.all_of(world.engine)
    assert (index.state, index.error) == ("failed", "away")
    assert world.store.collections() == []
    assert world.partitions() == set()


def test_a_reindex_that_is_cancelled_while_it_starts_or_fills_ends(world: World) -> None:
    def cancel(*_: object, **__: object) -> None:
        [index] = indexes.active(world.engine)
        world.cancel(index)

    with (
        meddled(world.store, "ensure_collection", before=cancel),
        pytest.raises(IndexStateError, match="was cancelled"),
    ):
        world.start("e1")
    index = world.start("e2")
    world.cancel(index)
    with pytest.raises(IndexStateError, match="was cancelled"):
        world.fill(index)
    with pytest.raises(IndexStateError, match=r"is failed \(cancelled\): start a new one"):
        reindex.resume(world.engine, world.store, index.id)
    assert world.store.collections() == []
    assert world.partitions() == set()
    assert [(step[0], step[2]) for step in world.steps()] == [
        ("start", "done"),
        ("cancel", "done"),
    ] * 2


def test_progress_is_told_in_items_rate_and_time_left(edge_world: World) -> None:
    world = edge_world
    index = world.start("e1")
    before = reindex.progress(world.engine, index.id)
    assert (before.total, before.filled, before.done, before.rate) == (30, False, 0, None)
    assert str(before) == "0 of 30 items, nobody works on it"
    world.fill(index)
    world.settings = world.settings.model_copy(update={"batch_items": 10})
    world.drain(index_id=index.id, slice_s=0.0)
    stopping = reindex.progress(world.engine, index.id)
    assert stopping.dirty == 30, "no time, no batch"
    _one_batch(world, index)
    midway = reindex.progress(world.engine, index.id)
    assert 0 < midway.done < 30
    assert midway.rate is not None
    assert midway.rate > 0
    assert midway.left_s == pytest.approx(midway.dirty / midway.rate)
    assert "left" in str(midway)
    world.drain()
    done = reindex.progress(world.engine, index.id)
    assert (done.complete, done.left_s, done.done) == (True, 0.0, 30)
    assert "complete" in str(done)
    world.run("UPDATE indexer.paces SET at = at - interval '20 minutes'")
    assert reindex.progress(world.engine, index.id).rate is None, "a rate is of the last minute"


def test_progress_is_told_of_a_catalog_whose_table_is_gone(edge_world: World) -> None:
    index = edge_world.start("e1")
    edge_world.fill(index)
    edge_world.run("DROP TABLE public.items")
    now = reindex.progress(edge_world.engine, index.id)
    assert (now.total, now.dirty, now.complete) == (30, 30, False)


def _one_batch(world: World, index: Index) -> None:
    """What a worker does that is stopped after its first batch."""
    stop = threading.Event()
    with meddled(entries, "ack_if_held", after=lambda *_, **__: stop.set()):
        world.drain(index_id=index.id, stop=stop)


# -- what exists is not encoded again -------------------------------------------------------------


def test_a_new_index_of_the_same_encoder_encodes_nothing_but_what_has_changed(
    world: World,
) -> None:
    first = world.build("e1")
    world.promote(first)
    encoder = world.encoders["e1"]
    before = encoder.encoded
    second = world.start("e1")
    assert second.adopts == first.collection
    world.fill(second)
    report = world.drain()
    assert (report.adopted, report.encoded, encoder.encoded) == (30, 0, before)
    world.assert_agrees(second, 30)

    before = encoder.encoded
    third = world.start("e1")
    world.run("UPDATE public.items SET title = 'changed' WHERE id IN ('k1', 'k2', 'k3')")
    world.fill(third)
    report = world.drain(index_id=third.id)
    assert (report.adopted, report.encoded) == (30, 3), "the live index encodes, the new one adopts"
    assert encoder.encoded == before + 3
    world.drain()
    world.assert_agrees(third, 30)
    world.promote(third)

    before = encoder.encoded
    world.insert("new")
    world.drain()
    assert encoder.encoded == before + 2, "a built index encodes for itself, one being built adopts"
    other = world.build("e2")
    assert other.adopts is None, "another encoder's vectors mean something else"


def test_a_collection_that_does_not_fit_is_not_adopted(world: World) -> None:
    first = world.build("e1")
    with pytest.raises(CollectionMismatch, match="and encoder e1, not of 'items' and e2"):
        world.start("e2", adopt=first.collection, trust=True)
    wide = CollectionSpec(
        collection=Collection(name="wide", catalog="items"),
        vectors=(VectorSpec(name="hashing", dimension=2 * DIMENSION),),
        fields={},
        metadata={"encoder_id": "e2"},
    )
    world.store.ensure_collection(wide)
    with pytest.raises(CollectionMismatch, match=r"hashing\[32\].*writes hashing\[16\]"):
        world.start("e2", adopt="wide")
    with pytest.raises(UsageError, match="--adopt"):
        world.start("e2", trust=True)
    assert world.states() == {first.id: "building"}, "a refusal leaves nothing behind"


def test_an_adopted_collection_that_is_gone_or_altered_costs_encoding_and_nothing_else(
    world: World,
) -> None:
    first = world.build("e1")
    second = world.start("e1", adopt=first.collection)
    world.fill(second)
    point = world.store.fetch(first.ref, ["k1"], vectors=["hashing"])["k1"]
    other = {**point.payload, "_content": "of other features"}
    world.store.write_if_newer(
        first.ref,
        [Point(key="k1", vectors={"hashing": -point.vectors["hashing"]}, payload=other)],  # type: ignore[operator]
        fence=1 << 40,
        mode="upsert",
    )
    report = world.drain(index_id=second.id)
    assert (report.adopted, report.encoded) == (29, 1)
    world.assert_agrees(second, 30)
    world.cancel(first)
    third = world.start("e1", adopt=second.collection)
    world.fill(third)
    world.store.drop_collection(second.collection)
    report = world.drain(index_id=third.id)
    assert (report.adopted, report.encoded) == (0, 30)
    world.assert_agrees(third, 30)


def test_a_collection_that_is_not_ours_is_adopted_on_the_admins_word(
    engine: sa.Engine, settings: Settings
) -> None:
    """As an offline job would have written it: no metadata, ids and hashes as ours."""
    store = QdrantStore.in_memory()
    world = rollout_world.make(engine, store, settings)
    _write_foreign(store, content="")
    with pytest.raises(CollectionMismatch, match="--trust"):
        world.start("e1", adopt="offline")
    with pytest.raises(CollectionMismatch, match="_content"):
        world.start("e1", adopt="offline", trust=True)
    store.drop_collection("offline")
    _write_foreign(store, content="_content")
    index = world.start("e1", adopt="offline", trust=True)
    world.fill(index)
    report = world.drain()
    assert (report.adopted, report.encoded) == (20, 10)
    world.assert_agrees(index, 30)
    store.close()


def _write_foreign(store: QdrantStore, *, content: str) -> None:
    client: Any = store._server._client
    sized = models.VectorParams(size=DIMENSION, distance=models.Distance.DOT)
    client.create_collection("offline", vectors_config={"hashing": sized})
    source = Collection(name="offline", catalog="items")
    encoder = HashingEncoder(salt="e1")
    for key in (f"k{n}" for n in range(20)):
        features = {"title": f"film {key}"}
        vector = encoder.encode_items([ItemRecord(key=key, features=features)]).vectors["hashing"]
        payload: dict[str, object] = {"_key": key}
        if content:
            payload[content] = plan._digest(plan._canonical(features)).hex()
        point = models.PointStruct(
            id=source.point_id(key), vector={"hashing": vector[0].tolist()}, payload=payload
        )
        client.upsert("offline", [point])


def test_facts_of_an_encoder_survive_without_its_files(edge_world: World) -> None:
    index = edge_world.start("e1")
    assert indexes.vectors_of(edge_world.engine, index) == info("e1").vectors
