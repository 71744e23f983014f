"""Training is seeded and resumable: the same again, in one go or in two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import checkerboard

from encoders.dataset import Dataset
from encoders.errors import TrainingFailed
from encoders.progress import Progress
from training.runs import assert_same_weights, lines_of, trained, weights_of


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    data: Dataset, tmp_path: Path
) -> None:
    first = trained(data, tmp_path)
    torch.rand(7)  # whoever else draws numbers does not matter
    assert_same_weights(first, trained(data, tmp_path))
    other = weights_of(trained(data, tmp_path, seed=1))
    assert any(not np.array_equal(w, other[name]) for name, w in weights_of(first).items())


def test_training_leaves_the_callers_random_numbers_alone(data: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    trained(data, tmp_path)
    torch.testing.assert_close(torch.rand(4), wanted)


@pytest.mark.parametrize("after", [1, 2])
def test_interrupted_and_taken_up_again_equals_one_go(
    data: Dataset, tmp_path: Path, after: int
) -> None:
    def interrupt(now: Progress) -> None:
        if now.done == 1.0 and now.epoch == after:
            raise KeyboardInterrupt

    checkpoint, seen = tmp_path / "checkpoint", list[int]()
    with pytest.raises(KeyboardInterrupt):
        trained(data, tmp_path, checkpoint=checkpoint, progress=interrupt)
    assert checkpoint.exists()
    uri = trained(
        data, tmp_path, checkpoint=checkpoint, progress=lambda now: seen.append(now.epoch)
    )
    assert min(seen) == after + 1
    assert not checkpoint.exists()
    whole = trained(data, tmp_path)
    assert_same_weights(uri, whole)
    assert lines_of(uri) == lines_of(whole)
    assert [line[0] for line in lines_of(uri)] == [1, 2, 3]


def test_a_checkpoint_of_another_run_is_refused(data: Dataset, tmp_path: Path) -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(data, tmp_path, checkpoint=tmp_path / "c", progress=interrupt)
    with pytest.raises(TrainingFailed, match=r"other data, options or seed: remove .*checkpoint"):
        trained(data, tmp_path, checkpoint=tmp_path / "c", seed=1)
    with pytest.raises(TrainingFailed, match="other data"):
        trained(checkerboard(), tmp_path, checkpoint=tmp_path / "c")
    (tmp_path / "c" / "checkpoint.safetensors").write_bytes(b"nonsense")
    with pytest.raises(TrainingFailed, match="cannot be read"):
        trained(data, tmp_path, checkpoint=tmp_path / "c")
