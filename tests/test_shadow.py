"""Shadow reads: compared in the background, and never felt by the user."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import sqlalchemy as sa
from gate_world import Judged, check
from processes import until
from worlds import genre_world

from encoders import artifact, content
from encoders.types import ItemRecord
from indexer import Retriever, shadow_reads
from indexer.catalog import spec
from indexer.gate import shadows
from indexer.query import shadow as shadowing
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore

WAIT_S = 20.0


@pytest.fixture
def world(engine: sa.Engine, edge_store: EdgeStore, settings: Settings) -> Judged:
    made = Judged(
        engine=engine,
        store=edge_store,
        settings=settings.model_copy(update={"shadow_share": 1.0}),
    )
    made.insert_world(genre_world(films=10, fans=3, cold=0).data)
    return made


def trained(world: Judged, *, weight: float) -> str:
    items = genre_world(films=10, fans=3, cold=0).data.items
    features = [one for one in spec.BUILTIN.item_features if one.name in {"genres", "year"}]
    tower = content.fit(
        content.Config(category_weight=weight),
        [ItemRecord(key=item.key, features=item.features) for item in items],
        features,
        popularity=np.ones(len(items), dtype=np.float32),
    )
    root = world.settings.data_dir / "towers"
    return artifact.save(tower, str(root), facts={}, metrics={}).uri


@pytest.fixture
def retriever(world: Judged) -> Iterator[Retriever]:
    """Over a live index and one that is being built, by another tower."""
    world.make_live(world.start(trained(world, weight=0.4)))
    world.start(trained(world, weight=0.9))
    made = Retriever(world.store, alias="items", settings=world.settings, engine=world.engine)
    yield made
    made.close()


def test_live_queries_are_compared_with_the_index_that_is_being_built(
    world: Judged, retriever: Retriever
) -> None:
    hits = retriever.recommend(["Comedy-1", "Comedy-2"], where={"genres": "Comedy"}, k=5)
    similar = retriever.similar("Horror-3", k=5)
    until(lambda: retriever.shadow().reads == 2)
    retriever.close()
    assert {hits.index_id, similar.index_id} == {1}  # the user's answers are the live index's
    kept = shadow_reads.summary(world.engine, 2)
    assert kept is not None
    assert kept.reads == 2
    assert kept.overlap == pytest.approx(retriever.shadow().overlap, abs=1e-6)
    advice = check(world.judge(world.start(trained(world, weight=0.9))), shadows.SHADOWS)
    assert advice.passed is None
    assert "none" in advice.measured  # of that one; the reads were of the one before


def test_an_index_with_few_of_the_items_is_not_asked_yet(world: Judged) -> None:
    world.make_live(world.start(trained(world, weight=0.4)))
    half = world.start(trained(world, weight=0.9))
    gone = [f"Comedy-{n}" for n in range(10)]
    world.store.delete_if_newer(half.ref, gone, fence=2**40)
    with Retriever(world.store, alias="items", settings=world.settings) as retriever:
        retriever.recommend(["Horror-1"])
        until(retriever._shadow._waiting.empty)
    assert retriever.shadow().reads == 0
    assert retriever.shadow().failed == 0


def test_a_shadow_that_hangs_or_fails_costs_the_user_nothing(
    world: Judged, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, go_on = threading.Event(), threading.Event()

    def hang(collection: str) -> Retriever:
        hanging.set()
        go_on.wait(WAIT_S)
        raise RuntimeError("the other index is in flames")

    retriever._shadow._open_other = hang
    assert len(retriever.recommend(["Comedy-1"], k=3)) == 3
    assert hanging.wait(WAIT_S)
    answers: list[Sequence[object]] = [
        retriever.recommend(["Comedy-1"], k=3) for _ in range(shadowing.WAITING + 5)
    ]
    assert all(len(answer) == 3 for answer in answers)
    assert retriever.shadow().dropped == 5
    go_on.set()
    until(lambda: retriever.shadow().failed == 1)
    assert retriever.shadow().reads == 0


def test_no_share_asks_nothing_and_starts_no_thread(world: Judged) -> None:
    world.make_live(world.start(trained(world, weight=0.4)))
    settings = world.settings.model_copy(update={"shadow_share": 0.0})
    with Retriever(world.store, alias="items", settings=settings) as retriever:
        retriever.recommend(["Comedy-1"])
        assert retriever._shadow._thread is None
