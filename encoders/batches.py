"""Training examples of sequence models: every event is predicted once per epoch from what came
before it.

A window is a run of targets of one user with the history before the last of them: target j sees
at most `history` events, and all that the window holds of those before it. Windows begin at
places that change from epoch to epoch. Arrays only; torch is not needed here.

Shapes: B windows, L history events, P targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from encoders.dataset import Dataset, IntArray, Split
from encoders.types import FloatArray

GAPS = 30  # time gaps by powers of two: 1 s, 2 s, 4 s, ... 8 years and beyond
STEP, STEPS = 4_096, 16  # targets of a step, steps of an epoch, where that is left to us
POOL = 16  # batches whose windows are sorted by length together, so that little is padded


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """B windows. Position i of the history is padding from `length` on; target p is predicted
    from the first seen[p] positions, and is padding where `target` is -1. Missing context: event
    -1, value NaN, gap -1."""

    user: IntArray  # (B,)
    item: IntArray  # (B, L)
    event: IntArray  # (B, L)
    value: FloatArray  # (B, L)
    gap: IntArray  # (B, L)
    length: IntArray  # (B,)
    seen: IntArray  # (B, P)
    target: IntArray  # (B, P)


def gap_buckets(times: NDArray[np.datetime64]) -> IntArray:
    """(B, L) times -> bucket of the time since the event before it; -1 for the first of a row
    and where either time is missing (NaT)."""
    gaps = np.full(times.shape, -1, dtype=np.int64)
    micros = np.diff(times, axis=1).astype("timedelta64[us]")
    known = ~np.isnat(micros)
    seconds = np.maximum(micros[known].astype(np.int64), 0) / 1e6
    gaps[:, 1:][known] = np.minimum(np.log2(1 + seconds), GAPS - 1).astype(np.int64)
    return gaps


def plan(
    split: Split, *, targets: int, windows: int, rng: np.random.Generator
) -> Iterator[IntArray]:
    """An epoch's batches as spans (B, 3) of windows of at most `targets` targets, shuffled: of
    `windows` windows on average, and all of about as many targets. Every training event is a target
    exactly once."""
    spans = _spans(split, targets, rng)
    spans = spans[rng.permutation(len(spans))]
    for start in range(0, len(spans), windows * POOL):
        pool = spans[start : start + windows * POOL]
        pool = pool[np.argsort(pool[:, 2] - pool[:, 0], kind="stable")]
        seen = np.cumsum(pool[:, 2] - pool[:, 1])  # targets up to each window
        count = -(-len(pool) // windows)
        shares: FloatArray = seen[-1] * np.arange(1, count, dtype=np.float32) / count
        cuts: IntArray = np.searchsorted(seen, shares) + 1
        parts = [part for part in np.split(pool, cuts) if len(part)]
        for number in rng.permutation(len(parts)):
            yield parts[number]


def asked(data: Dataset, targets: IntArray) -> IntArray:
    """Spans (B, 3) that ask for one event each, by number, after all of its user's before it."""
    begin = data.starts[data.user[targets]]
    return np.stack([begin, targets, targets + 1], axis=1)


def gather(data: Dataset, spans: IntArray, *, history: int) -> Batch:
    """The windows of these spans, with at most `history` events before the last target."""
    begin, first, end = spans.T
    low = np.maximum(begin, end - 1 - history)  # where each window's history begins
    length = end - 1 - low
    last = len(data.user) - 1
    places = np.minimum(low[:, None] + np.arange(max(1, int(length.max()))), last)  # (B, L)
    padding = np.arange(int(places.shape[1])) >= length[:, None]
    wanted = first[:, None] + np.arange(int((end - first).max()))  # (B, P) event numbers
    beyond = wanted >= end[:, None]
    target = data.item[np.minimum(wanted, last)]
    gaps = gap_buckets(data.occurred_at[places].view("datetime64[us]"))
    return Batch(
        user=data.user[begin].astype(np.int64),
        item=np.where(padding, 0, data.item[places]).astype(np.int64),
        event=np.where(padding, -1, data.event[places]).astype(np.int64),
        value=np.where(padding, np.nan, data.value[places]).astype(np.float32),
        gap=np.where(padding, -1, gaps),
        length=length,
        seen=np.where(beyond, 0, wanted - low[:, None]),
        target=np.where(beyond, -1, target).astype(np.int64),
    )


def enough_windows(split: Split, *, targets: int) -> int:
    """Windows of a step that has about STEP targets, or fewer: an epoch has STEPS at least."""
    windows = steps(split, targets=targets, windows=1)
    return max(1, round(min(STEP / max(1, count(split)), 1 / STEPS) * windows))


def count(split: Split) -> int:
    """Targets of one epoch."""
    return int(split.train.sum())


def steps(split: Split, *, targets: int, windows: int) -> int:
    """Batches of one epoch, on average over where its windows begin."""
    counts = np.bincount(split.dataset.user[split.train])
    expected = counts[counts > 0] / targets + 1 - 1 / targets
    return max(1, round(float(np.maximum(expected, 1).sum()) / windows))


def _spans(split: Split, targets: int, rng: np.random.Generator) -> IntArray:
    """(W, 3) event numbers: the user's first, the first target, the end of the targets. Training
    events are the first of each user."""
    spans: list[tuple[int, int, int]] = []
    counts = np.bincount(split.dataset.user[split.train], minlength=len(split.dataset.user_keys))
    for start, number in zip(split.dataset.starts.tolist(), counts.tolist(), strict=False):
        end = start + number
        cuts = [start, *range(start + int(rng.integers(1, targets + 1)), end, targets), end]
        spans.extend((start, a, min(b, end)) for a, b in pairwise(cuts) if a < b)
    return np.asarray(spans, dtype=np.int64).reshape(-1, 3)
