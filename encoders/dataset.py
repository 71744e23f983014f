"""Training data: items, users and what users did, as arrays. Imports no torch.

A dataset is checked when it is made, so that whoever holds one need not look again. Times are
int64 microseconds: float32 seconds would reorder events (they resolve 64 s at today's dates).

Shapes: E events, U users, N items.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from encoders import values
from encoders.errors import DatasetInvalid
from encoders.types import Feature, FloatArray, ItemRecord

IntArray = NDArray[np.int64]
Ties = Literal["shuffled", "listed"]  # events of one user at one time: in no order, or as listed

LOGGED = 5  # unreadable values, of all that there are

log = logging.getLogger(__name__)

EVENT_ARRAYS = {
    "user": np.int32,
    "item": np.int32,
    "occurred_at": np.int64,
    "value": np.float32,
    "event": np.int16,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A catalog, its users and their events, sorted by (user, occurred_at, input order).

    `user` and `item` (E,) index into `user_keys` and `items`; `value` is NaN and `event` is -1
    where an event has none; `event` indexes into `event_names`. Raises DatasetInvalid.
    """

    items: tuple[ItemRecord, ...]
    item_features: tuple[Feature, ...]
    user_keys: tuple[str, ...]
    user_records: tuple[Mapping[str, object], ...]
    user_features: tuple[Feature, ...]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    occurred_at: NDArray[np.int64]
    value: FloatArray
    event: NDArray[np.int16]
    event_names: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_events(self)
        _check_names(self)

    @cached_property
    def starts(self) -> IntArray:
        """(U + 1,): the events of user u are [starts[u], starts[u + 1])."""
        return np.searchsorted(self.user, np.arange(len(self.user_keys) + 1)).astype(np.int64)

    @cached_property
    def item_index(self) -> Mapping[str, int]:
        return {item.key: row for row, item in enumerate(self.items)}

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same data in any process; other data gives another."""
        digest = hashlib.sha256()
        for name in EVENT_ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        for part in _described(self):
            digest.update(json.dumps(part, default=str, sort_keys=True).encode())
        return digest.hexdigest()


def arrange(
    *,
    items: Sequence[ItemRecord],
    item_features: Sequence[Feature],
    user_keys: Sequence[str],
    user_records: Sequence[Mapping[str, object]] = (),
    user_features: Sequence[Feature] = (),
    user: Sequence[int] | NDArray[np.integer],
    item: Sequence[int] | NDArray[np.integer],
    occurred_at: Sequence[int] | NDArray[np.integer],
    value: Sequence[float] | NDArray[np.floating] | None = None,
    event: Sequence[int] | NDArray[np.integer] | None = None,
    event_names: Sequence[str] = (),
) -> Dataset:
    """A dataset from events in any order: they are sorted stably, so ties keep the input's order.
    No `user_records` means that no user has features."""
    users = np.asarray(user, dtype=np.int32)
    times = np.asarray(occurred_at)
    if times.dtype.kind == "f":
        raise DatasetInvalid("occurred_at must be whole microseconds; floats would reorder events")
    times = times.astype(np.int64)
    count = len(users)
    numbers = np.full(count, np.nan) if value is None else np.asarray(value)
    events = np.full(count, -1) if event is None else np.asarray(event)
    order = np.lexsort((np.arange(count), times, users))
    return Dataset(
        items=tuple(items),
        item_features=tuple(item_features),
        user_keys=tuple(user_keys),
        user_records=tuple(user_records) or tuple({} for _ in user_keys),
        user_features=tuple(user_features),
        user=users[order],
        item=np.asarray(item, dtype=np.int32)[order],
        occurred_at=times[order],
        value=numbers.astype(np.float32)[order],
        event=events.astype(np.int16)[order],
        event_names=tuple(event_names),
    )


def without_events_of(dataset: Dataset, keys: Sequence[str]) -> Dataset:
    """The same catalog and users, without any event of these items: they are cold afterwards."""
    rows = [dataset.item_index[key] for key in keys]
    keep = ~np.isin(dataset.item, np.asarray(rows, dtype=np.int32))
    return replace(dataset, **{name: getattr(dataset, name)[keep] for name in EVENT_ARRAYS})


def readable(dataset: Dataset) -> tuple[Dataset, int]:
    """The dataset without feature values that no tower can read (a word where a number should
    be), and how many those were; the first few are logged. One bad row must not stop training."""
    items, bad_items = values.readable(
        dataset.item_features, [(f"item {item.key!r}", item.features) for item in dataset.items]
    )
    keys = [f"user {key!r}" for key in dataset.user_keys]
    users, bad_users = values.readable(
        dataset.user_features, list(zip(keys, dataset.user_records, strict=True))
    )
    problems = [*bad_items, *bad_users]
    for problem in problems[:LOGGED]:
        log.warning("taken as missing: %s", problem)
    if not problems:
        return dataset, 0
    records = zip(dataset.items, items, strict=True)
    return replace(
        dataset,
        items=tuple(replace(item, features=features) for item, (_, features) in records),
        user_records=tuple(features for _, features in users),
    ), len(problems)


def shuffle_ties(
    dataset: Dataset, rng: np.random.Generator, *, among: NDArray[np.bool_] | None = None
) -> Dataset:
    """The same events, those of one user at one time in a random order: they have none, and sources
    often list them by item id, which a model can learn. Where only those `among` (E,) may move, the
    others keep their numbers."""
    rows = np.arange(len(dataset.user)) if among is None else np.flatnonzero(among)
    noise = rng.random(len(rows))
    order = np.arange(len(dataset.user))
    order[rows] = rows[np.lexsort((noise, dataset.occurred_at[rows], dataset.user[rows]))]
    return replace(dataset, **{name: getattr(dataset, name)[order] for name in EVENT_ARRAYS})


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Leave-one-out: a user's last event is for the test, the one before it for validation.

    `train` (E,) marks the others. `valid` and `test` (U,) hold event numbers, -1 for users of
    fewer than three events: all of theirs are for training. `later` are items that come after
    training: these have no event in it, and are not even known to have none.
    """

    dataset: Dataset
    train: NDArray[np.bool_]
    valid: IntArray
    test: IntArray
    later: NDArray[np.integer] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def leave_one_out(dataset: Dataset) -> Split:
    starts = dataset.starts
    ends = starts[1:]
    enough = (ends - starts[:-1]) >= 3
    test = np.where(enough, ends - 1, -1)
    valid = np.where(enough, ends - 2, -1)
    train = np.ones(len(dataset.user), dtype=np.bool_)
    train[test[enough]] = False
    train[valid[enough]] = False
    return Split(dataset=dataset, train=train, valid=valid, test=test)


