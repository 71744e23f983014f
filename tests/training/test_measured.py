"""Training is honest about what it measured, and on what."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from worlds import checkerboard

from encoders import artifact, dataset, evaluate, train
from encoders.dataset import Dataset
from encoders.progress import Progress
from encoders.retrievalformer import RetrievalFormer
from encoders.retrievalformer.learner import Learner
from indexer import catalog, importing, training_data
from training.runs import SMALL, assert_same_weights, encoder_of, lines_of, trained


@pytest.fixture
def movielens(engine: sa.Engine) -> Dataset:
    folder = os.environ.get("TWINSPAN_DATA")
    if not folder or not (Path(folder) / "ml-100k").is_dir():
        pytest.skip("TWINSPAN_DATA names no folder with ml-100k")
    attached = catalog.attach(engine, catalog.spec.BUILTIN)
    importing.movielens(engine, Path(folder) / "ml-100k")
    return training_data.read_dataset(engine, attached)


def test_progress_tells_each_epoch_once_with_its_recall(data: Dataset, tmp_path: Path) -> None:
    told: list[Progress] = []
    uri = trained(data, tmp_path, progress=told.append)
    ends = [now for now in told if now.done == 1.0]
    assert [now.epoch for now in ends] == [1, 2, 3]
    assert all(now.epochs == 3 and now.recall is not None for now in ends)
    assert all(now.loss > 0 and now.examples_per_s > 0 for now in told)
    assert ends[-1].best == max(now.recall or 0 for now in ends)
    curve = lines_of(uri)
    assert curve == [(now.epoch, round(now.loss, 5), round(now.recall or 0, 5)) for now in ends]


def test_training_stops_early_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    data = checkerboard(items=400)  # whom nobody can guess among so many: recall goes up and down
    told: list[Progress] = []
    options: dict[str, object] = {"epochs": 30, "patience": 2, "learning_rate": 0.02}
    uri = trained(data, tmp_path, config=options, progress=told.append)
    ends = [now for now in told if now.done == 1.0]
    recalls = [now.recall or 0.0 for now in ends]
    assert len(ends) < 30
    assert recalls[::-1].index(max(recalls)) == 2, "the last of equally good ones"
    split = dataset.leave_one_out(data)
    met = evaluate.popularity(split) > 0
    assert not met.all()
    asked = np.where(met[data.item[split.valid]], split.valid, -1)
    encoder = artifact.load(uri)
    assert isinstance(encoder, RetrievalFormer)
    ranks = evaluate.rank_by(Learner(encoder, split).scorer(), data, asked, among=met)
    assert ranks.metrics()["recall@20"] == pytest.approx(max(recalls))


def test_metrics_in_the_artifact_are_those_of_the_stored_encoder(
    data: Dataset, tmp_path: Path
) -> None:
    uri = trained(data, tmp_path)
    split = dataset.leave_one_out(data)
    ranks = evaluate.rank_with(artifact.load(uri), split, split.test)
    said = artifact.describe(uri).metrics
    for name, value in ranks.metrics().items():
        assert said[name] == pytest.approx(value)


def test_held_out_events_do_not_reach_the_weights(data: Dataset, tmp_path: Path) -> None:
    """Only what decides when to stop may differ: one epoch leaves nothing to decide."""
    split = dataset.leave_one_out(data)
    item = data.item.copy()
    item[split.test] = (item[split.test] + 1) % len(data.items)
    value = np.where(split.train, data.value, np.float32(5))
    changed = replace(data, item=item, value=value)
    one = trained(data, tmp_path, config={"epochs": 1})
    assert_same_weights(one, trained(changed, tmp_path, config={"epochs": 1}))


@pytest.mark.parametrize("kinds", [("view", "purchase"), ("rating",)])
def test_validation_ranks_as_serving_does(data: Dataset, kinds: tuple[str, ...]) -> None:
    event = np.minimum(data.event, len(kinds) - 1)
    data = replace(data, event=event, event_names=kinds)
    split = dataset.leave_one_out(data)
    encoder = encoder_of(data, epochs=2)
    torch.nn.init.normal_(encoder.towers.users.events.event.weight)  # type: ignore[union-attr,arg-type]
    served = evaluate.rank_with(encoder, split, split.test)
    scored = evaluate.rank_by(Learner(encoder, split).scorer(), data, split.test)
    np.testing.assert_array_equal(scored.users, served.users)
    np.testing.assert_allclose(scored.masked, served.masked, atol=1)  # sums in another order
    assert np.mean(scored.masked == served.masked) > 0.95


@pytest.mark.parametrize("family", ["content", "retrievalformer"])
def test_facts_tell_what_was_trained_on(family: str, data: Dataset, tmp_path: Path) -> None:
    config = SMALL if family != "content" else {}
    info = train.train(family, data, str(tmp_path), config=config, seed=5, threads=1)
    assert info.facts["items"] == len(data.items)
    assert info.facts["users"] == len(data.user_keys)
    assert info.facts["events"] == len(data.user)
    assert info.facts["training_events"] == len(data.user) - 2 * len(data.user_keys)
    assert info.facts["seed"] == 5
    assert info.facts["dataset"] == data.fingerprint


@pytest.mark.slow
def test_on_movielens_it_is_well_above_popularity(movielens: Dataset, tmp_path: Path) -> None:
    info = train.train("retrievalformer", movielens, str(tmp_path), config={"epochs": 2}, threads=1)
    assert info.metrics["recall@20"] > 1.4 * info.metrics["popularity_recall@20"]
    assert info.metrics["recall@20_unmasked"] > info.metrics["popularity_recall@20_unmasked"]
