"""An offline evaluation through an index: what it finds is what an exact ranking finds, also of
items that came after training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from gate_world import Judged
from hashing import HashingEncoder
from worlds import series_world

from encoders import artifact, dataset, families, learning, protocols
from encoders.dataset import Dataset, Split
from encoders.evaluate import Ranks
from encoders.progress import Run
from encoders.protocols import Protocol
from encoders.retrievalformer.learner import Learner
from encoders.types import Feature, ItemRecord
from indexer import offline
from indexer.indexes import Index
from indexer.offline import Compared
from indexer.query import Retriever
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore

SMALL = {"width": 16, "windows": 16, "epochs": 8, "patience": 8, "validation_users": 200}


@pytest.fixture
def judged(engine: sa.Engine, edge_store: EdgeStore, settings: Settings) -> Iterator[Judged]:
    yield Judged(engine=engine, store=edge_store, settings=settings)


def asked_through(judged: Judged, index: Index, split: Split, targets: np.ndarray) -> Compared:
    tower = judged.towers.get(index.encoder_id, index.encoder_uri)
    retriever = Retriever(judged.store, alias="items", settings=judged.settings, encoder=tower)
    return offline.compare(retriever, tower.encoder, split, targets)


def recall(ranks: Ranks) -> float:
    return ranks.metrics()["recall@20"]


# -- cold items ------------------------------------------------------------------------------------


def trained(protocol: Protocol, root: Path) -> str:
    """The address of a small retrievalformer that saw no event of a cold item."""
    run = Run(seed=0, device="cpu", checkpoint=None, progress=lambda _: None)
    config = families.configure("retrievalformer", SMALL)
    with learning.seeded(run):
        learner = Learner.untrained(config, protocol.training, run.device)  # type: ignore[arg-type]
    learning.learn(learner, protocol.training, run)
    return artifact.save(learner.encoder, str(root), facts={}, metrics={}).uri


@pytest.mark.slow
def test_500_items_inserted_into_a_living_index_are_found_as_well_as_offline(
    judged: Judged, tmp_path: Path
) -> None:
    protocol = protocols.cold_items(series_world(series=125, films=20, fans=8), seed=1)
    assert len(protocol.cold) == 500
    items = protocol.data.items
    cold = set(protocol.cold.tolist())
    judged.insert_items([item for row, item in enumerate(items) if row not in cold])
    index = judged.start(trained(protocol, tmp_path / "encoders"))
    judged.make_live(index)
    split = replace(protocol.training, dataset=protocol.data)

    before = asked_through(judged, index, split, protocol.targets)
    assert recall(before.index) == 0
    judged.insert_items([items[row] for row in protocol.cold])
    judged.drain()
    after = asked_through(judged, index, split, protocol.targets)

    assert len(after.exact.users) > 100
    assert recall(after.exact) > 0.5
    assert after.overlap.mean() >= 0.99
    for name in ("recall@20", "ndcg@20", "recall@20_unmasked", "ndcg@20_unmasked"):
        exact = after.exact.metrics()[name]
        assert after.index.metrics()[name] == pytest.approx(exact, rel=0.01), name


# -- what is compared ------------------------------------------------------------------------------


def films(titles: list[str], events: list[list[int]]) -> Dataset:
    """A film per title; user n did what the nth list says, one after the other."""
    pairs = [(user, item) for user, items in enumerate(events) for item in items]
    return dataset.arrange(
        items=[
            ItemRecord(key=f"f{n}", features={"title": title, "genres": ["g"], "year": 2000})
            for n, title in enumerate(titles)
        ],
        item_features=[Feature(name="title", kind="text")],
        user_keys=[f"u{n}" for n in range(len(events))],
        user=[user for user, _ in pairs],
        item=[item for _, item in pairs],
        occurred_at=range(len(pairs)),
    )


def compared(judged: Judged, data: Dataset, *, indexed: int | None = None) -> Compared:
    """Through an index of the first so many films, all else being equal."""
    judged.insert_items(data.items[:indexed])
    index = judged.build("e", HashingEncoder())
    judged.make_live(index)
    split = dataset.leave_one_out(data)
    return asked_through(judged, index, split, split.test)


def within_20(ranks: np.ndarray) -> np.ndarray:
    return np.where(ranks <= offline.DEPTH, ranks, np.inf)


def test_places_of_the_index_are_the_exact_ranks_also_of_what_was_seen_before(
    judged: Judged,
) -> None:
    rng = np.random.default_rng(0)
    new = [rng.choice(50, 6, replace=False).tolist() for _ in range(40)]
    again = [[*items[:5], items[0]] for items in new]
    data = films([f"film {n}" for n in range(50)], [*new, *again])
    found = compared(judged, data)
    assert found.index.users.tolist() == list(range(80))
    np.testing.assert_array_equal(found.index.masked, within_20(found.exact.masked))
    np.testing.assert_array_equal(found.index.unmasked, within_20(found.exact.unmasked))
    assert found.overlap.tolist() == found.overlap_unmasked.tolist() == [1.0] * 80
    wanted_again = slice(40, 80)
    assert np.isfinite(found.index.masked[wanted_again]).sum() > 20
    assert (found.index.masked[wanted_again] < found.index.unmasked[wanted_again]).any()


def test_what_the_index_lacks_lowers_overlap_and_recall(judged: Judged) -> None:
    data = films([f"film {n}" for n in range(25)], [[0, 1, 2], [0, 1, 24]])
    found = compared(judged, data, indexed=15)
    assert ((found.overlap >= 10 / 20) & (found.overlap <= 13 / 20)).all(), "13 can be found"
    assert np.isinf(found.index.masked[1])
    assert np.isfinite(found.exact.masked[1])


def test_another_item_of_the_same_score_is_as_good(judged: Judged) -> None:
    data = films(["film"] * 45, [[0, 1, 2], [3, 44, 43]])
    found = compared(judged, data)
    assert found.overlap.tolist() == found.overlap_unmasked.tolist() == [1.0, 1.0]
    assert found.exact.unmasked.tolist() == [23.0, 23.0], "the middle of all that tie"