def _described(dataset: Dataset) -> Sequence[object]:
    return (
        [[item.key, dict(item.features)] for item in dataset.items],
        [[f.name, f.kind] for f in (*dataset.item_features, *dataset.user_features)],
        list(dataset.user_keys),
        [dict(record) for record in dataset.user_records],
        list(dataset.event_names),
    )


def _check_events(dataset: Dataset) -> None:
    count = len(dataset.user)
    for name, dtype in EVENT_ARRAYS.items():
        array = getattr(dataset, name)
        if array.dtype != dtype or array.shape != (count,):
            raise DatasetInvalid(
                f"{name} must be {np.dtype(dtype).name} of shape ({count},), "
                f"not {array.dtype.name} of shape {array.shape}"
            )
    _check_range("user", dataset.user, 0, len(dataset.user_keys))
    _check_range("item", dataset.item, 0, len(dataset.items))
    _check_range("event", dataset.event, -1, len(dataset.event_names))
    if np.isinf(dataset.value).any():
        raise DatasetInvalid("value holds an infinite number; use NaN where an event has none")
    step = np.diff(dataset.user)
    back = (step < 0) | ((step == 0) & (np.diff(dataset.occurred_at) < 0))
    if back.any():
        raise DatasetInvalid(
            f"events are not sorted by user and time at row {int(np.argmax(back)) + 1}; "
            "dataset.arrange sorts them"
        )


def _check_range(name: str, array: NDArray[np.integer], low: int, high: int) -> None:
    if len(array) and not (low <= int(array.min()) and int(array.max()) < high):
        raise DatasetInvalid(
            f"{name} holds {int(array.min())}..{int(array.max())}, outside of {low}..{high - 1}"
        )


def _check_names(dataset: Dataset) -> None:
    if len(dataset.user_records) != len(dataset.user_keys):
        raise DatasetInvalid(
            f"{len(dataset.user_keys)} users but {len(dataset.user_records)} user records"
        )
    if len(dataset.item_index) != len(dataset.items):
        raise DatasetInvalid(_twice("item", [item.key for item in dataset.items]))
    if len(set(dataset.user_keys)) != len(dataset.user_keys):
        raise DatasetInvalid(_twice("user", dataset.user_keys))
    for side in (dataset.item_features, dataset.user_features):
        names = [feature.name for feature in side]
        if len(set(names)) != len(names):
            raise DatasetInvalid(_twice("feature", names))


def _twice(what: str, names: Sequence[str]) -> str:
    seen: set[str] = set()
    again = next(name for name in names if name in seen or seen.add(name))
    return f"the {what} {again!r} occurs twice"
