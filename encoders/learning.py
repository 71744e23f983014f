"""Epochs, validation, early stopping and checkpoints, for every model that learns from events.

Everything random is drawn from (seed, epoch), so a run that was interrupted and takes up from its
last checkpoint ends with the same weights as one that never stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from encoders import batches, checkpoints, evaluate, precision
from encoders.batches import Batch
from encoders.checkpoints import Checkpoint
from encoders.dataset import Dataset, Split, shuffle_ties
from encoders.errors import NotEnoughData, TrainingFailed
from encoders.progress import Epoch, Progress, Run

# Where the number of epochs is left to us: so many, or on much data as many as make STEPS, and on
# little as many as make FEWEST_STEPS.
EPOCHS, FEWEST_EPOCHS = 24, 4
STEPS, FEWEST_STEPS = 6_000, 550
REPORT_S = 0.5  # between two reports in the midst of an epoch
TIES = 1  # of the random numbers of an epoch, those that order its ties


class Schedule(Protocol):
    """Options of training that every learning model has; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def history(self) -> int: ...
    @property
    def targets(self) -> int: ...
    @property
    def windows(self) -> int:
        """Of a step; 0 leaves it to their number of targets."""
        ...

    @property
    def learning_rate(self) -> float: ...
    @property
    def warm_up(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def epochs(self) -> int: ...
    @property
    def patience(self) -> int: ...
    @property
    def validation_users(self) -> int: ...


class Learner(Protocol):
    """A model in training, with the data that it is trained on."""

    @property
    def name(self) -> str: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def network(self) -> nn.Module: ...

    def loss(self, batch: Batch) -> Tensor:
        """A scalar: the mean over the batch's targets."""
        ...

    def scorer(self) -> evaluate.Scorer:
        """Scores by the weights as they are now: what is the same for all users is done once."""
        ...


@dataclass(kw_only=True)
class _State:
    """What a checkpoint must bring back besides the network and the optimizer."""

    epoch: int = 0  # epochs that have ended
    best: float = -1.0
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    curve: list[Epoch] = field(default_factory=list[Epoch])


def learn(learner: Learner, split: Split, run: Run) -> Sequence[Epoch]:
    """The network has the weights of its best epoch. Returns a line for each epoch that was run,
    also for those before an interruption."""
    running = _Run(learner, split, run)
    running.resume()
    while not running.finished:
        running.run_epoch()
    learner.network.load_state_dict(running.state.best_weights)
    learner.network.eval()
    return running.state.curve


def require(split: Split) -> None:
    """Raises NotEnoughData for a split that nothing can be learnt from."""
    items = len(split.dataset.items)
    if items < 2 or not split.train.any():
        raise NotEnoughData(
            f"{items} items and {batches.count(split)} training events are too few to learn from; "
            "import interactions, or train `content`, which needs none"
        )


@contextmanager
def seeded(run: Run, epoch: int = 0) -> Generator[None]:
    """Torch draws from (seed, epoch) inside, and goes on as before afterwards."""
    devices = [] if run.device == "cpu" else [torch.device(run.device)]
    anything = cast(Any, torch)
    with anything.random.fork_rng(devices=devices):
        anything.manual_seed(int(_rng(run, epoch).integers(2**62)))
        yield


def optimizer_of(learner: Learner) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        learner.network.parameters(),
        lr=learner.schedule.learning_rate,
        weight_decay=learner.schedule.weight_decay,
        fused=True,
    )


