"""Protocols: who is asked for what, and what training may see."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import genre_world

from encoders import dataset, protocols
from encoders.dataset import Dataset
from encoders.errors import DatasetInvalid
from encoders.protocols import Protocol
from encoders.types import ItemRecord


@pytest.fixture(scope="module")
def data() -> Dataset:
    return genre_world().data


@pytest.mark.parametrize("make", [protocols.leave_one_out_cold, protocols.cold_items])
def test_training_sees_neither_a_cold_item_nor_anybodys_last_event(make, data: Dataset) -> None:
    found: Protocol = make(data, seed=3)
    seen = found.training.dataset
    assert not np.isin(seen.item, found.cold).any()
    asked = found.targets[found.targets >= 0]
    assert len(asked) > 5
    assert np.isin(data.item[asked], found.cold).all()
    last = dataset.leave_one_out(data).test
    pairs = set(zip(seen.user.tolist(), seen.occurred_at.tolist(), strict=True))
    for event in last[last >= 0].tolist():
        assert (int(data.user[event]), int(data.occurred_at[event])) not in pairs
    assert seen.items == data.items, "a cold item is still in the catalogue"
    assert found.training.later.tolist() == found.cold.tolist(), (
        "though training knows nothing of it"
    )


def test_looc_asks_everybody_whose_last_item_is_cold(data: Dataset) -> None:
    found = protocols.leave_one_out_cold(data, seed_users=4, seed=1)
    assert len(found.cold) <= 4
    last = dataset.leave_one_out(data).test
    assert np.maximum(found.targets, found.others).tolist() == last.tolist()
    assert (np.minimum(found.targets, found.others) == -1).all()
    wanted = [u for u in range(len(last)) if data.item[last[u]] in found.cold]
    assert np.flatnonzero(found.targets >= 0).tolist() == wanted


def test_a_share_of_the_items_is_cold_and_the_seed_says_which(data: Dataset) -> None:
    one, again, other = (protocols.cold_items(data, seed=seed) for seed in (1, 1, 2))
    assert len(one.cold) == round(0.2 * len(data.items))
    assert one.cold.tolist() == again.cold.tolist() != other.cold.tolist()
    assert one.name == "20% of the items cold"


def test_the_event_that_validates_is_not_trained_on(data: Dataset) -> None:
    split = protocols.cold_items(data).training
    valid = split.valid[split.valid >= 0]
    assert len(valid) > 0
    assert not split.train[valid].any()
    assert split.train.sum() == len(split.train) - len(valid)


def test_nobody_with_three_events_is_told() -> None:
    data = dataset.arrange(
        items=[ItemRecord(key="a", features={})],
        item_features=[],
        user_keys=["u"],
        user=[0, 0],
        item=[0, 0],
        occurred_at=[1, 2],
    )
    with pytest.raises(DatasetInvalid, match="three events"):
        protocols.leave_one_out_cold(data)
