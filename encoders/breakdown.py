"""Where a mean comes from: users by how popular, and how old, the item was that they wanted.

Each grouping puts every user that was asked into one group.

Shapes: U users asked, E events, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders import evaluate
from encoders.dataset import Dataset, IntArray
from encoders.evaluate import Interval

QUANTILES = 5
NEVER = "never"  # trained on
FIRST = "first event"  # of the item: nobody can have learnt it
DAY_US = 86_400_000_000
SPANS = (
    ("under a day", DAY_US),
    ("1–7 days", 7 * DAY_US),
    ("7–30 days", 30 * DAY_US),
    ("30–365 days", 365 * DAY_US),
    ("over a year", np.iinfo(np.int64).max),
)  # upper bounds, not included


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    name: str
    rows: NDArray[np.bool_]  # (U,)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A value's mean over one group."""

    name: str
    users: int
    value: Interval


def by_popularity(counts: NDArray[np.number], *, quantiles: int = QUANTILES) -> list[Group]:
    """Groups of about as many users each, by the training events (U,) of the item that each
    wanted; items without any are a group of their own. Equal counts stay together."""
    trained = counts > 0
    groups = [Group(name=NEVER, rows=~trained)]
    if trained.any():
        shares = np.arange(1, quantiles + 1) / quantiles
        tops = np.unique(np.quantile(counts[trained], shares, method="inverted_cdf"))
        numbers = np.searchsorted(tops, counts)  # the first top that is not below
        rows = [trained & (numbers == number) for number in range(len(tops))]
        groups += [Group(name=_range(counts[one]), rows=one) for one in rows]
    return [group for group in groups if group.rows.any()]


def by_age(ages_us: IntArray) -> list[Group]:
    """Groups by the age (U,) of the item that each wanted."""
    groups = [Group(name=FIRST, rows=ages_us == 0)]
    low = 1
    for name, high in SPANS:
        groups.append(Group(name=name, rows=(ages_us >= low) & (ages_us < high)))
        low = high
    return [group for group in groups if group.rows.any()]


def ages_us(data: Dataset, events: IntArray) -> IntArray:
    """How long before each of these events, in microseconds, its item had its first one."""
    first = np.full(len(data.items), np.iinfo(np.int64).max)
    np.minimum.at(first, data.item, data.occurred_at)
    return data.occurred_at[events] - first[data.item[events]]


def parts(values: NDArray[np.float64], groups: Sequence[Group], *, seed: int = 0) -> list[Part]:
    """The mean of per-user values (U,) in each group, with its bootstrap interval."""
    return [
        Part(
            name=group.name,
            users=int(group.rows.sum()),
            value=evaluate.mean_interval(values[group.rows], seed=seed),
        )
        for group in groups
    ]


def _range(counts: NDArray[np.number]) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
