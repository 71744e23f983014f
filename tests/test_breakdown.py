"""Breakdowns with known answers: who belongs to which group, and what its mean is."""

from __future__ import annotations

import numpy as np
import pytest

from encoders import breakdown, dataset
from encoders.breakdown import DAY_US
from encoders.types import ItemRecord


def members(groups: list[breakdown.Group]) -> dict[str, list[int]]:
    return {group.name: np.flatnonzero(group.rows).tolist() for group in groups}


def test_items_without_training_events_are_a_group_of_their_own() -> None:
    counts = np.asarray([0, 5, 1, 1_200, 0, 7, 2])
    assert members(breakdown.by_popularity(counts, quantiles=2)) == {
        "never": [0, 4],
        "1–5": [1, 2, 6],
        "7–1,200": [3, 5],
    }


def test_items_of_equal_popularity_stay_together() -> None:
    assert members(breakdown.by_popularity(np.asarray([3, 3, 3, 3, 9]))) == {
        "3": [0, 1, 2, 3],
        "9": [4],
    }
    assert members(breakdown.by_popularity(np.zeros(2))) == {"never": [0, 1]}


def test_quantiles_hold_about_as_many_users_each() -> None:
    counts = np.random.default_rng(0).permutation(1_000) + 1
    groups = breakdown.by_popularity(counts, quantiles=5)
    assert [int(group.rows.sum()) for group in groups] == [200] * 5
    assert groups[0].name == "1–200"
    assert np.sum([group.rows for group in groups], axis=0).tolist() == [1] * 1_000


def test_age_counts_from_the_first_event_that_anybody_had_with_the_item() -> None:
    data = dataset.arrange(
        items=[ItemRecord(key=key, features={}) for key in "ab"],
        item_features=[],
        user_keys=["u", "v"],
        user=[0, 0, 1, 1],
        item=[0, 1, 1, 0],
        occurred_at=[5, 7, 6, 105],
    )
    assert breakdown.ages_us(data, np.asarray([0, 1, 2, 3])).tolist() == [0, 1, 0, 100]


def test_ages_fall_into_spans_whose_upper_bound_is_not_included() -> None:
    ages = np.asarray([0, 1, DAY_US - 1, DAY_US, 7 * DAY_US, 400 * DAY_US])
    assert members(breakdown.by_age(ages)) == {
        "first event": [0],
        "under a day": [1, 2],
        "1–7 days": [3],
        "7–30 days": [4],
        "over a year": [5],
    }


def test_a_group_has_the_mean_of_its_users_only() -> None:
    values = np.asarray([1.0, 0, 1, 1, 0])
    groups = breakdown.by_popularity(np.asarray([0, 0, 4, 4, 4]))
    never, four = breakdown.parts(values, groups)
    assert (never.name, never.users, never.value.mean) == ("never", 2, 0.5)
    assert (four.name, four.users, four.value.mean) == ("4", 3, pytest.approx(2 / 3))
    assert four.value.low <= four.value.mean <= four.value.high
