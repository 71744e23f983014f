"""Training data is checked once, when it is made."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from worlds import checkerboard, genre_world

from encoders import dataset
from encoders.dataset import Dataset
from encoders.errors import DatasetInvalid
from encoders.types import Feature, ItemRecord


def small(**changes: object) -> Dataset:
    """Three users, three items; events are given out of order."""
    arguments: dict[str, object] = {
        "items": [ItemRecord(key=key, features={}) for key in "abc"],
        "item_features": [Feature(name="f", kind="category")],
        "user_keys": ["x", "y", "z"],
        "user": [2, 0, 0, 0, 2],
        "item": [0, 1, 2, 0, 1],
        "occurred_at": [5, 30, 10, 10, 5],
        **changes,
    }
    return dataset.arrange(**arguments)  # type: ignore[arg-type]


def test_events_are_sorted_by_user_and_time_and_ties_keep_their_order() -> None:
    data = small()
    assert data.user.tolist() == [0, 0, 0, 2, 2]
    assert data.item.tolist() == [2, 0, 1, 0, 1]
    assert data.starts.tolist() == [0, 3, 3, 5]


def test_times_that_float32_cannot_tell_apart_keep_their_order() -> None:
    now = 1_700_000_000_000_000
    data = small(user=[0] * 5, occurred_at=[now + 4, now + 3, now + 2, now + 1, now])
    assert data.occurred_at.dtype == np.int64
    assert data.item.tolist() == [1, 0, 2, 1, 0]
    with pytest.raises(DatasetInvalid, match="floats would reorder"):
        small(occurred_at=[1.0, 2.0, 3.0, 4.0, 5.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": [0, 1, 2, 3, 0]}, r"user holds 0\.\.3, outside of 0\.\.2"),
        ({"item": [0, 1, 2, -1, 0]}, "item holds"),
        ({"event": [0, 0, 0, 0, 1], "event_names": ["view"]}, "event holds"),
        ({"value": [0, np.inf, 0, 0, 0]}, "infinite"),
        ({"user_keys": ["x", "x", "z"]}, "user 'x' occurs twice"),
        ({"items": [ItemRecord(key="a", features={})] * 3}, "item 'a' occurs twice"),
        ({"item_features": [Feature(name="f", kind="text")] * 2}, "feature 'f' occurs twice"),
        ({"user_records": [{}]}, "3 users but 1 user records"),
    ],
)
def test_contradictions_are_refused_and_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetInvalid, match=message):
        small(**changes)


def test_unsorted_events_are_refused_with_the_row() -> None:
    data = small()
    with pytest.raises(DatasetInvalid, match="not sorted by user and time at row 2"):
        replace(data, occurred_at=np.asarray([10, 10, 3, 5, 5], dtype=np.int64))
    with pytest.raises(DatasetInvalid, match="occurred_at must be int64"):
        replace(data, occurred_at=data.occurred_at.astype(np.float32))


def test_an_empty_dataset_is_fine() -> None:
    data = small(items=[], user_keys=[], user=[], item=[], occurred_at=np.zeros(0, dtype=np.int64))
    split = dataset.leave_one_out(data)
    assert split.train.shape == split.test.shape == (0,)


def test_leave_one_out_takes_the_last_two_of_users_with_three() -> None:
    split = dataset.leave_one_out(small())
    assert split.test.tolist() == [2, -1, -1]
    assert split.valid.tolist() == [1, -1, -1]
    assert split.train.tolist() == [True, False, False, True, True]


def test_the_fingerprint_names_the_data() -> None:
    one, other = genre_world().data, genre_world().data
    assert one.fingerprint == other.fingerprint
    changed = replace(other, value=np.where(other.user == 0, 1, other.value).astype(np.float32))
    assert len({one.fingerprint, changed.fingerprint, checkerboard().fingerprint}) == 3


def test_items_without_their_events_are_cold() -> None:
    data = checkerboard()
    cold = dataset.without_events_of(data, ["i3", "i4"])
    assert cold.items == data.items
    assert not set(cold.item.tolist()) & {3, 4}
    assert len(cold.user) == len(data.user) - int(np.isin(data.item, [3, 4]).sum())


@pytest.mark.parametrize(
    "module",
    ["encoders", "encoders.types", "encoders.dataset", "encoders.artifact", "encoders.features",
     "encoders.evaluate", "encoders.train"],
)  # fmt: skip
def test_it_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
