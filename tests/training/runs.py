"""Short trainings, and what is left of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from encoders import artifact, dataset, learning, retrievalformer, train
from encoders.dataset import Dataset
from encoders.progress import Progress, Run
from encoders.retrievalformer import RetrievalFormer
from encoders.retrievalformer.learner import Learner

SMALL: dict[str, object] = {"width": 16, "epochs": 3, "windows": 8, "patience": 3}


def trained(
    data: Dataset,
    root: Path,
    *,
    seed: int = 0,
    config: dict[str, object] | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> str:
    return train.train(
        "retrievalformer",
        data,
        str(root),
        config={**SMALL, **(config or {})},
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
        threads=1,
    ).uri


def encoder_of(data: Dataset, **config: object) -> RetrievalFormer:
    split = dataset.leave_one_out(data)
    options = retrievalformer.Config(**{**SMALL, "noise": 0.0, "dropout": 0.0, **config})  # type: ignore[arg-type]
    run = Run(seed=0, device="cpu", checkpoint=None, progress=lambda _: None)
    learner = Learner.untrained(options, split, "cpu")
    learning.learn(learner, split, run)
    return learner.encoder


def weights_of(info_uri: str) -> dict[str, np.ndarray]:
    encoder = artifact.load(info_uri)
    assert isinstance(encoder, RetrievalFormer)
    return {name: w.numpy().copy() for name, w in encoder.towers.state_dict().items()}


def assert_same_weights(one: str, other: str) -> None:
    left, right = weights_of(one), weights_of(other)
    assert left.keys() == right.keys()
    for name, weight in left.items():
        np.testing.assert_array_equal(weight, right[name], err_msg=name)


def lines_of(uri: str) -> list[tuple[int, float, float]]:
    """The learning curve in the artifact, without how fast it went."""
    curve = cast("list[dict[str, Any]]", artifact.describe(uri).facts["curve"])
    assert all(line["examples_per_s"] > 0 for line in curve)
    return [(line["epoch"], line["loss"], line["recall@20"]) for line in curve]
