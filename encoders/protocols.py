"""What is trained on and what is asked: leave-one-out, and two ways to ask about cold items.

The two cold protocols are not comparable with each other, nor with leave-one-out: each names
itself. Imports no torch.

Shapes: E events, U users, N items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from encoders import dataset as datasets
from encoders.dataset import EVENT_ARRAYS, Dataset, IntArray, Split
from encoders.errors import DatasetInvalid


@dataclass(frozen=True, kw_only=True, eq=False)
class Protocol:
    """`training` is what a model may see. `targets` (U,) are the events to ask for, as numbers in
    `data`, -1 for users that nothing is asked of; what came before one is its history. `others`
    (U,) are the last events of the other users: what is won on cold items can be lost on these."""

    name: str
    training: Split
    data: Dataset
    targets: IntArray
    others: IntArray
    cold: NDArray[np.integer]  # items without any training event by this protocol


def leave_one_out(data: Dataset) -> Protocol:
    """Each user's last event is asked for."""
    split = datasets.leave_one_out(data)
    nothing = np.empty(0, dtype=np.int64)
    return Protocol(
        name="leave-one-out",
        training=split,
        data=data,
        targets=split.test,
        others=np.full_like(split.test, -1),
        cold=nothing,
    )


def leave_one_out_cold(data: Dataset, *, seed_users: int = 500, seed: int = 0) -> Protocol:
    """LOOC (RetrievalFormer, section 4.4.1): the last items of `seed_users` users are cold; every
    user whose last item is cold is asked for it; no event of a cold item is trained on."""
    split = datasets.leave_one_out(data)
    users = np.flatnonzero(split.test >= 0)
    if not len(users):
        raise DatasetInvalid("no user has three events, so nobody can be asked for the last one")
    rng = np.random.default_rng(seed)
    drawn = rng.choice(users, min(seed_users, len(users)), replace=False)
    cold = np.unique(data.item[split.test[drawn]])
    return _without(data, split, cold, name="leave-one-out, cold")


def cold_items(data: Dataset, *, share: float = 0.2, seed: int = 0) -> Protocol:
    """A share of all items, drawn at random, is cold; every user whose last item is cold is asked
    for it; no event of a cold item is trained on."""
    split = datasets.leave_one_out(data)
    count = round(share * len(data.items))
    cold = np.sort(np.random.default_rng(seed).choice(len(data.items), count, replace=False))
    return _without(data, split, cold, name=f"{share:.0%} of the items cold")


def _without(data: Dataset, split: Split, cold: NDArray[np.integer], *, name: str) -> Protocol:
    """Training on neither cold items, which come later, nor anybody's last event; the last that is
    left of each user with enough validates."""
    is_cold = np.zeros(len(data.items), dtype=np.bool_)
    is_cold[cold] = True
    last = np.zeros(len(data.user), dtype=np.bool_)
    last[split.test[split.test >= 0]] = True
    keep = ~is_cold[data.item] & ~last
    kept = replace(data, **{name: getattr(data, name)[keep] for name in EVENT_ARRAYS})
    asked = (split.test >= 0) & is_cold[data.item[np.maximum(split.test, 0)]]
    return Protocol(
        name=name,
        training=replace(_last_validates(kept), later=cold),
        data=data,
        targets=np.where(asked, split.test, -1),
        others=np.where(asked, -1, split.test),
        cold=cold,
    )


def _last_validates(data: Dataset) -> Split:
    ends = data.starts[1:]
    enough = (ends - data.starts[:-1]) >= 3
    valid = np.where(enough, ends - 1, -1)
    train = np.ones(len(data.user), dtype=np.bool_)
    train[valid[enough]] = False
    return Split(dataset=data, train=train, valid=valid, test=np.full_like(valid, -1))
