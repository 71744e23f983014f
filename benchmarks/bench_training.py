"""How fast RetrievalFormer learns, at the shape of MovieLens-1M: 3,700 items, six features.

    python -m benchmarks.bench_training [--config full] [--history 50] [--threads 1,2] [--set K=V]

Synthetic users of 165 events. A few steps are timed after others have warmed up; an epoch is a
million of their targets. Processor time hardly suffers from neighbours, the clock does.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from encoders import batches, dataset, families, learning
from encoders.dataset import Dataset
from encoders.progress import Run
from encoders.retrievalformer.config import Config
from encoders.retrievalformer.learner import Learner
from encoders.types import Feature, ItemRecord

ITEMS, USERS, EVENTS = 3_700, 800, 165
EPOCH = 1_000_000  # events of MovieLens-1M
WARM, TIMED = 8, 8  # steps: each of the first finds its memory paged in for the first time


def main() -> int:
    options = _options()
    data = world(np.random.default_rng(0))
    print("| configuration | history | threads | targets a step | ms | s an epoch | of processor |")
    print("|---|---|---|---|---|---|---|")
    for name in options.config.split(","):
        for history in map(int, options.history.split(",")):
            for threads in map(int, options.threads.split(",")):
                config = _configured(name, [*options.set, f"history={history}"])
                print(f"| {name} | {history} | {threads} | {_row(config, data, threads)} |")
                sys.stdout.flush()
    return 0


def world(rng: np.random.Generator) -> Dataset:
    """Random events, popular items more often; nothing to be learnt but the shape is right."""
    items = [
        ItemRecord(
            key=str(n),
            features={
                "title": " ".join(f"word{int(w)}" for w in rng.zipf(1.3, 4) % 4_000),
                "genres": [f"genre {int(g)}" for g in rng.integers(0, 18, rng.integers(1, 4))],
                "year": int(rng.integers(1920, 2001)),
                "decade": f"{int(rng.integers(8))}",
                "studio": f"studio {int(rng.integers(200))}",
                "country": f"country {int(rng.integers(40))}",
            },
        )
        for n in range(ITEMS)
    ]
    count = USERS * EVENTS
    return dataset.arrange(
        items=items,
        item_features=[
            Feature(name="title", kind="text"),
            Feature(name="genres", kind="categories"),
            Feature(name="year", kind="number"),
            *(Feature(name=name, kind="category") for name in ("decade", "studio", "country")),
        ],
        user_keys=[str(n) for n in range(USERS)],
        user_records=[
            {"age": int(rng.integers(18, 80)), "work": str(n % 20)} for n in range(USERS)
        ],
        user_features=[Feature(name="age", kind="number"), Feature(name="work", kind="category")],
        user=np.repeat(np.arange(USERS), EVENTS),
        item=(ITEMS * rng.random(count) ** 2).astype(np.int64),
        occurred_at=np.arange(count) * 60_000_000,
        value=rng.integers(1, 6, count).astype(np.float32),
    )


def _configured(name: str, pairs: list[str]) -> Config:
    config = families.configure("retrievalformer", {"config": name})
    assert isinstance(config, Config)
    said = dict(pair.split("=", 1) for pair in pairs)
    kinds: dict[str, type[Any]] = {key: type(getattr(config, key)) for key in said}
    return replace(config, **{key: kinds[key](value) for key, value in said.items()})


def _row(config: Config, data: Dataset, threads: int) -> str:
    torch.set_num_threads(threads)
    split = dataset.leave_one_out(data)
    run = Run(seed=0, device="cpu", checkpoint=None, progress=lambda _: None)
    with learning.seeded(run):
        learner = Learner.untrained(config, split, "cpu")
    optimizer = learning.optimizer_of(learner)
    learner.network.train()
    times: list[tuple[float, float, int]] = []
    windows = config.windows or batches.enough_windows(split, targets=config.targets)
    rng = np.random.default_rng(0)
    spans = batches.plan(split, targets=config.targets, windows=windows, rng=rng)
    for span, _ in zip(spans, range(WARM + TIMED), strict=False):
        began, processor = time.perf_counter(), time.process_time()
        batch = batches.gather(data, span, history=config.history)
        learning.step(learner, optimizer, batch)
        spent = time.perf_counter() - began, time.process_time() - processor
        times.append((*spent, int((batch.target >= 0).sum())))
    step, processor, targets = np.median(times[WARM:], axis=0).tolist()
    steps = EPOCH / targets
    return f"{targets:,.0f} | {1e3 * step:,.0f} | {steps * step:,.0f} | {steps * processor:,.0f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How fast RetrievalFormer learns.")
    parser.add_argument("--config", default="full")
    parser.add_argument("--history", default="50,200")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
