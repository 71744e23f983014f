"""Ranks, what they gain, and differences between them that are more than chance."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import checkerboard

from encoders import dataset, evaluate
from encoders.types import EncodedItems, Encoder, HistoryNeeds, UserQuery, VectorSpec


class Constant:
    """Scores all items alike."""

    family = "constant"
    vectors = (VectorSpec(name="v", dimension=1),)
    item_features = user_features = ()
    history = HistoryNeeds(vectors=("v",))
    similar_vector = "v"
    payload_fields: tuple[str, ...] = ()

    def encode_items(self, records: object) -> EncodedItems:
        return EncodedItems(vectors={"v": np.ones((len(list(records)), 1), np.float32)})  # type: ignore[call-overload]

    def encode_users(self, states: object) -> list[UserQuery]:
        return [UserQuery(vector="v", values=np.ones(1, np.float32)) for _ in list(states)]  # type: ignore[call-overload]


def test_who_scores_all_items_alike_gains_nothing() -> None:
    data = checkerboard(items=100)
    split = dataset.leave_one_out(data)
    constant: Encoder = Constant()
    ranks = evaluate.rank_with(constant, split, split.test)
    assert set(ranks.unmasked) == {50.5}
    assert ranks.metrics()["recall@20"] == 0


def test_ranks_are_counted_by_hand() -> None:
    scores = np.asarray([[5, 4, 3, 2, 1], [1, 1, 1, 0, 2]], dtype=np.float32)
    masked, unmasked = evaluate.rank(
        scores, np.asarray([3, 1]), [np.asarray([0, 1]), np.asarray([4, 1, 0])]
    )
    assert unmasked.tolist() == [4, 3]  # the second: one better, two equal besides itself
    assert masked.tolist() == [2, 1.5]
    assert evaluate.gains(np.asarray([1.0, 3.0, 30.0]), 20).tolist() == [1.0, 0.5, 0.0]


def test_a_paired_interval_covers_the_difference_and_knows_the_pairs() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.integers(0, 2, 400).astype(np.float64)
    same = evaluate.paired_interval(theirs, theirs)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    better = np.where(rng.random(400) < 0.2, 1.0, theirs)
    found = evaluate.paired_interval(better, theirs)
    assert found.mean == pytest.approx(better.mean() - theirs.mean())
    assert found.low < found.mean < found.high
    assert found.low > 0
    assert found == evaluate.paired_interval(better, theirs), "seeded"


def test_asking_fewer_users_asks_the_same_ones_each_time() -> None:
    split = dataset.leave_one_out(checkerboard())
    one, other = (
        evaluate.rank_by_popularity(split, split.test, limit=10, seed=4) for _ in range(2)
    )
    assert len(one.users) == 10
    assert one.users.tolist() == other.users.tolist()
