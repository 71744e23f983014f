"""Baselines learn what can be learnt, and are asked as the served towers are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import checkerboard, genre_world

from encoders import baselines, batches, dataset, evaluate, learning
from encoders.baselines import Config
from encoders.dataset import Dataset, Split
from encoders.errors import TrainingFailed
from encoders.progress import Run

RUN = Run(seed=0, device="cpu", checkpoint=None, progress=lambda _: None)
SMALL = {"width": 16, "windows": 16, "epochs": 12, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def board() -> Dataset:
    return checkerboard()


def learnt(name: str, split: Split, **options: object) -> baselines.Learner:
    with learning.seeded(RUN):
        learner = baselines.build(name, Config(**{**SMALL, **options}), split)  # type: ignore[arg-type]
    learning.learn(learner, split, RUN)
    return learner


@pytest.mark.parametrize("name", baselines.NAMES)
def test_a_baseline_learns_which_side_of_the_board_a_user_is_on(name: str, board: Dataset) -> None:
    split = dataset.leave_one_out(board)
    scorer = learnt(name, split).scorer()
    batch = batches.gather(board, batches.asked(board, split.test), history=scorer.history)
    best = np.argsort(-scorer(batch), axis=1)[:, :10]  # (U, 10)
    sides = np.arange(len(split.test))[:, None] % 2
    assert (best % 2 == sides).mean() > 0.95


@pytest.mark.parametrize("name", baselines.NAMES)
def test_a_prefix_in_a_window_is_asked_as_the_same_history_alone(name: str, board: Dataset) -> None:
    split = dataset.leave_one_out(board)
    with learning.seeded(RUN):
        network = baselines.build(name, Config(width=16), split).network.eval()
    spans = next(batches.plan(split, targets=50, windows=4, rng=np.random.default_rng(0)))
    window = batches.gather(board, spans, history=50)
    with torch.inference_mode():
        vectors = network.item_vectors()
        packed = network.queries(window, vectors).numpy()
        for row, (_, first, end) in enumerate(spans.tolist()):
            numbers = np.arange(first, end)
            alone = batches.gather(board, batches.asked(board, numbers), history=50)
            wanted = network.queries(alone, vectors)[:, 0].numpy()
            if name == "two-tower":  # the others count places from the end of the window
                np.testing.assert_allclose(packed[row, : len(numbers)], wanted, atol=1e-5)
            np.testing.assert_allclose(packed[row, len(numbers) - 1], wanted[-1], atol=1e-5)


def test_the_future_does_not_reach_a_target(board: Dataset) -> None:
    split = dataset.leave_one_out(board)
    with learning.seeded(RUN):
        network = baselines.build("esasrec", Config(width=16), split).network.eval()
    spans = next(batches.plan(split, targets=50, windows=4, rng=np.random.default_rng(0)))
    batch = batches.gather(board, spans, history=50)
    changed = batch.item.copy()
    changed[:, 6:] = 0
    with torch.inference_mode():
        vectors = network.item_vectors()
        before = network.queries(batch, vectors)
        after = network.queries(replace(batch, item=changed), vectors)
    early = torch.as_tensor(batch.seen <= 6)
    torch.testing.assert_close(before[early], after[early])
    assert not torch.equal(before, after)


def test_every_window_has_its_own_negatives_and_no_target_is_among_its_own(board: Dataset) -> None:
    split = dataset.leave_one_out(board)
    with learning.seeded(RUN):
        learner = baselines.build("esasrec", Config(width=16, negatives=30, dropout=0), split)
    spans = next(batches.plan(split, targets=7, windows=4, rng=np.random.default_rng(0)))
    batch = batches.gather(board, spans, history=50)
    assert (batch.target < 0).any()  # windows of unequal length
    with learning.seeded(RUN):
        loss = float(learner.loss(batch).detach())
    with learning.seeded(RUN), torch.inference_mode():
        drawn = torch.randint(len(board.items), (len(spans), 30)).tolist()
        vectors = learner.network.item_vectors()
        scores = (learner.network.queries(batch, vectors) @ vectors.T).double()
    losses = [
        float(scores[row, p, [target, *(i for i in drawn[row] if i != target)]].logsumexp(0))
        - float(scores[row, p, target])
        for row, p in np.argwhere(batch.target >= 0).tolist()
        for target in [int(batch.target[row, p])]
    ]
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_baseline_is_seeded_and_ranks_better_than_popularity() -> None:
    data = genre_world(fans=16, films=20, events=8).data
    split = dataset.leave_one_out(data)
    ranks = [
        evaluate.rank_by(learnt("sasrec", split, epochs=25).scorer(), data, split.test)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(ranks[0].masked, ranks[1].masked)
    popular = evaluate.rank_by_popularity(split, split.test)
    assert ranks[0].metrics()["recall@20"] > popular.metrics()["recall@20"]


def test_unknown_baselines_and_options_out_of_bounds_are_named(board: Dataset) -> None:
    with pytest.raises(TrainingFailed, match="two-tower, sasrec, esasrec"):
        baselines.build("bert4rec", Config(), dataset.leave_one_out(board))
    with pytest.raises(TrainingFailed, match="multiple of heads"):
        Config(width=10, heads=3)
    with pytest.raises(TrainingFailed, match="'dropout'"):
        Config(dropout=1.5)
