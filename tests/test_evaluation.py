"""What an encoder is asked for, and the figures that come of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders import dataset, evaluation, train
from encoders.dataset import Dataset
from encoders.evaluate import Ranks
from encoders.types import Feature, ItemRecord

SEED = 3


@pytest.fixture(scope="module")
def data() -> Dataset:
    """20 users whose events all share a moment, and 20 whose last one is later than the others."""
    events = [
        (user, item, int(user >= 20 and place == 5))
        for user in range(40)
        for place, item in enumerate(np.random.default_rng(user).choice(30, 6, replace=False))
    ]
    return dataset.arrange(
        items=[ItemRecord(key=f"i{n}", features={"title": f"film {n}"}) for n in range(30)],
        item_features=[Feature(name="title", kind="text")],
        user_keys=[f"u{n}" for n in range(40)],
        user=[user for user, _, _ in events],
        item=[item for _, item, _ in events],
        occurred_at=[at for _, _, at in events],
    )


@pytest.fixture(scope="module")
def facts(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What an encoder's artifact says of how it was trained on this data."""
    root = str(tmp_path_factory.mktemp("encoders"))
    return dict(train.train("content", data, root, seed=SEED).facts)


def test_an_encoder_is_asked_for_what_its_training_held_out(
    data: Dataset, facts: dict[str, object]
) -> None:
    found = evaluation.question(data, facts, "shuffled", SEED)
    wanted = dataset.leave_one_out(dataset.shuffle_ties(data, np.random.default_rng(SEED)))
    assert found.targets.tolist() == wanted.test.tolist()
    assert found.split.dataset.item.tolist() == wanted.dataset.item.tolist()
    assert (found.left_out, found.as_trained) == (0, True)


@pytest.mark.parametrize(("ties", "seed"), [("listed", SEED), ("shuffled", SEED + 1)])
def test_who_did_last_what_was_trained_on_is_not_asked(
    ties: dataset.Ties, seed: int, data: Dataset, facts: dict[str, object]
) -> None:
    found = evaluation.question(data, facts, ties, seed)
    trained = dataset.shuffle_ties(data, np.random.default_rng(SEED))
    held_out = dataset.leave_one_out(trained).test
    asked = np.flatnonzero(found.targets >= 0)
    assert set(range(20, 40)) <= set(asked.tolist()), "whose last event is no matter of ties"
    assert found.left_out == 40 - len(asked) > 5
    wanted = found.split.dataset.item[found.targets[asked]]
    assert wanted.tolist() == trained.item[held_out[asked]].tolist()
    assert found.as_trained


def test_other_data_than_was_trained_on_is_noticed(data: Dataset, facts: dict[str, object]) -> None:
    changed = replace(data, value=np.ones_like(data.value))
    assert not evaluation.question(changed, facts, "shuffled", SEED).as_trained
    assert not evaluation.question(data, {}, "shuffled", SEED).as_trained


def test_figures_are_of_all_users_and_of_each_group(
    data: Dataset, facts: dict[str, object]
) -> None:
    asked = evaluation.question(data, facts, "shuffled", SEED)
    users = np.arange(40)
    ours = np.where(users < 20, 1.0, 21.0)
    theirs = np.full(40, 21.0)
    found = evaluation.figures(
        Ranks(users=users, masked=ours, unmasked=theirs),
        Ranks(users=users, masked=theirs, unmasked=theirs),
        asked,
    )
    assert found.users == 40
    one = found.encoder["recall@20"]
    assert (one.mean, one.low < 0.5 < one.high) == (0.5, True)
    assert found.popularity["recall@20"].mean == 0
    assert found.difference["ndcg@5"].mean == 0.5
    assert found.difference["recall@20_unmasked"].high == 0
    for ours_in, theirs_in in (
        (found.by_popularity, found.popularity_by_popularity),
        (found.by_age, found.popularity_by_age),
    ):
        assert [part.name for part in ours_in] == [part.name for part in theirs_in]
        assert sum(part.users for part in ours_in) == 40
        assert sum(part.users * part.value.mean for part in ours_in) == pytest.approx(20)
    ages = {part.name: part for part in found.by_age}
    assert ages["first event"].users == 40 - ages["under a day"].users >= 20


def test_ranks_are_kept_by_user_with_their_halves(tmp_path: Path) -> None:
    users = np.asarray([4, 9])
    one = Ranks(users=users, masked=np.asarray([1.5, np.inf]), unmasked=np.asarray([2.0, 40.0]))
    evaluation.write_ranks(tmp_path / "ranks.npz", index=one)
    with np.load(tmp_path / "ranks.npz", allow_pickle=False) as found:
        assert {name: found[name].tolist() for name in found} == {
            "users": [4, 9],
            "index_masked": [3, 0],
            "index_unmasked": [4, 80],
        }
