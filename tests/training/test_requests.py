"""What training is asked for: enough data, known options, a device; or it says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import checkerboard

from encoders import artifact, dataset, evaluate, learning, train
from encoders.dataset import Dataset
from encoders.errors import EncoderError, NotEnoughData, TrainingFailed, UnknownFamily
from encoders.progress import Run
from encoders.retrievalformer.learner import Learner
from encoders.types import Feature, ItemRecord, UserState
from training.runs import SMALL, encoder_of, trained


@pytest.mark.parametrize("items", [0, 1, 5])
def test_content_needs_no_events_and_not_even_items(items: int, tmp_path: Path) -> None:
    info = train.train("content", empty(items), str(tmp_path))
    encoder = artifact.load(info.uri)
    assert info.metrics == {}
    vectors = np.asarray(encoder.encode_items([item("new title"), item("")]).vectors["content"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    (query,) = encoder.encode_users([UserState(features={}, history=())])
    np.testing.assert_allclose(np.linalg.norm(np.asarray(query.values)), 1, atol=1e-5)


@pytest.mark.parametrize("items", [0, 1, 5])
def test_learning_from_nothing_is_refused_with_advice(items: int, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughData, match=r"0 training events.*train `content`"):
        trained(empty(items), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["content", "retrievalformer"])
def test_items_without_features_are_refused(family: str, tmp_path: Path) -> None:
    bare = replace(checkerboard(), item_features=())
    with pytest.raises(TrainingFailed, match="at least one item feature"):
        train.train(family, bare, str(tmp_path))


def test_two_users_with_one_event_each_are_enough_to_learn(tmp_path: Path) -> None:
    tiny = dataset.arrange(
        items=[item("a"), replace(item("b"), key="l")],
        item_features=[Feature(name="title", kind="text")],
        user_keys=["u", "v"],
        user=[0, 1],
        item=[0, 1],
        occurred_at=[1, 1],
    )
    info = artifact.describe(trained(tiny, tmp_path))
    assert info.metrics == {}
    assert info.facts["epochs"] == 3


def test_bad_requests_are_clear_errors(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UnknownFamily, match="nonsense"):
        train.train("nonsense", data, str(tmp_path))
    with pytest.raises(TrainingFailed, match="threads must be at least 1"):
        train.train("content", data, str(tmp_path), threads=0)
    with pytest.raises(TrainingFailed, match="text model"):
        train.train("content", data, str(tmp_path), config={"text_model": "wheel:none"})


@pytest.mark.parametrize(
    "option",
    [{"width": 0}, {"epochs": -1}, {"dropout": 1.0}, {"learning_rate": float("nan")}],
    ids=str,
)
def test_options_out_of_bounds_are_named(option: dict[str, object], tmp_path: Path) -> None:
    (name,) = option
    with pytest.raises(TrainingFailed, match=f"option '{name}' must be"):
        trained(checkerboard(), tmp_path, config=option)


@pytest.mark.parametrize("family", ["content", "retrievalformer"])
def test_a_device_that_is_not_there_is_a_clear_error(
    family: str, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(EncoderError, match=r"device 'warp drive' cannot be used .*use cpu"):
        train.train(family, data, str(tmp_path), device="warp drive")
    info = train.train("content", data, str(tmp_path))
    with pytest.raises(EncoderError, match="cannot be used"):
        artifact.load(info.uri, device="warp drive")


@pytest.mark.parametrize("family", ["content", "retrievalformer"])
def test_a_bad_row_does_not_stop_training(
    family: str, data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = replace(data.items[0], features={**data.items[0].features, "year": "soon"})
    spoilt = replace(
        data,
        items=(first, *data.items[1:]),
        user_records=({"age": {"years": 3}}, *data.user_records[1:]),
    )
    config = {**SMALL, "epochs": 1} if family != "content" else {}
    info = train.train(family, spoilt, str(tmp_path), config=config, threads=1)
    assert info.facts["unreadable_values"] == 2
    assert first.key in caplog.text
    split = dataset.leave_one_out(spoilt)
    evaluate.rank_with(artifact.load(info.uri), split, split.test)


def test_a_rate_that_blows_the_weights_up_is_told(data: Dataset, tmp_path: Path) -> None:
    encoder = encoder_of(data, epochs=1)
    split = dataset.leave_one_out(data)
    run = Run(seed=0, device="cpu", checkpoint=None, progress=lambda _: None)
    with torch.no_grad():
        encoder.towers.sharpness.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="diverged in epoch 1; lower learning_rate"):
        learning.learn(Learner(encoder, split), split, run)


def empty(items: int = 0) -> Dataset:
    return dataset.arrange(
        items=[ItemRecord(key=str(n), features={"title": f"word{n}"}) for n in range(items)],
        item_features=[Feature(name="title", kind="text"), Feature(name="f", kind="number")],
        user_keys=["u"],
        user=[],
        item=[],
        occurred_at=np.zeros(0, dtype=np.int64),
    )


def item(title: str) -> ItemRecord:
    return ItemRecord(key="k", features={"title": title})
