"""Where an interrupted training run takes up again: one safetensors file, replaced in one step.

It holds named groups of tensors and, in its header, numbers as JSON and the run it belongs to
(data, options, seed): another run's checkpoint is refused, never mixed in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
from torch import Tensor

from encoders.errors import TrainingFailed

FILE = "checkpoint.safetensors"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    run: str
    numbers: Mapping[str, Any]
    groups: Mapping[str, Mapping[str, Tensor]]  # group -> name -> tensor


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """The checkpoint lies in the folder, in place of the one before it."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, tensors in checkpoint.groups.items()
        for name, tensor in tensors.items()
    }
    header = {"run": checkpoint.run, "numbers": json.dumps(checkpoint.numbers)}
    aside = folder / f".{FILE}"
    cast(Any, safetensors.torch).save_file(flat, aside, metadata=header)
    aside.replace(folder / FILE)


def load(folder: Path, run: str) -> Checkpoint | None:
    """The folder's checkpoint, None when there is none. Raises TrainingFailed when it cannot be
    read or belongs to another run."""
    path = folder / FILE
    if not path.exists():
        return None
    remedy = f"remove {path} to begin anew, or name another folder"
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with cast(Any, safetensors).safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata()
            for key in file.keys():  # noqa: SIM118  # the file is no mapping
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
        numbers = json.loads(header["numbers"])
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as cause:
        raise TrainingFailed(f"the checkpoint cannot be read ({cause}): {remedy}") from cause
    if header.get("run") != run:
        raise TrainingFailed(f"the checkpoint is of other data, options or seed: {remedy}")
    return Checkpoint(run=run, numbers=numbers, groups=groups)


def remove(folder: Path) -> None:
    """No checkpoint is left there; the folder goes too if it is empty."""
    (folder / FILE).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