def step(learner: Learner, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """One step down the loss of a batch, which is returned."""
    network = learner.network
    with precision.rounded(next(network.parameters()).device):
        loss = learner.loss(batch)
        optimizer.zero_grad()
        cast(Any, loss).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    cast(Any, optimizer).step()
    return float(loss.detach())


class _Run:
    def __init__(self, learner: Learner, split: Split, run: Run) -> None:
        self.learner, self.split, self.run = learner, split, run
        self.network, self.schedule = learner.network, learner.schedule
        self.state = _State()
        self.optimizer = optimizer_of(learner)
        self.windows = self.schedule.windows or batches.enough_windows(
            split, targets=self.schedule.targets
        )
        self.epochs = self.schedule.epochs or self._enough_epochs()
        self.patience = self.schedule.patience or max(2, self.epochs // 4)
        self.identity = _identity(learner, split, run.seed)
        self.met = evaluate.popularity(split) > 0  # (N,)
        known = self.met[split.dataset.item[split.valid]] & (split.valid >= 0)
        self.asked = np.where(known, split.valid, -1)  # (U,)

    @property
    def finished(self) -> bool:
        stale = self.state.epoch - self.state.best_epoch
        return self.state.epoch >= self.epochs or stale >= self.patience

    def run_epoch(self) -> None:
        """One epoch, its validation and its checkpoint; then whoever watches is told."""
        with seeded(self.run, self.state.epoch + 1):
            loss, rate = self._pass_over_data()
        self.state.epoch += 1
        recall = self._validate()
        if recall is None or recall >= self.state.best:  # as good and later: more has been learnt
            self.state.best = self.state.best if recall is None else recall
            self.state.best_epoch = self.state.epoch
            weights = self.network.state_dict()
            self.state.best_weights = {name: w.detach().clone() for name, w in weights.items()}
        line = Epoch(epoch=self.state.epoch, loss=loss, recall=recall, examples_per_s=rate)
        self.state.curve.append(line)
        self._save()
        best = self.state.best if recall is not None else None
        report = self._report(done=1.0, loss=loss, rate=rate)
        self.run.progress(replace(report, epoch=self.state.epoch, recall=recall, best=best))

    def resume(self) -> None:
        """Take up where the checkpoint ended, if there is one."""
        if self.run.checkpoint is None:
            return
        found = checkpoints.load(self.run.checkpoint, self.identity)
        if found is None:
            return
        self.network.load_state_dict(dict(found.groups["network"]))
        self.state = _State(**found.numbers, best_weights=dict(found.groups["best"]))
        self.state.curve = [Epoch(**line) for line in found.numbers["curve"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in found.groups["optimizer"].items():
            number, _, what = name.partition(".")
            moments.setdefault(int(number), {})[what] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    def _pass_over_data(self) -> tuple[float, float]:
        """Mean loss and targets per second."""
        rng = _rng(self.run, self.state.epoch + 1)
        data, schedule = self._data(), self.schedule
        epoch = list(
            batches.plan(self.split, targets=schedule.targets, windows=self.windows, rng=rng)
        )
        total, seen, began, told = 0.0, 0, time.monotonic(), time.monotonic()
        self.network.train()
        for number, spans in enumerate(epoch):
            batch = batches.gather(data, spans, history=schedule.history)
            targets = int((batch.target >= 0).sum())
            total += self._step_at(batch, number / len(epoch), len(epoch)) * targets
            seen += targets
            if number + 1 < len(epoch) and time.monotonic() - told > REPORT_S:
                told = time.monotonic()
                rate, done = seen / (told - began), (number + 1) / len(epoch)
                self.run.progress(self._report(done=done, loss=total / seen, rate=rate))
        self.network.eval()
        if not math.isfinite(total):
            raise TrainingFailed(
                f"training diverged in epoch {self.state.epoch + 1}; lower learning_rate "
                f"({schedule.learning_rate:g})"
            )
        return total / seen, seen / (time.monotonic() - began)

    def _data(self) -> Dataset:
        """This epoch's: events of one user at one time have no order, so each epoch draws one."""
        if self.run.ties == "listed":
            return self.split.dataset
        rng = _rng(self.run, self.state.epoch + 1, TIES)
        return shuffle_ties(self.split.dataset, rng, among=self.split.train)

    def _step_at(self, batch: Batch, done: float, steps: int) -> float:
        rate = _learning_rate(self.schedule, self.state.epoch + done, self.epochs, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return step(self.learner, self.optimizer, batch)

    def _report(self, *, done: float, loss: float, rate: float) -> Progress:
        return Progress(
            epoch=self.state.epoch + 1,
            epochs=self.epochs,
            done=done,
            loss=loss,
            examples_per_s=rate,
        )

    def _validate(self) -> float | None:
        """Recall@20 on what each user did last but one, None when nobody did enough. Among items
        that training met: how it deals with others, this data cannot tell."""
        if not (self.asked >= 0).any():
            return None
        ranks = evaluate.rank_by(
            self.learner.scorer(),
            self.split.dataset,
            self.asked,
            among=self.met,
            limit=self.schedule.validation_users,
            seed=self.run.seed,
        )
        return ranks.metrics()["recall@20"]

    def _enough_epochs(self) -> int:
        steps = batches.steps(self.split, targets=self.schedule.targets, windows=self.windows)
        usual = max(FEWEST_EPOCHS, min(EPOCHS, round(STEPS / steps)))
        return max(usual, math.ceil(FEWEST_STEPS / steps))

    def _save(self) -> None:
        if self.run.checkpoint is None:
            return
        state = self.optimizer.state_dict()["state"]
        checkpoint = Checkpoint(
            run=self.identity,
            numbers={
                "epoch": self.state.epoch,
                "best": self.state.best,
                "best_epoch": self.state.best_epoch,
                "curve": [dataclasses.asdict(line) for line in self.state.curve],
            },
            groups={
                "network": self.network.state_dict(),
                "best": self.state.best_weights,
                "optimizer": {f"{n}.{k}": v for n, one in state.items() for k, v in one.items()},
            },
        )
        checkpoints.save(self.run.checkpoint, checkpoint)


def _rng(run: Run, epoch: int, *what: int) -> np.random.Generator:
    """The random numbers of an epoch, 0 before the first; each `what` has its own."""
    return np.random.default_rng([run.seed, epoch, *what])


def _learning_rate(schedule: Schedule, passed: float, epochs: int, steps: int) -> float:
    """Up in a straight line, then down to nothing by a cosine; `passed` of the epochs are over."""
    done, first = passed / epochs, 1 / (steps * epochs)
    rising = (done + first) / max(schedule.warm_up, first)
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return schedule.learning_rate * min(1.0, rising) * falling


def _identity(learner: Learner, split: Split, seed: int) -> str:
    """Names the run: equal for equal data, options and seed."""
    options = json.dumps(dataclasses.asdict(cast(Any, learner.schedule)), sort_keys=True)
    named = f"{learner.name} {seed} {options} {split.dataset.fingerprint}"
    digest = hashlib.sha256(named.encode())
    digest.update(split.train.tobytes())
    digest.update(split.valid.tobytes())
    return digest.hexdigest()
