"""RetrievalFormer against answers that can be computed, with each of its options."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from worlds import checkerboard, genre_world

from encoders import (
    artifact,
    batches,
    content,
    dataset,
    evaluate,
    families,
    learning,
    precision,
    softmax,
    train,
)
from encoders.dataset import Dataset, Split
from encoders.errors import TrainingFailed
from encoders.progress import Run
from encoders.retrievalformer import Config, RetrievalFormer, contents
from encoders.retrievalformer.items import NEW
from encoders.retrievalformer.learner import Learner
from encoders.retrievalformer.present import Present
from encoders.types import Feature, ItemRecord

RUN = Run(seed=0, device="cpu", checkpoint=None, progress=lambda _: None)
SMALL = {"width": 16, "text_as": "words", "windows": 16, "epochs": 24, "patience": 24}
OPTIONS = {
    "full": {},
    "full with an ID token": {"identity": "token"},
    "full, features only": {"identity": "none"},
    "full, shared words": {"text_as": "shared", "own_events": 5},
    "full, learned places": {"positions": "learned"},
    "full, fused events": {"context": "fusion", "gated": False},
    "paper": {"config": "paper"},
    "paper with IDs": {"config": "paper", "identity": "sum"},
}


def configured(**overrides: object) -> Config:
    config = families.configure("retrievalformer", {**SMALL, "learning_rate": 1e-2, **overrides})
    assert isinstance(config, Config)
    return config


def untrained(data: Dataset | Split, **overrides: object) -> Learner:
    split = data if isinstance(data, Split) else dataset.leave_one_out(data)
    with learning.seeded(RUN):
        return Learner.untrained(configured(**overrides), split, "cpu")


def trained(data: Dataset, **overrides: object) -> Learner:
    learner = untrained(data, **overrides)
    learning.learn(learner, dataset.leave_one_out(data), RUN)
    return learner


@cache
def world() -> Dataset:
    return genre_world(fans=6, films=12, cold=3, events=8).data


def vectors_of(encoder: RetrievalFormer, items: list[ItemRecord]) -> np.ndarray:
    return np.asarray(encoder.encode_items(items).vectors["retrievalformer"])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_checkerboard_is_solved_exactly(options: dict[str, object]) -> None:
    """A user who met 11 of the 20 items of a side meets one of the other nine next, each as likely:
    with the seen ones taken out, nobody can do better than ranks 1 to 9, nor on average than 5."""
    board = checkerboard()
    split = dataset.leave_one_out(board)
    ranks = evaluate.rank_by(trained(board, **options).scorer(), board, split.test).masked
    assert (ranks <= 9).mean() >= 0.95
    assert ranks.mean() == pytest.approx(5, abs=1.2)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_written_and_read_again_it_says_the_same_to_the_bit(
    options: dict[str, object], tmp_path: Path
) -> None:
    overrides: dict[str, object] = {**SMALL, "epochs": 1, **options}
    info = train.train("retrievalformer", world(), str(tmp_path), config=overrides, threads=1)
    first, second = (artifact.load(info.uri) for _ in range(2))
    assert isinstance(first, RetrievalFormer)
    assert isinstance(second, RetrievalFormer)
    items = [*world().items, ItemRecord(key="new", features={"title": "never seen"})]
    np.testing.assert_array_equal(vectors_of(first, items), vectors_of(second, items))
    assert first.fitted.keys == second.fitted.keys
    assert bool(first.fitted.keys) == (first.config.identity != "none")


@pytest.mark.parametrize("identity", ["sum", "token"])
def test_the_vector_of_an_unseen_item_does_not_depend_on_ids(identity: str) -> None:
    learner = trained(world(), identity=identity, epochs=2)
    encoder, cold = learner.encoder, [one for one in world().items if "-11" in one.key]
    known = [one for one in world().items if one.key in encoder.fitted.keys][:8]
    renamed = [replace(one, key=f"another {one.key}") for one in known]
    before = [vectors_of(encoder, items) for items in (known, cold, renamed)]
    torch.nn.init.normal_(encoder.towers.items.own.weight, std=9.0)  # type: ignore[union-attr,arg-type]
    after = [vectors_of(encoder, items) for items in (known, cold, renamed)]
    learned = [v[0][:, : encoder.config.width] for v in (before, after)]
    learned = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in learned]
    assert np.abs(learned[0] - learned[1]).max(axis=1).min() > 0.1
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(before[2], after[2])


def test_only_items_with_events_have_ids_and_the_most_frequent_ones_if_not_all_can() -> None:
    data = world()
    counts = evaluate.popularity(dataset.leave_one_out(data))
    met = {item.key for item, count in zip(data.items, counts, strict=True) if count}
    assert 0 < len(met) < len(data.items)
    assert set(untrained(data).encoder.fitted.keys) == met
    assert untrained(data, identity="none").encoder.fitted.keys == ()
    few = untrained(data, vocabulary=5).encoder.fitted.keys
    least = min(counts[data.item_index[key]] for key in few)
    assert len(few) == 5
    assert sorted(counts)[-5] == least


def test_where_texts_describe_only_items_of_many_events_have_ids_and_no_other_is_new() -> None:
    data = world()
    counts = evaluate.popularity(dataset.leave_one_out(data))
    least = int(np.median(counts))
    many = {item.key for item, count in zip(data.items, counts, strict=True) if count >= least}
    assert 0 < len(many) < (counts > 0).sum()
    for title, expected in (
        (lambda one: " ".join(one.features["genres"]), many),
        (lambda one: one.key, {item.key for item in np.asarray(data.items)[counts > 0]}),
    ):
        items = [replace(one, features={**one.features, "title": title(one)}) for one in data.items]
        some = replace(data, items=items)
        encoder = untrained(some, text_as="shared", own_events=least).encoder
        assert encoder.fitted.pipelines.items.reads_words == (expected == many)
        assert set(encoder.fitted.keys) == expected
        assert not vectors_of(encoder, items)[:, encoder.towers.items.read - 1].any()


@pytest.mark.parametrize("options", [{}, {"content_width": 0}])
def test_known_new_and_unchosen_items_have_vectors_of_length_one(options: dict[str, int]) -> None:
    encoder = untrained(world(), **options).encoder
    torch.nn.init.normal_(encoder.towers.items.own.weight)  # type: ignore[union-attr,arg-type]
    renamed = [replace(one, key=f"another {one.key}") for one in world().items]
    lengths = np.linalg.norm(vectors_of(encoder, [*world().items, *renamed]), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


@pytest.mark.parametrize("identity", ["sum", "token"])
def test_in_training_an_item_without_its_id_is_a_new_item(identity: str) -> None:
    learner = untrained(world(), identity=identity, identity_noise=0.5, noise=0.0)
    encoder, towers = learner.encoder, learner.encoder.towers
    tower = towers.items
    torch.nn.init.normal_(tower.own.weight)  # type: ignore[union-attr,arg-type]
    items = [one for one in world().items if one.key in encoder.fitted.keys]
    own = vectors_of(encoder, items)
    new = vectors_of(encoder, [replace(one, key="?") for one in items])
    tower.train()
    with torch.inference_mode():
        drawn = tower(towers._some_new(encoder.item_entities(items))).numpy()
    like_own, like_new = (np.isclose(drawn, v, atol=1e-6).all(axis=1) for v in (own, new))
    assert (like_own ^ like_new).all()
    assert 0.2 < like_new.mean() < 0.8


def test_with_sums_ids_begin_at_nothing_so_that_features_lead() -> None:
    encoder = untrained(world()).encoder
    items = [one for one in world().items if one.key in encoder.fitted.keys]
    renamed = [replace(one, key=f"another {one.key}") for one in items]
    read, scale = encoder.towers.items.read, encoder.towers.items.scale
    own, new = (vectors_of(encoder, some)[:, :read] for some in (items, renamed))
    np.testing.assert_allclose(new[:, :-1], own[:, :-1], atol=1e-7)
    assert set(own[:, -1]) == {0.0}
    assert set(new[:, -1]) == {np.float32(NEW * scale)}


def test_what_came_after_training_is_marked_and_what_nobody_chose_is_not() -> None:
    data, split = world(), dataset.leave_one_out(world())
    unchosen = np.flatnonzero(evaluate.popularity(split) == 0)
    split = replace(split, later=unchosen[::2])
    encoder = untrained(split).encoder
    place = encoder.towers.items.read - 1
    marks = vectors_of(encoder, list(data.items))[:, place]
    assert set(np.flatnonzero(marks)) == set(unchosen[::2])
    mark = np.float32(NEW * encoder.towers.items.scale)
    assert set(marks[unchosen[::2]]) == {mark}
    renamed = [replace(one, key=f"another {one.key}") for one in data.items]
    assert set(vectors_of(encoder, renamed)[:, place]) == {mark}


def test_keys_that_were_there_are_known_without_being_listed(tmp_path: Path) -> None:
    keys = [f"item {n}" for n in range(5_000)] + ["", "ß 🎬", "\ud800"]
    present = Present.of(keys)
    present.write(tmp_path)
    for one in (present, Present.read(tmp_path)):
        assert one.has(keys).all()
        assert not one.has([f"another {key}" for key in keys]).any()
        assert one.has([]).shape == (0,)
    assert not Present.of([]).has(keys).any()


def test_what_training_never_met_takes_no_part_in_validation() -> None:
    """Nothing in the data says how good a model is with these, so no epoch is chosen by them."""
    split = dataset.leave_one_out(world())
    split = replace(split, later=np.flatnonzero(evaluate.popularity(split) == 0))
    curves: list[list[float | None]] = []
    for newcomers in (0, 50):
        learner = untrained(split, newcomers=newcomers, epochs=2)
        curves.append([epoch.recall for epoch in learning.learn(learner, split, RUN)])
        first = evaluate.rank_by(learner.scorer(), world(), split.test).unmasked.min()
        assert (first > len(split.later)) == (newcomers > 0)
    assert curves[0] == curves[1]


def test_a_feature_hidden_in_training_is_a_missing_one() -> None:
    learner = untrained(checkerboard(), identity="none", content_width=0, noise=0.5)
    encoder = learner.encoder
    number = ItemRecord(key="", features={"number": 7})
    possible = vectors_of(encoder, [number, ItemRecord(key="", features={})])  # (2, D)
    encoder.towers.items.train()
    with torch.inference_mode():
        drawn = encoder.towers.items(encoder.item_entities([number] * 64)).numpy()  # (64, D)
    like = np.isclose(drawn[:, None], possible[None], atol=1e-6).all(axis=2)  # (64, 2)
    assert (like.sum(axis=1) == 1).all()
    assert like.any(axis=0).all()


def test_what_only_items_without_events_say_is_taken_for_unknown() -> None:
    data = world()
    items = [
        replace(one, features={**one.features, "studio": "brand new"}) if "-11" in one.key else one
        for one in data.items
    ]
    fitted = untrained(replace(data, items=tuple(items))).encoder.fitted
    (known,) = (v for name, v in fitted.pipelines.vocabularies.items() if "studio" in name)
    assert "brand new" not in known.values
    assert "studio 1" in known.values


@pytest.mark.parametrize("exact_items", [0, 10_000])
def test_items_without_events_are_no_negatives(exact_items: int) -> None:
    data = world()
    learner = untrained(data, exact_items=exact_items, uniform_items=500)
    split = dataset.leave_one_out(data)
    share = torch.as_tensor(evaluate.popularity(split) / batches.count(split))
    targets = torch.as_tensor(data.item[split.train].astype(np.int64))
    encoded, ranked, _ = learner.encoder.towers._candidates(targets, targets, share)
    assert set(encoded.tolist()) == set(ranked.tolist()) == set(targets.tolist())


def test_the_sampled_sum_estimates_the_whole_one_without_bias() -> None:
    """The sum that a softmax divides by, from targets drawn as often as they occur and uniform
    ones, each counted by the inverse of its chance to be there."""
    learner = untrained(world(), exact_items=0, uniform_items=9)
    rng = np.random.default_rng(0)
    count = 60
    share = rng.dirichlet(np.full(count, 0.3)).astype(np.float32)
    scores = np.exp(rng.normal(size=count))
    found: list[float] = []
    torch.manual_seed(0)
    for _ in range(4_000):
        targets = torch.as_tensor(rng.choice(count, 12, p=share / share.sum()))
        _, ranked, chance = learner.encoder.towers._candidates(
            targets, targets, torch.as_tensor(share)
        )
        assert chance is not None
        found.append(float((scores[ranked.numpy()] / chance.numpy()).sum()))
    error = np.std(found) / len(found) ** 0.5
    assert error < 0.02 * scores.sum()
    assert np.mean(found) == pytest.approx(scores.sum(), abs=3.5 * error)


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("offset", [False, True])
def test_the_softmax_in_parts_is_the_softmax(
    offset: bool, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    count = 3_000  # columns; rows go through in several parts
    rows = torch.randn(900, 8, generator=generator, requires_grad=True)
    columns = torch.randn(count, 8, generator=generator, requires_grad=True)
    own = torch.randint(count, (900,), generator=generator)
    added = 5 * torch.randn(count, generator=generator) if offset else None
    scores = rows @ columns.T
    if added is not None:
        scores = scores + added - F.one_hot(own, count) * added
    wanted = F.cross_entropy(scores, own)
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda _: rounds)
    with precision.rounded(torch.device("cpu")):
        found = softmax.cross_entropy(rows, columns, own, added)
    expected = torch.autograd.grad(3 * wanted, (rows, columns))
    actual = torch.autograd.grad(3 * found, (rows, columns))
    if not rounds:
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    else:
        assert found.item() == pytest.approx(wanted.item(), rel=1e-3)
        for one, other in zip(actual, expected, strict=True):
            assert (one - other).norm() <= 0.01 * other.norm()


def test_configurations_have_names_and_options_go_before_them() -> None:
    paper = configured(config="paper")
    assert (paper.identity, paper.readout, paper.context) == ("none", "cls", "fusion")
    assert (paper.gated, paper.exact_items, paper.width) == (False, 0, SMALL["width"])
    assert configured(config="paper", gated=True) == replace(paper, gated=True)
    assert configured(config="full") == configured()
    with pytest.raises(TrainingFailed, match=r"no configuration 'best'; it has full, paper"):
        configured(config="best")
    with pytest.raises(TrainingFailed, match="content has no configuration 'paper'"):
        families.configure("content", {"config": "paper"})


@pytest.mark.parametrize("option", ["identity", "readout", "context", "positions", "text_as"])
def test_a_choice_that_there_is_not_is_named_with_those_there_are(option: str) -> None:
    with pytest.raises(TrainingFailed, match=rf"{option} must be one of '\w+', .* not 'other'"):
        configured(**{option: "other"})


def test_learned_places_need_a_window_with_one_end() -> None:
    with pytest.raises(TrainingFailed, match='need readout "last"'):
        configured(config="paper", positions="learned")


@pytest.mark.parametrize(("events", "step"), [(3, 100), (42, 4_000), (45, 2_000)])
def test_a_step_has_about_as_many_targets_whatever_the_length_of_histories(
    events: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "STEP", 2_000 if events == 45 else batches.STEP)
    data = genre_world(fans=400, films=60, cold=0, events=events).data
    split = dataset.leave_one_out(data)
    windows = batches.enough_windows(split, targets=20)
    plan = list(batches.plan(split, targets=20, windows=windows, rng=np.random.default_rng(0)))
    assert batches.count(split) / len(plan) == pytest.approx(step, rel=0.15)


def test_newcomers_are_favoured_by_so_many_logits_and_nobody_else() -> None:
    data, split = world(), dataset.leave_one_out(world())
    cold = evaluate.popularity(split) == 0
    split = replace(split, later=np.flatnonzero(cold))
    scores: list[np.ndarray] = []
    for newcomers in (0.0, 2.0):
        learner = untrained(split, newcomers=newcomers)
        batch = batches.gather(data, batches.asked(data, data.starts[1:] - 1), history=8)
        scores.append(learner.scorer()(batch) * learner.network.inverse_temperature.item())
    assert 0 < cold.sum() < len(cold)
    np.testing.assert_allclose((scores[1] - scores[0])[:, cold], 2.0, atol=1e-4)
    np.testing.assert_allclose((scores[1] - scores[0])[:, ~cold], 0.0, atol=1e-4)


def test_contents_are_what_content_says_as_far_as_their_axes_go() -> None:
    items = world().items
    for axes, error in ((1_000, 1e-5), (4, 0.4)):
        made = contents.fit(content.Config(), items, world().item_features, axes=axes)
        found = made.encode(items)
        wanted = np.asarray(made.encoder.encode_items(items).vectors["content"])
        assert found.shape == (len(items), made.dimension)
        assert made.dimension == min(axes, wanted.shape[1] - 1)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        assert np.abs(found @ found.T - wanted @ wanted.T).mean() < error
    assert not made.encode([ItemRecord(key="", features={})]).any()


def test_axes_of_another_fit_are_damage(tmp_path: Path) -> None:
    made = contents.fit(content.Config(), world().items, world().item_features, axes=4)
    contents.Contents(made.encoder, made.axes[:-1]).write(tmp_path / "contents")
    with pytest.raises(ValueError, match="axes of shape"):
        contents.read(tmp_path / "contents", features=world().item_features, device="cpu")


def test_what_nobody_says_costs_no_token() -> None:
    data = world()
    more = (*data.item_features, Feature(name="colour", kind="category"))
    encoder = untrained(replace(data, item_features=more)).encoder
    assert {feature.name for feature in encoder.item_features} == {
        feature.name for feature in data.item_features
    }
