"""Epochs, validation, early stopping and checkpoints of the towers that learn.

Everything random is drawn from (seed, epoch), so a run that was interrupted and takes up from its
last checkpoint ends with the same weights as one that never stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from encoders import batches, checkpoints, evaluate, retrievalformer
from encoders.batches import Batch
from encoders.checkpoints import Checkpoint
from encoders.dataset import Split
from encoders.errors import NotEnoughData, TrainingFailed
from encoders.progress import Progress, Run
from encoders.retrievalformer import RetrievalFormer

FEWEST_EPOCHS, FEWEST_STEPS = 4, 550  # where the number of epochs is left to us
REPORT_S = 0.5  # between two reports in the midst of an epoch


@dataclass(kw_only=True)
class _State:
    """What a checkpoint must bring back besides the towers and the optimizer."""

    epoch: int = 0  # epochs that have ended
    best: float = -1.0
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def learn(config: retrievalformer.Config, split: Split, run: Run) -> tuple[RetrievalFormer, int]:
    """Towers with the weights of the best epoch, and how many epochs were run."""
    _require(split)
    with _seeded(run, 0):
        encoder = _untrained(config, split, run.device)
    learner = _Learner(encoder, split, run)
    learner.resume()
    while not learner.finished:
        learner.run_epoch()
    encoder.towers.load_state_dict(learner.state.best_weights)
    encoder.towers.eval()
    return encoder, learner.state.epoch


class _Learner:
    def __init__(self, encoder: RetrievalFormer, split: Split, run: Run) -> None:
        data, self.config = split.dataset, encoder.config
        self.encoder, self.split, self.run = encoder, split, run
        self.state = _State()
        self.catalogue = encoder.item_entities(data.items)
        self.profiles = encoder.user_entities(data.user_records)
        share = evaluate.popularity(split) / batches.count(split)
        self.share = torch.as_tensor(share, device=encoder.device)
        self.optimizer = torch.optim.AdamW(
            encoder.towers.parameters(), lr=self.config.learning_rate, weight_decay=0.01, fused=True
        )
        self.epochs = self.config.epochs or _enough_epochs(self.config, split)
        self.patience = self.config.patience or max(2, self.epochs // 4)
        self.identity = _identity(encoder, split, run.seed)

    @property
    def finished(self) -> bool:
        stale = self.state.epoch - self.state.best_epoch
        return self.state.epoch >= self.epochs or stale >= self.patience

    def run_epoch(self) -> None:
        """One epoch, its validation and its checkpoint; then whoever watches is told."""
        with _seeded(self.run, self.state.epoch + 1):
            loss, rate = self._pass_over_data()
        self.state.epoch += 1
        recall = self._validate()
        if recall is None or recall > self.state.best:
            self.state.best = self.state.best if recall is None else recall
            self.state.best_epoch = self.state.epoch
            weights = self.encoder.towers.state_dict()
            self.state.best_weights = {name: w.detach().clone() for name, w in weights.items()}
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
        self.encoder.towers.load_state_dict(dict(found.groups["towers"]))
        self.state = _State(**found.numbers, best_weights=dict(found.groups["best"]))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in found.groups["optimizer"].items():
            number, _, what = name.partition(".")
            moments.setdefault(int(number), {})[what] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    def _pass_over_data(self) -> tuple[float, float]:
        """Mean loss and targets per second."""
        rng = np.random.default_rng([self.run.seed, self.state.epoch + 1])
        epoch = list(
            batches.plan(
                self.split, targets=self.config.targets, windows=self.config.windows, rng=rng
            )
        )
        total, seen, began, told = 0.0, 0, time.monotonic(), time.monotonic()
        self.encoder.towers.train()
        for number, spans in enumerate(epoch):
            batch = batches.gather(self.split, spans, history=self.config.history)
            targets = int((batch.target >= 0).sum())
            total += self._step(batch, number / len(epoch), len(epoch)) * targets
            seen += targets
            if number + 1 < len(epoch) and time.monotonic() - told > REPORT_S:
                told = time.monotonic()
                rate, done = seen / (told - began), (number + 1) / len(epoch)
                self.run.progress(self._report(done=done, loss=total / seen, rate=rate))
        self.encoder.towers.eval()
        if not math.isfinite(total):
            raise TrainingFailed(
                f"training diverged in epoch {self.state.epoch + 1}; lower learning_rate "
                f"({self.config.learning_rate:g})"
            )
        return total / seen, seen / (time.monotonic() - began)

    def _step(self, batch: Batch, done: float, steps: int) -> float:
        rate = _learning_rate(self.config, self.state.epoch + done, self.epochs, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        users = torch.as_tensor(batch.user, device=self.share.device)
        towers = self.encoder.towers
        loss = towers.loss(batch, self.catalogue, self.profiles.take(users), self.share)
        self.optimizer.zero_grad()
        cast(Any, loss).backward()
        torch.nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
        cast(Any, self.optimizer).step()
        return float(loss.detach())

    def _report(self, *, done: float, loss: float, rate: float) -> Progress:
        return Progress(
            epoch=self.state.epoch + 1,
            epochs=self.epochs,
            done=done,
            loss=loss,
            examples_per_s=rate,
        )

    def _validate(self) -> float | None:
        """Recall@20 on what each user did last but one, None when nobody did enough."""
        if not (self.split.valid >= 0).any():
            return None
        ranks = evaluate.rank_with(
            self.encoder,
            self.split,
            self.split.valid,
            limit=self.config.validation_users,
            seed=self.run.seed,
        )
        return ranks.metrics()["recall@20"]

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
            },
            groups={
                "towers": self.encoder.towers.state_dict(),
                "best": self.state.best_weights,
                "optimizer": {f"{n}.{k}": v for n, one in state.items() for k, v in one.items()},
            },
        )
        checkpoints.save(self.run.checkpoint, checkpoint)


def _untrained(config: retrievalformer.Config, split: Split, device: str) -> RetrievalFormer:
    data = split.dataset
    return retrievalformer.build(
        config,
        items=data.items,
        item_features=data.item_features,
        users=data.user_records,
        user_features=data.user_features,
        event_names=data.event_names,
        values=data.value[split.train],
        device=device,
    )


def _require(split: Split) -> None:
    items = len(split.dataset.items)
    if items < 2 or not split.train.any():
        raise NotEnoughData(
            f"{items} items and {batches.count(split)} training events are too few to learn from; "
            "import interactions, or train `content`, which needs none"
        )


def _enough_epochs(config: retrievalformer.Config, split: Split) -> int:
    steps = batches.steps(split, targets=config.targets, windows=config.windows)
    return max(FEWEST_EPOCHS, math.ceil(FEWEST_STEPS / steps))


def _learning_rate(config: retrievalformer.Config, passed: float, epochs: int, steps: int) -> float:
    """Up in a straight line, then down to nothing by a cosine; `passed` of the epochs are over."""
    done, first = passed / epochs, 1 / (steps * epochs)
    rising = (done + first) / max(config.warm_up, first)
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * min(1.0, rising) * falling


def _identity(encoder: RetrievalFormer, split: Split, seed: int) -> str:
    """Names the run: equal for equal data, options and seed."""
    options = json.dumps(dataclasses.asdict(encoder.config), sort_keys=True)
    named = f"{encoder.family} {seed} {options} {split.dataset.fingerprint}"
    return hashlib.sha256(named.encode()).hexdigest()


@contextmanager
def _seeded(run: Run, epoch: int) -> Generator[None]:
    """Torch draws from (seed, epoch) inside, and goes on as before afterwards."""
    devices = [] if run.device == "cpu" else [torch.device(run.device)]
    anything = cast(Any, torch)
    with anything.random.fork_rng(devices=devices):
        anything.manual_seed(int(np.random.default_rng([run.seed, epoch]).integers(2**62)))
        yield
