"""What a step of learning sees, and the loss that it lowers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import genre_world

from encoders import batches, dataset, evaluate, train
from encoders.dataset import Dataset
from encoders.retrievalformer import users
from training.runs import encoder_of


def test_every_training_event_is_a_target_once_and_sees_what_came_before() -> None:
    data = genre_world(fans=3, films=60, cold=0, events=50).data
    split = dataset.leave_one_out(data)
    rng = np.random.default_rng(0)
    found: list[tuple[int, int, tuple[int, ...]]] = []
    for spans in batches.plan(split, targets=7, windows=4, rng=rng):
        batch = batches.gather(data, spans, history=12)
        for row, user in enumerate(batch.user):
            for seen, target in zip(batch.seen[row], batch.target[row], strict=True):
                if target >= 0:
                    assert seen <= batch.length[row] <= 12
                    before = tuple(batch.item[row, max(0, seen - 5) : seen])
                    found.append((int(user), int(target), before))
    wanted: list[tuple[int, int, tuple[int, ...]]] = []
    for number in np.flatnonzero(split.train).tolist():
        first = max(int(data.starts[data.user[number]]), number - 5)
        before = tuple(data.item[first:number])
        wanted.append((int(data.user[number]), int(data.item[number]), before))
    assert sorted(found) == sorted(wanted)


def test_steps_of_long_histories_have_as_many_targets_as_those_of_short_ones() -> None:
    data = genre_world(fans=200, films=60, cold=0, events=50).data
    rng = np.random.default_rng(0)
    kept = rng.choice([3, 5, 45], size=len(data.user_keys), p=[0.5, 0.3, 0.2])
    numbers = np.arange(len(data.user)) - data.starts[data.user]  # of an event among its user's
    split = replace(dataset.leave_one_out(data), train=numbers < kept[data.user])
    plan = list(batches.plan(split, targets=20, windows=40, rng=rng))
    sizes = [int((spans[:, 2] - spans[:, 1]).sum()) for spans in plan]
    assert sum(sizes) == kept.sum()
    assert max(len(spans) for spans in plan) > 2 * min(len(spans) for spans in plan)
    assert max(sizes) < 1.5 * np.median(sizes)


@pytest.mark.parametrize("readout", ["last", "cls"])
@pytest.mark.parametrize("context", ["sum", "fusion"])
def test_training_sees_exactly_what_serving_sees(data: Dataset, readout: str, context: str) -> None:
    """What a packed window says of each prefix is what the user tower says of that prefix alone."""
    encoder = encoder_of(data, epochs=1, readout=readout, context=context)
    split = dataset.leave_one_out(data)
    spans = next(batches.plan(split, targets=5, windows=4, rng=np.random.default_rng(1)))
    batch = batches.gather(data, spans, history=6)
    catalogue = evaluate._Catalogue(encoder, data.items)
    with torch.inference_mode():
        vectors = encoder.towers.items(encoder.item_entities(data.items))
        history = users.history_of(
            batch, vectors[torch.as_tensor(batch.item)], encoder.fitted.values
        )
        profiles = encoder.user_entities([data.user_records[int(u)] for u in batch.user])
        asked = encoder.towers.queries(history, profiles, newcomers=encoder.config.newcomers)
        packed = torch.nn.functional.normalize(asked, dim=-1).numpy()
    checked = 0
    for row, (begin, first, end) in enumerate(spans.tolist()):
        low = max(begin, end - 1 - 6)
        for place, number in enumerate(range(first, end)):
            state = catalogue.state(data, int(batch.user[row]), number)
            state = replace(state, history=list(state.history)[-(number - low) :][: number - low])
            (query,) = encoder.encode_users([state])
            np.testing.assert_allclose(packed[row, place], np.asarray(query.values), atol=2e-5)
            checked += 1
    assert checked > 8


def test_a_sample_of_a_large_catalogue_trains_towards_the_same_answer(tmp_path: Path) -> None:
    """The checkerboard with too small a limit for the exact softmax."""
    world = genre_world()
    options: dict[str, object] = {"width": 32, "epochs": 12, "exact_items": 10, "uniform_items": 30}
    info = train.train(
        "retrievalformer",
        world.data,
        str(tmp_path),
        config={**options, "windows": 8, "patience": 12},
        threads=1,
    )
    assert info.metrics["recall@20"] > info.metrics["popularity_recall@20"] + 0.2


def test_the_sampled_loss_is_near_the_exact_one() -> None:
    data = genre_world().data
    split = dataset.leave_one_out(data)
    encoder = encoder_of(data, epochs=1, width=32)
    towers = encoder.towers.eval()
    catalogue = encoder.item_entities(data.items)
    profiles = encoder.user_entities(data.user_records)
    share = torch.as_tensor(evaluate.popularity(split) / batches.count(split))
    spans = next(batches.plan(split, targets=25, windows=16, rng=np.random.default_rng(0)))
    batch = batches.gather(data, spans, history=50)
    mine = profiles.take(torch.as_tensor(batch.user))
    with torch.inference_mode():
        exact = float(towers.loss(batch, catalogue, mine, share))
        towers.config = replace(towers.config, exact_items=1, uniform_items=40)
        torch.manual_seed(0)
        sampled = [float(towers.loss(batch, catalogue, mine, share)) for _ in range(20)]
    assert np.mean(sampled) == pytest.approx(exact, rel=0.05)
