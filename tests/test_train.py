"""Training: seeded, resumable, honest about what it measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from worlds import checkerboard, genre_world

from encoders import artifact, batches, dataset, evaluate, learning, retrievalformer, train
from encoders.dataset import Dataset
from encoders.errors import EncoderError, NotEnoughData, TrainingFailed, UnknownFamily
from encoders.progress import Progress, Run
from encoders.retrievalformer import RetrievalFormer, users
from encoders.retrievalformer.learner import Learner
from encoders.types import (
    EncodedItems,
    Encoder,
    Feature,
    HistoryNeeds,
    ItemRecord,
    UserQuery,
    UserState,
    VectorSpec,
)
from indexer import catalog, importing, training_data

SMALL: dict[str, object] = {"width": 16, "epochs": 3, "windows": 8, "patience": 3}


def weights_of(info_uri: str) -> dict[str, np.ndarray]:
    encoder = artifact.load(info_uri)
    assert isinstance(encoder, RetrievalFormer)
    return {name: w.numpy().copy() for name, w in encoder.towers.state_dict().items()}


def assert_same_weights(one: str, other: str) -> None:
    left, right = weights_of(one), weights_of(other)
    assert left.keys() == right.keys()
    for name, weight in left.items():
        np.testing.assert_array_equal(weight, right[name], err_msg=name)


def lines_of(uri: str) -> list[tuple[int, float, float]]:
    """The learning curve in the artifact, without how fast it went."""
    curve = cast("list[dict[str, Any]]", artifact.describe(uri).facts["curve"])
    assert all(line["examples_per_s"] > 0 for line in curve)
    return [(line["epoch"], line["loss"], line["recall@20"]) for line in curve]


def trained(
    data: Dataset,
    root: Path,
    *,
    seed: int = 0,
    config: dict[str, object] | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> str:
    return train.train(
        "retrievalformer",
        data,
        str(root),
        config={**SMALL, **(config or {})},
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
        threads=1,
    ).uri


@pytest.fixture(scope="module")
def data() -> Dataset:
    return genre_world(fans=6, films=12, events=8).data


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    data: Dataset, tmp_path: Path
) -> None:
    first = trained(data, tmp_path)
    torch.rand(7)  # whoever else draws numbers does not matter
    assert_same_weights(first, trained(data, tmp_path))
    other = weights_of(trained(data, tmp_path, seed=1))
    assert any(not np.array_equal(w, other[name]) for name, w in weights_of(first).items())


def test_training_leaves_the_callers_random_numbers_alone(data: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    trained(data, tmp_path)
    torch.testing.assert_close(torch.rand(4), wanted)


@pytest.mark.parametrize("after", [1, 2])
def test_interrupted_and_taken_up_again_equals_one_go(
    data: Dataset, tmp_path: Path, after: int
) -> None:
    def interrupt(now: Progress) -> None:
        if now.done == 1.0 and now.epoch == after:
            raise KeyboardInterrupt

    checkpoint, seen = tmp_path / "checkpoint", list[int]()
    with pytest.raises(KeyboardInterrupt):
        trained(data, tmp_path, checkpoint=checkpoint, progress=interrupt)
    assert checkpoint.exists()
    uri = trained(
        data, tmp_path, checkpoint=checkpoint, progress=lambda now: seen.append(now.epoch)
    )
    assert min(seen) == after + 1
    assert not checkpoint.exists()
    whole = trained(data, tmp_path)
    assert_same_weights(uri, whole)
    assert lines_of(uri) == lines_of(whole)
    assert [line[0] for line in lines_of(uri)] == [1, 2, 3]


def test_a_checkpoint_of_another_run_is_refused(data: Dataset, tmp_path: Path) -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(data, tmp_path, checkpoint=tmp_path / "c", progress=interrupt)
    with pytest.raises(TrainingFailed, match=r"other data, options or seed: remove .*checkpoint"):
        trained(data, tmp_path, checkpoint=tmp_path / "c", seed=1)
    with pytest.raises(TrainingFailed, match="other data"):
        trained(checkerboard(), tmp_path, checkpoint=tmp_path / "c")
    (tmp_path / "c" / "checkpoint.safetensors").write_bytes(b"nonsense")
    with pytest.raises(TrainingFailed, match="cannot be read"):
        trained(data, tmp_path, checkpoint=tmp_path / "c")


def test_progress_tells_each_epoch_once_with_its_recall(data: Dataset, tmp_path: Path) -> None:
    told: list[Progress] = []
    uri = trained(data, tmp_path, progress=told.append)
    ends = [now for now in told if now.done == 1.0]
    assert [now.epoch for now in ends] == [1, 2, 3]
    assert all(now.epochs == 3 and now.recall is not None for now in ends)
    assert all(now.loss > 0 and now.examples_per_s > 0 for now in told)
    assert ends[-1].best == max(now.recall or 0 for now in ends)
    curve = lines_of(uri)
    assert curve == [(now.epoch, round(now.loss, 5), round(now.recall or 0, 5)) for now in ends]


def test_training_stops_early_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    data = checkerboard(items=400)  # whom nobody can guess among so many: recall goes up and down
    told: list[Progress] = []
    options: dict[str, object] = {"epochs": 30, "patience": 2, "learning_rate": 0.02}
    uri = trained(data, tmp_path, config=options, progress=told.append)
    ends = [now for now in told if now.done == 1.0]
    recalls = [now.recall or 0.0 for now in ends]
    assert len(ends) < 30
    assert recalls[::-1].index(max(recalls)) == 2, "the last of equally good ones"
    split = dataset.leave_one_out(data)
    met = evaluate.popularity(split) > 0
    assert not met.all()
    asked = np.where(met[data.item[split.valid]], split.valid, -1)
    encoder = artifact.load(uri)
    assert isinstance(encoder, RetrievalFormer)
    ranks = evaluate.rank_by(Learner(encoder, split).scorer(), data, asked, among=met)
    assert ranks.metrics()["recall@20"] == pytest.approx(max(recalls))


def test_metrics_in_the_artifact_are_those_of_the_stored_encoder(
    data: Dataset, tmp_path: Path
) -> None:
    uri = trained(data, tmp_path)
    split = dataset.leave_one_out(data)
    ranks = evaluate.rank_with(artifact.load(uri), split, split.test)
    said = artifact.describe(uri).metrics
    for name, value in ranks.metrics().items():
        assert said[name] == pytest.approx(value)


def test_held_out_events_do_not_reach_the_weights(data: Dataset, tmp_path: Path) -> None:
    """Only what decides when to stop may differ: one epoch leaves nothing to decide."""
    split = dataset.leave_one_out(data)
    item = data.item.copy()
    item[split.test] = (item[split.test] + 1) % len(data.items)
    value = np.where(split.train, data.value, np.float32(5))
    changed = replace(data, item=item, value=value)
    one = trained(data, tmp_path, config={"epochs": 1})
    assert_same_weights(one, trained(changed, tmp_path, config={"epochs": 1}))


@pytest.mark.parametrize("family", ["content", "retrievalformer"])
def test_facts_tell_what_was_trained_on(family: str, data: Dataset, tmp_path: Path) -> None:
    config = SMALL if family != "content" else {}
    info = train.train(family, data, str(tmp_path), config=config, seed=5, threads=1)
    assert info.facts["items"] == len(data.items)
    assert info.facts["users"] == len(data.user_keys)
    assert info.facts["events"] == len(data.user)
    assert info.facts["training_events"] == len(data.user) - 2 * len(data.user_keys)
    assert info.facts["seed"] == 5
    assert info.facts["dataset"] == data.fingerprint


def empty(items: int = 0) -> Dataset:
    return dataset.arrange(
        items=[ItemRecord(key=str(n), features={"title": f"word{n}"}) for n in range(items)],
        item_features=[Feature(name="title", kind="text"), Feature(name="f", kind="number")],
        user_keys=["u"],
        user=[],
        item=[],
        occurred_at=np.zeros(0, dtype=np.int64),
    )


@pytest.mark.parametrize("items", [0, 1, 5])
def test_content_needs_no_events_and_not_even_items(items: int, tmp_path: Path) -> None:
    info = train.train("content", empty(items), str(tmp_path))
    encoder = artifact.load(info.uri)
    assert info.metrics == {}
    vectors = np.asarray(encoder.encode_items([item("new title"), item("")]).vectors["content"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    (query,) = encoder.encode_users([UserState(features={}, history=())])
    np.testing.assert_allclose(np.linalg.norm(np.asarray(query.values)), 1, atol=1e-5)


def item(title: str) -> ItemRecord:
    return ItemRecord(key="k", features={"title": title})


@pytest.mark.parametrize("items", [0, 1, 5])
def test_learning_from_nothing_is_refused_with_advice(items: int, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughData, match=r"0 training events.*train `content`"):
        trained(empty(items), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["content", "retrievalformer"])
def test_items_without_features_are_refused(family: str, tmp_path: Path) -> None:
    bare = replace(checkerboard(), item_features=())
    with pytest.raises(TrainingFailed, match="at least one item feature"):
        train.train(family, bare, str(tmp_path))


def test_two_users_with_one_event_each_are_enough_to_learn(tmp_path: Path) -> None:
    tiny = dataset.arrange(
        items=[item("a"), replace(item("b"), key="l")],
        item_features=[Feature(name="title", kind="text")],
        user_keys=["u", "v"],
        user=[0, 1],
        item=[0, 1],
        occurred_at=[1, 1],
    )
    info = artifact.describe(trained(tiny, tmp_path))
    assert info.metrics == {}
    assert info.facts["epochs"] == 3


def test_bad_requests_are_clear_errors(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UnknownFamily, match="nonsense"):
        train.train("nonsense", data, str(tmp_path))
    with pytest.raises(TrainingFailed, match="threads must be at least 1"):
        train.train("content", data, str(tmp_path), threads=0)
    with pytest.raises(TrainingFailed, match="text model"):
        train.train("content", data, str(tmp_path), config={"text_model": "wheel:none"})


@pytest.mark.parametrize(
    "option",
    [{"width": 0}, {"epochs": -1}, {"dropout": 1.0}, {"learning_rate": float("nan")}],
    ids=str,
)
def test_options_out_of_bounds_are_named(option: dict[str, object], tmp_path: Path) -> None:
    (name,) = option
    with pytest.raises(TrainingFailed, match=f"option '{name}' must be"):
        trained(checkerboard(), tmp_path, config=option)


@pytest.mark.parametrize("family", ["content", "retrievalformer"])
def test_a_device_that_is_not_there_is_a_clear_error(
    family: str, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(EncoderError, match=r"device 'warp drive' cannot be used .*use cpu"):
        train.train(family, data, str(tmp_path), device="warp drive")
    info = train.train("content", data, str(tmp_path))
    with pytest.raises(EncoderError, match="cannot be used"):
        artifact.load(info.uri, device="warp drive")


@pytest.mark.parametrize("family", ["content", "retrievalformer"])
def test_a_bad_row_does_not_stop_training(
    family: str, data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = replace(data.items[0], features={**data.items[0].features, "year": "soon"})
    spoilt = replace(
        data,
        items=(first, *data.items[1:]),
        user_records=({"age": {"years": 3}}, *data.user_records[1:]),
    )
    config = {**SMALL, "epochs": 1} if family != "content" else {}
    info = train.train(family, spoilt, str(tmp_path), config=config, threads=1)
    assert info.facts["unreadable_values"] == 2
    assert first.key in caplog.text
    split = dataset.leave_one_out(spoilt)
    evaluate.rank_with(artifact.load(info.uri), split, split.test)


def test_a_rate_that_blows_the_weights_up_is_told(data: Dataset, tmp_path: Path) -> None:
    encoder = encoder_of(data, epochs=1)
    split = dataset.leave_one_out(data)
    run = Run(seed=0, device="cpu", checkpoint=None, progress=lambda _: None)
    with torch.no_grad():
        encoder.towers.sharpness.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="diverged in epoch 1; lower learning_rate"):
        learning.learn(Learner(encoder, split), split, run)


def test_every_training_event_is_a_target_once_and_sees_what_came_before() -> None:
    data = genre_world(fans=3, films=60, cold=0, events=50).data
    split = dataset.leave_one_out(data)
    rng = np.random.default_rng(0)
    found: list[tuple[int, int, tuple[int, ...]]] = []
    for spans in batches.plan(split, targets=7, windows=4, rng=rng):
        batch = batches.gather(data, spans, history=12)
        for row, user in enumerate(batch.user):
            for seen, target in zip(batch.seen[row], batch.target[row], strict=True):
                if target >= 0:
                    assert seen <= batch.length[row] <= 12
                    before = tuple(batch.item[row, max(0, seen - 5) : seen])
                    found.append((int(user), int(target), before))
    wanted: list[tuple[int, int, tuple[int, ...]]] = []
    for number in np.flatnonzero(split.train).tolist():
        first = max(int(data.starts[data.user[number]]), number - 5)
        before = tuple(data.item[first:number])
        wanted.append((int(data.user[number]), int(data.item[number]), before))
    assert sorted(found) == sorted(wanted)


def test_steps_of_long_histories_have_as_many_targets_as_those_of_short_ones() -> None:
    data = genre_world(fans=200, films=60, cold=0, events=50).data
    rng = np.random.default_rng(0)
    kept = rng.choice([3, 5, 45], size=len(data.user_keys), p=[0.5, 0.3, 0.2])
    numbers = np.arange(len(data.user)) - data.starts[data.user]  # of an event among its user's
    split = replace(dataset.leave_one_out(data), train=numbers < kept[data.user])
    plan = list(batches.plan(split, targets=20, windows=40, rng=rng))
    sizes = [int((spans[:, 2] - spans[:, 1]).sum()) for spans in plan]
    assert sum(sizes) == kept.sum()
    assert max(len(spans) for spans in plan) > 2 * min(len(spans) for spans in plan)
    assert max(sizes) < 1.5 * np.median(sizes)


def encoder_of(data: Dataset, **config: object) -> RetrievalFormer:
    split = dataset.leave_one_out(data)
    options = retrievalformer.Config(**{**SMALL, "noise": 0.0, "dropout": 0.0, **config})  # type: ignore[arg-type]
    run = Run(seed=0, device="cpu", checkpoint=None, progress=lambda _: None)
    learner = Learner.untrained(options, split, "cpu")
    learning.learn(learner, split, run)
    return learner.encoder


@pytest.mark.parametrize("readout", ["last", "cls"])
@pytest.mark.parametrize("context", ["sum", "fusion"])
def test_training_sees_exactly_what_serving_sees(data: Dataset, readout: str, context: str) -> None:
    """What a packed window says of each prefix is what the user tower says of that prefix alone."""
    encoder = encoder_of(data, epochs=1, readout=readout, context=context)
    split = dataset.leave_one_out(data)
    spans = next(batches.plan(split, targets=5, windows=4, rng=np.random.default_rng(1)))
    batch = batches.gather(data, spans, history=6)
    catalogue = evaluate._Catalogue(encoder, data.items)
    with torch.inference_mode():
        vectors = encoder.towers.items(encoder.item_entities(data.items))
        history = users.history_of(
            batch, vectors[torch.as_tensor(batch.item)], encoder.fitted.values
        )
        profiles = encoder.user_entities([data.user_records[int(u)] for u in batch.user])
        asked = encoder.towers.queries(history, profiles, newcomers=encoder.config.newcomers)
        packed = torch.nn.functional.normalize(asked, dim=-1).numpy()
    checked = 0
    for row, (begin, first, end) in enumerate(spans.tolist()):
        low = max(begin, end - 1 - 6)
        for place, number in enumerate(range(first, end)):
            state = catalogue.state(data, int(batch.user[row]), number)
            state = replace(state, history=list(state.history)[-(number - low) :][: number - low])
            (query,) = encoder.encode_users([state])
            np.testing.assert_allclose(packed[row, place], np.asarray(query.values), atol=2e-5)
            checked += 1
    assert checked > 8


@pytest.mark.parametrize("kinds", [("view", "purchase"), ("rating",)])
def test_validation_ranks_as_serving_does(data: Dataset, kinds: tuple[str, ...]) -> None:
    event = np.minimum(data.event, len(kinds) - 1)
    data = replace(data, event=event, event_names=kinds)
    split = dataset.leave_one_out(data)
    encoder = encoder_of(data, epochs=2)
    torch.nn.init.normal_(encoder.towers.users.events.event.weight)  # type: ignore[union-attr,arg-type]
    served = evaluate.rank_with(encoder, split, split.test)
    scored = evaluate.rank_by(Learner(encoder, split).scorer(), data, split.test)
    np.testing.assert_array_equal(scored.users, served.users)
    np.testing.assert_allclose(scored.masked, served.masked, atol=1)  # sums in another order
    assert np.mean(scored.masked == served.masked) > 0.95


def test_a_sample_of_a_large_catalogue_trains_towards_the_same_answer(tmp_path: Path) -> None:
    """The checkerboard with too small a limit for the exact softmax."""
    world = genre_world()
    options: dict[str, object] = {"width": 32, "epochs": 12, "exact_items": 10, "uniform_items": 30}
    info = train.train(
        "retrievalformer",
        world.data,
        str(tmp_path),
        config={**options, "windows": 8, "patience": 12},
        threads=1,
    )
    assert info.metrics["recall@20"] > info.metrics["popularity_recall@20"] + 0.2


def test_the_sampled_loss_is_near_the_exact_one() -> None:
    data = genre_world().data
    split = dataset.leave_one_out(data)
    encoder = encoder_of(data, epochs=1, width=32)
    towers = encoder.towers.eval()
    catalogue = encoder.item_entities(data.items)
    profiles = encoder.user_entities(data.user_records)
    share = torch.as_tensor(evaluate.popularity(split) / batches.count(split))
    spans = next(batches.plan(split, targets=25, windows=16, rng=np.random.default_rng(0)))
    batch = batches.gather(data, spans, history=50)
    mine = profiles.take(torch.as_tensor(batch.user))
    with torch.inference_mode():
        exact = float(towers.loss(batch, catalogue, mine, share))
        towers.config = replace(towers.config, exact_items=1, uniform_items=40)
        torch.manual_seed(0)
        sampled = [float(towers.loss(batch, catalogue, mine, share)) for _ in range(20)]
    assert np.mean(sampled) == pytest.approx(exact, rel=0.05)


class Constant:
    """Scores all items alike."""

    family = "constant"
    vectors = (VectorSpec(name="v", dimension=1),)
    item_features = user_features = ()
    history = HistoryNeeds(vectors=("v",))
    similar_vector = "v"
    payload_fields: tuple[str, ...] = ()

    def encode_items(self, records: object) -> EncodedItems:
        return EncodedItems(vectors={"v": np.ones((len(list(records)), 1), np.float32)})  # type: ignore[call-overload]

    def encode_users(self, states: object) -> list[UserQuery]:
        return [UserQuery(vector="v", values=np.ones(1, np.float32)) for _ in list(states)]  # type: ignore[call-overload]


def test_who_scores_all_items_alike_gains_nothing() -> None:
    data = checkerboard(items=100)
    split = dataset.leave_one_out(data)
    constant: Encoder = Constant()
    ranks = evaluate.rank_with(constant, split, split.test)
    assert set(ranks.unmasked) == {50.5}
    assert ranks.metrics()["recall@20"] == 0


def test_ranks_are_counted_by_hand() -> None:
    scores = np.asarray([[5, 4, 3, 2, 1], [1, 1, 1, 0, 2]], dtype=np.float32)
    masked, unmasked = evaluate.rank(
        scores, np.asarray([3, 1]), [np.asarray([0, 1]), np.asarray([4, 1, 0])]
    )
    assert unmasked.tolist() == [4, 3]  # the second: one better, two equal besides itself
    assert masked.tolist() == [2, 1.5]
    assert evaluate.gains(np.asarray([1.0, 3.0, 30.0]), 20).tolist() == [1.0, 0.5, 0.0]


def test_a_paired_interval_covers_the_difference_and_knows_the_pairs() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.integers(0, 2, 400).astype(np.float64)
    same = evaluate.paired_interval(theirs, theirs)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    better = np.where(rng.random(400) < 0.2, 1.0, theirs)
    found = evaluate.paired_interval(better, theirs)
    assert found.mean == pytest.approx(better.mean() - theirs.mean())
    assert found.low < found.mean < found.high
    assert found.low > 0
    assert found == evaluate.paired_interval(better, theirs), "seeded"


def test_asking_fewer_users_asks_the_same_ones_each_time() -> None:
    split = dataset.leave_one_out(checkerboard())
    one, other = (
        evaluate.rank_by_popularity(split, split.test, limit=10, seed=4) for _ in range(2)
    )
    assert len(one.users) == 10
    assert one.users.tolist() == other.users.tolist()


@pytest.fixture
def movielens(engine: sa.Engine) -> Dataset:
    folder = os.environ.get("TWINSPAN_DATA")
    if not folder or not (Path(folder) / "ml-100k").is_dir():
        pytest.skip("TWINSPAN_DATA names no folder with ml-100k")
    attached = catalog.attach(engine, catalog.spec.BUILTIN)
    importing.movielens(engine, Path(folder) / "ml-100k")
    return training_data.read_dataset(engine, attached)


@pytest.mark.slow
def test_on_movielens_it_is_well_above_popularity(movielens: Dataset, tmp_path: Path) -> None:
    info = train.train("retrievalformer", movielens, str(tmp_path), config={"epochs": 2}, threads=1)
    assert info.metrics["recall@20"] > 1.4 * info.metrics["popularity_recall@20"]
    assert info.metrics["recall@20_unmasked"] > info.metrics["popularity_recall@20_unmasked"]
