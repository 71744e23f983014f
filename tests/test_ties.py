"""Events of one user at one time: they have no order, and none may be learnt."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor

from encoders import dataset, learning
from encoders.batches import Batch
from encoders.dataset import Dataset, Split, Ties
from encoders.progress import Run
from encoders.retrievalformer import Config, RetrievalFormer
from encoders.retrievalformer.learner import Learner
from encoders.types import Feature, ItemRecord

ITEMS = 8


@pytest.fixture(scope="module")
def data() -> Dataset:
    """`a` did five things, the first four at once; `b` seven, all but the first at once."""
    return dataset.arrange(
        items=[ItemRecord(key=str(n), features={"even": str(n % 2)}) for n in range(ITEMS)],
        item_features=[Feature(name="even", kind="category")],
        user_keys=["a", "b"],
        user=[0] * 5 + [1] * 7,
        item=[0, 1, 2, 3, 4, 7, 6, 5, 4, 3, 2, 1],
        occurred_at=[1, 1, 1, 1, 2, 1, 2, 2, 2, 2, 2, 2],
        value=[0, 1, 2, 3, 4, 7, 6, 5, 4, 3, 2, 1],
    )


def test_they_are_shuffled_and_nothing_else_moves(data: Dataset) -> None:
    orders = set[tuple[int, ...]]()
    for seed in range(20):
        shuffled = dataset.shuffle_ties(data, np.random.default_rng(seed))
        items = shuffled.item.tolist()
        assert sorted(items[:4]) == [0, 1, 2, 3]
        assert (items[4:6], sorted(items[6:])) == ([4, 7], [1, 2, 3, 4, 5, 6])
        assert shuffled.value.tolist() == items, "the other columns go along"
        orders.add(tuple(items))
    assert len(orders) > 10


def test_some_of_them_stay_where_they_are(data: Dataset) -> None:
    among = np.ones(len(data.user), dtype=np.bool_)
    among[[1, 7, 11]] = False
    orders = set[tuple[int, ...]]()
    for seed in range(20):
        items = dataset.shuffle_ties(data, np.random.default_rng(seed), among=among).item.tolist()
        assert [items[place] for place in (1, 4, 5, 7, 11)] == [1, 4, 7, 5, 1]
        assert {items[0], items[2], items[3]} == {0, 2, 3}
        orders.add(tuple(items))
    assert len(orders) > 10


class Watched(Learner):
    """RetrievalFormer's own learner; what each step reads is kept."""

    def __init__(self, encoder: RetrievalFormer, split: Split) -> None:
        super().__init__(encoder, split)
        self.batches: list[Batch] = []

    def loss(self, batch: Batch) -> Tensor:
        self.batches.append(batch)
        return super().loss(batch)

    def orders(self, user: int) -> list[tuple[int, ...]]:
        """What the user did as each epoch, of one step, saw it."""
        found: list[tuple[int, ...]] = []
        for batch in self.batches:
            rows = np.flatnonzero(batch.user == user)
            seen, target = batch.seen[rows], batch.target[rows]
            wanted = target >= 0
            order = target[wanted][np.argsort(seen[wanted])].tolist()
            longest = rows[np.argmax(batch.length[rows])]
            read = batch.item[longest, : batch.length[longest]].tolist()
            assert read == order[: len(read)], "what is read is in the order that is asked for"
            found.append(tuple(order))
        return found


def watched(data: Dataset, ties: Ties) -> Watched:
    split = dataset.leave_one_out(data)
    config = Config(width=8, epochs=12, patience=12, windows=50, content_width=0)
    learner = Watched(Learner.untrained(config, split, "cpu").encoder, split)
    run = Run(seed=0, device="cpu", checkpoint=None, progress=lambda _: None, ties=ties)
    learning.learn(learner, split, run)
    assert len(learner.batches) == 12
    return learner


def test_each_epoch_draws_their_order_and_held_out_events_stay_held_out(data: Dataset) -> None:
    learner = watched(data, "shuffled")
    assert {tuple(sorted(order)) for order in learner.orders(0)} == {(0, 1, 2)}
    later = learner.orders(1)
    assert {(order[0], tuple(sorted(order[1:]))) for order in later} == {(7, (3, 4, 5, 6))}
    assert len(set(later)) > 6


def test_what_is_said_to_be_in_order_stays_in_it(data: Dataset) -> None:
    learner = watched(data, "listed")
    assert set(learner.orders(0)) == {(0, 1, 2)}
    assert set(learner.orders(1)) == {(7, 6, 5, 4, 3)}
