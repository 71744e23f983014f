"""What training is asked for, and what it tells while it runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from encoders.dataset import Ties


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training stands. `recall` is the validation Recall@20 of an epoch that has just
    ended, None in its midst or without users to validate on; `epochs` is the most there can be."""

    epoch: int  # 1 is the first
    epochs: int
    done: float  # share of this epoch, 0..1
    loss: float  # mean over the epoch so far
    examples_per_s: float
    recall: float | None = None
    best: float | None = None


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of a learning curve. `recall` is as in `Progress`."""

    epoch: int  # 1 is the first
    loss: float  # mean over its targets
    recall: float | None
    examples_per_s: float

    def as_dict(self) -> dict[str, float | None]:
        """As it is written down."""
        return {
            "epoch": self.epoch,
            "loss": round(self.loss, 5),
            "recall@20": None if self.recall is None else round(self.recall, 5),
            "examples_per_s": round(self.examples_per_s),
        }


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one training run was asked for."""

    seed: int
    device: str
    checkpoint: Path | None
    progress: Callable[[Progress], None]
    ties: Ties = "shuffled"  # anew for each epoch
