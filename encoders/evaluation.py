"""An encoder's evaluation from its question to its figures: leave-one-out, full ranking, intervals
by bootstrap, and plain popularity beside it.

An encoder is asked only for events that its training held out. Ties (events of one user at one
time) decide which event is the last, so they are ordered as in training: shuffled by its seed.

Shapes: U users asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from encoders import breakdown, evaluate
from encoders import dataset as datasets
from encoders.breakdown import Part
from encoders.dataset import Dataset, IntArray, Split, Ties
from encoders.evaluate import Interval, Ranks

PROTOCOL = "leave-one-out"
PARTED = "recall@20"  # the value that is broken down


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """Who is asked for what. `left_out` users are not asked, because the encoder was trained on
    what they did last, or stopped by it. `as_trained` is False where the data is not what the
    encoder was trained on, so that nobody knows."""

    split: Split
    targets: IntArray  # (U of all users), -1: not asked
    left_out: int
    as_trained: bool


def in_order(data: Dataset, ties: Ties, seed: int) -> Dataset:
    """Ties shuffled by the seed, or as the source lists them."""
    return datasets.shuffle_ties(data, np.random.default_rng(seed)) if ties == "shuffled" else data


def question(data: Dataset, facts: Mapping[str, object], ties: Ties, seed: int) -> Question:
    """Each user's last event, where training held it out: `facts` are those of the encoder, and
    `data` is as it was given to training."""
    data, _ = datasets.readable(data)
    split = datasets.leave_one_out(in_order(data, ties, seed))
    given = cast(Ties, facts.get("ties", "listed"))
    trained = in_order(data, given, cast(int, facts.get("seed", 0)))
    held_out = datasets.leave_one_out(trained).test  # (U,)
    asked = split.test >= 0
    same = np.zeros_like(asked)
    same[asked] = split.dataset.item[split.test[asked]] == trained.item[held_out[asked]]
    return Question(
        split=split,
        targets=np.where(same, split.test, -1),
        left_out=int((asked & ~same).sum()),
        as_trained=trained.fingerprint == facts.get("dataset"),
    )


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What an encoder reached, by metric: all users', and of `PARTED` each group's, with the same
    of popularity beside it. `difference` is paired by user."""

    users: int
    encoder: Mapping[str, Interval]
    popularity: Mapping[str, Interval]
    difference: Mapping[str, Interval]
    by_popularity: Sequence[Part]
    by_age: Sequence[Part]
    popularity_by_popularity: Sequence[Part]
    popularity_by_age: Sequence[Part]


def figures(ours: Ranks, popular: Ranks, asked: Question, *, seed: int = 0) -> Figures:
    """Of the same users, at least one."""
    events = asked.targets[ours.users]
    data = asked.split.dataset
    counts = evaluate.popularity(asked.split)[data.item[events]]
    groups = breakdown.by_popularity(counts), breakdown.by_age(breakdown.ages_us(data, events))
    mine, theirs = ours.values(), popular.values()
    (by_popularity, by_age), (popular_by_popularity, popular_by_age) = (
        [breakdown.parts(values[PARTED], one, seed=seed) for one in groups]
        for values in (mine, theirs)
    )
    return Figures(
        users=len(ours.users),
        encoder=intervals(mine, seed=seed),
        popularity=intervals(theirs, seed=seed),
        difference=intervals(differences(mine, theirs), seed=seed),
        by_popularity=by_popularity,
        by_age=by_age,
        popularity_by_popularity=popular_by_popularity,
        popularity_by_age=popular_by_age,
    )


Values = Mapping[str, NDArray[np.float64]]  # metric -> (U,)


def differences(ours: Values, theirs: Values) -> Values:
    return {name: ours[name] - theirs[name] for name in ours}


def intervals(values: Values, *, seed: int = 0) -> dict[str, Interval]:
    """Each metric's mean with its interval, all by the same draws of users."""
    found = evaluate.mean_intervals(np.stack(list(values.values()), axis=1), seed=seed)
    return dict(zip(values, found, strict=True))


def write_ranks(path: Path, **ranks: Ranks) -> None:
    """Ranks of the same users by name: the arrays `users`, `NAME_masked` and `NAME_unmasked`.
    Doubled, so that the halves of ties are whole numbers; 0 is what was not found."""
    users = next(iter(ranks.values())).users
    arrays: dict[str, NDArray[np.int32]] = {}
    for name, one in ranks.items():
        assert np.array_equal(one.users, users), name
        arrays[f"{name}_masked"] = _doubled(one.masked)
        arrays[f"{name}_unmasked"] = _doubled(one.unmasked)
    np.savez_compressed(path, users=users.astype(np.int32), allow_pickle=False, **arrays)


def _doubled(ranks: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.round(np.where(np.isfinite(ranks), 2 * ranks, 0)).astype(np.int32)
