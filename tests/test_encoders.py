"""The contract of towers, held by every family in worlds where the right answer is known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from worlds import GENRES, GenreWorld, checkerboard, genre_world

from encoders import artifact, families, train
from encoders.errors import EncodeFailed
from encoders.types import (
    Encoder,
    EncoderInfo,
    HistoryItem,
    ItemRecord,
    UserState,
)

OPTIONS: Mapping[str, Mapping[str, object]] = {
    "content": {},
    "retrievalformer": {"width": 32, "text_as": "both"},
}
LEARNING = ("retrievalformer",)
BEGAN = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Trained:
    world: GenreWorld
    info: EncoderInfo
    encoder: Encoder

    @property
    def vector(self) -> str:
        return self.encoder.similar_vector

    def vectors(self, items: Sequence[ItemRecord]) -> np.ndarray:
        return np.asarray(self.encoder.encode_items(items).vectors[self.vector])

    def state(
        self, items: Sequence[ItemRecord], features: Mapping[str, object] | None = None
    ) -> UserState:
        """A user who met these items, oldest first, a day apart."""
        return UserState(
            features=features or {},
            history=[
                HistoryItem(
                    key=item.key,
                    vectors={self.vector: vector},
                    event="view",
                    value=4.0,
                    occurred_at=BEGAN + timedelta(days=day),
                )
                for day, (item, vector) in enumerate(zip(items, self.vectors(items), strict=True))
            ],
        )

    def ask(self, state: UserState) -> np.ndarray:
        (query,) = self.encoder.encode_users([state])
        assert query.vector == self.vector
        return np.asarray(query.values)

    def best(self, state: UserState, items: Sequence[ItemRecord], k: int = 10) -> list[str]:
        """Keys of the k items that the user tower ranks first."""
        scores = self.vectors(items) @ self.ask(state)
        return [items[row].key for row in np.argsort(-scores, kind="stable")[:k]]

    def films(self, genre: str, *, cold: bool = False) -> list[ItemRecord]:
        cold_keys = {item.key for item in self.world.cold}
        return [
            item
            for item in self.world.data.items
            if self.world.genre(item.key) == genre and (item.key in cold_keys) == cold
        ]


@pytest.fixture(scope="session", params=families.NAMES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    world = genre_world()
    root = tmp_path_factory.mktemp("encoders")
    info = train.train(
        request.param, world.data, str(root), config=OPTIONS[request.param], threads=1
    )
    return Trained(world=world, info=info, encoder=artifact.load(info.uri))


def item(key: str = "new", **features: object) -> ItemRecord:
    return ItemRecord(key=key, features=features)


def test_every_family_has_options_here() -> None:
    assert set(OPTIONS) == set(families.NAMES)


def test_the_encoder_says_what_its_info_says(trained: Trained) -> None:
    encoder, info = trained.encoder, trained.info
    assert encoder.family == info.family
    assert encoder.vectors == info.vectors
    assert encoder.item_features == info.item_features
    assert encoder.user_features == info.user_features
    assert encoder.history == info.history
    assert trained.vector in {spec.name for spec in info.vectors if spec.dimension is not None}


def test_vectors_are_float32_of_length_one_and_of_the_promised_width(trained: Trained) -> None:
    vectors = trained.vectors(trained.world.data.items)
    width = {spec.name: spec.dimension for spec in trained.encoder.vectors}[trained.vector]
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(trained.world.data.items), width)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_an_empty_batch_gives_empty_answers(trained: Trained) -> None:
    assert trained.vectors([]).shape[0] == 0
    assert trained.vectors([]).shape[1] == trained.vectors([item()]).shape[1]
    assert trained.encoder.encode_users([]) == []


def test_a_batch_gives_what_single_records_give(trained: Trained) -> None:
    items = [*trained.world.data.items[:40], item(title="x"), item(), item(year=3)]
    together = trained.vectors(items)
    alone = np.concatenate([trained.vectors([one]) for one in items])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(items))
    np.testing.assert_allclose(
        trained.vectors([items[row] for row in order]), together[order], atol=1e-5
    )


def test_a_batch_of_users_gives_what_single_users_give(trained: Trained) -> None:
    films = trained.films("Horror")
    states = [
        trained.state(films[:n], {"favourite": "Horror"} if n % 2 else {}) for n in (0, 1, 3, 12)
    ]
    together = [query.values for query in trained.encoder.encode_users(states)]
    for state, values in zip(states, together, strict=True):
        np.testing.assert_allclose(trained.ask(state), values, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(np.asarray(values)), 1, atol=1e-5)


def test_the_order_of_features_and_of_values_does_not_show(trained: Trained) -> None:
    one = item(title="The galaxy", genres=["Space", "Film"], year=1980, studio="studio 1")
    other = item(studio="studio 1", year=1980, genres=["Film", "Space", "Film"], title="The galaxy")
    np.testing.assert_array_equal(trained.vectors([one]), trained.vectors([other]))


@pytest.mark.parametrize("missing", [None, "", [], float("nan")])
def test_missing_is_the_same_as_absent(trained: Trained, missing: object) -> None:
    kinds = {"": ("title", "genres", "studio", "year"), None: ("title", "genres", "studio", "year")}
    names = kinds.get(missing, ()) if not isinstance(missing, list | float) else ()
    names = names or (("genres",) if isinstance(missing, list) else ("year", "studio"))
    full = {"title": "The galaxy", "genres": ["Space"], "year": 1980, "studio": "studio 1"}
    for name in names:
        absent = {key: value for key, value in full.items() if key != name}
        np.testing.assert_array_equal(
            trained.vectors([item(**{**full, name: missing})]), trained.vectors([item(**absent)])
        )


def test_a_missing_feature_is_not_a_zero(trained: Trained) -> None:
    known = trained.vectors([item(genres=["Space"], year=0)])
    assert np.abs(known - trained.vectors([item(genres=["Space"])])).max() > 1e-3


def test_an_item_of_which_nothing_is_known_gets_a_vector(trained: Trained) -> None:
    vectors = trained.vectors([item("a"), item("b", unheard="of")])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


@pytest.mark.parametrize(
    "features",
    [
        {"genres": ["Never heard of", "Also \ud800 odd"], "studio": "new"},
        {"title": "x" * 1_000_000},
        {"title": "word " * 200_000, "genres": [f"g{n}" for n in range(5_000)]},
        {"title": "nul \0 and \ud83d alone \udc00", "studio": "\0"},
        {"title": "مرحبا 你好 🎬 ﬁlm ＦＵＬＬ", "genres": ["Ünïcode", "喜剧"]},
        {"title": "   ", "genres": ["", None, "  "], "studio": " "},
        {"year": 1e308, "studio": 12},
        {"year": float("-inf"), "studio": True},
        {"year": "1987", "genres": "Space", "title": 1984},
        {"year": 10**30, "studio": 4.5},
    ],
    ids=",".join,
)
def test_odd_input_gives_a_vector(trained: Trained, features: Mapping[str, object]) -> None:
    vectors = trained.vectors([item(**features)])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors), 1, atol=1e-5)


@pytest.mark.parametrize(
    "features",
    [{"year": "soon"}, {"year": {"n": 1}}, {"genres": {"Space": 1}}, {"title": {"en": "x"}}],
    ids=str,
)
def test_a_poison_record_raises_and_is_named(
    trained: Trained, features: Mapping[str, object]
) -> None:
    with pytest.raises(EncodeFailed, match=rf"bad-one.*'{next(iter(features))}'"):
        trained.encoder.encode_items([item("fine"), item("bad-one", **features), item("good")])


def test_the_same_kind_is_nearer_than_another(trained: Trained) -> None:
    centres = np.stack([trained.vectors(trained.films(genre)).mean(axis=0) for genre in GENRES])
    likeness = trained.vectors([film for g in GENRES for film in trained.films(g)]) @ centres.T
    own = np.repeat(np.arange(len(GENRES)), len(trained.films(GENRES[0])))
    assert (likeness.argmax(axis=1) == own).mean() > 0.95


@pytest.mark.parametrize("genre", GENRES)
def test_fans_get_their_genre(trained: Trained, genre: str) -> None:
    films = trained.films(genre)
    best = trained.best(trained.state(films[:8]), trained.world.data.items)
    assert [trained.world.genre(key) for key in best] == [genre] * len(best)


@pytest.mark.parametrize("genre", GENRES)
def test_cold_items_rank_by_genre_for_fans_of_it(trained: Trained, genre: str) -> None:
    fan = trained.state(trained.films(genre)[:8])
    best = trained.best(fan, trained.world.cold, k=len(trained.films(genre, cold=True)))
    assert {trained.world.genre(key) for key in best} == {genre}


@pytest.mark.parametrize("genre", GENRES)
def test_a_film_invented_now_finds_its_fans(trained: Trained, genre: str) -> None:
    new = item("new", genres=[genre], title="Something never seen", year=2031)
    pool = [new, *(film for other in GENRES if other != genre for film in trained.films(other))]
    assert trained.best(trained.state(trained.films(genre)[:8]), pool, k=1) == ["new"]


@pytest.mark.parametrize("genre", GENRES)
def test_a_history_of_cold_items_only_works(trained: Trained, genre: str) -> None:
    state = trained.state(trained.films(genre, cold=True))
    best = trained.best(state, trained.world.data.items)
    assert sum(trained.world.genre(key) == genre for key in best) >= 9


def test_a_user_with_neither_history_nor_features_gets_an_answer(trained: Trained) -> None:
    answer = trained.ask(UserState(features={}, history=()))
    assert np.isfinite(answer).all()
    np.testing.assert_allclose(np.linalg.norm(answer), 1, atol=1e-5)


def test_user_features_nobody_asked_for_are_ignored(trained: Trained) -> None:
    films = trained.films("Space")[:3]
    np.testing.assert_array_equal(
        trained.ask(trained.state(films, {"shoe size": {"eu": 43}})),
        trained.ask(trained.state(films)),
    )


def test_only_the_vectors_of_the_history_are_needed(trained: Trained) -> None:
    films = trained.films("Horror")[:5]
    bare = UserState(
        features={},
        history=[
            HistoryItem(key="whatever", vectors={trained.vector: vector})
            for vector in trained.vectors(films)
        ],
    )
    best = trained.best(bare, trained.world.data.items)
    assert sum(trained.world.genre(key) == "Horror" for key in best) >= 9


def test_unusable_history_is_passed_over(trained: Trained) -> None:
    good = trained.state(trained.films("Horror")[:3])
    width = trained.vectors([item()]).shape[1]
    spoilt = [
        HistoryItem(key="gone", vectors={}),
        HistoryItem(key="nan", vectors={trained.vector: np.full(width, np.nan, np.float32)}),
        HistoryItem(key="other", vectors={"another": np.ones(3, np.float32)}),
    ]
    np.testing.assert_allclose(
        trained.ask(replace(good, history=[*spoilt, *good.history])), trained.ask(good), atol=1e-6
    )


def test_only_the_newest_events_are_read(trained: Trained) -> None:
    limit = trained.encoder.history.limit
    films = (trained.films("Horror") * 10)[: limit + 20]
    long = trained.state(films)
    np.testing.assert_allclose(
        trained.ask(long), trained.ask(replace(long, history=long.history[-limit:])), atol=1e-6
    )


def test_unknown_events_and_missing_context_are_fine(trained: Trained) -> None:
    state = trained.state(trained.films("Horror")[:4])
    odd = [
        replace(event, event=("unheard of", None)[n % 2], value=None, occurred_at=None)
        for n, event in enumerate(state.history)
    ]
    assert np.isfinite(trained.ask(replace(state, history=odd))).all()


def test_loading_again_gives_the_same_bits(trained: Trained) -> None:
    again = Trained(world=trained.world, info=trained.info, encoder=artifact.load(trained.info.uri))
    items = [*trained.world.data.items, item(), item(genres=["unknown"], title="Ünknown")]
    np.testing.assert_array_equal(again.vectors(items), trained.vectors(items))
    state = trained.state(trained.films("Western")[:6], {"favourite": "Western"})
    np.testing.assert_array_equal(again.ask(state), trained.ask(state))


def test_another_process_gives_the_same_bytes(trained: Trained) -> None:
    code = """
import hashlib, sys
import numpy as np, torch
torch.set_num_threads(1)
from encoders import artifact
from encoders.types import HistoryItem, ItemRecord, UserState
encoder = artifact.load(sys.argv[1])
items = [ItemRecord(key=str(n), features={"genres": [f"genre {n}", "Space"], "title": f"word{n}",
         "studio": n, "year": n}) for n in range(50)]
vectors = np.asarray(encoder.encode_items(items).vectors[encoder.similar_vector])
history = [HistoryItem(key="x", vectors={encoder.similar_vector: v}, value=2.0) for v in vectors]
(query,) = encoder.encode_users([UserState(features={"favourite": "x", "age": 3}, history=history)])
print(hashlib.sha256(vectors.tobytes() + np.asarray(query.values).tobytes()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code, trained.info.uri],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent.parent)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


def test_metrics_beat_popularity_in_a_world_of_genres(trained: Trained) -> None:
    metrics = trained.info.metrics
    assert metrics["recall@20"] > metrics["popularity_recall@20"] + 0.1


@pytest.mark.parametrize("family", families.NAMES)
def test_even_users_get_even_items(family: str, tmp_path: Path) -> None:
    data = checkerboard()
    options = {"width": 32, "epochs": 16, "patience": 16} if family in LEARNING else {}
    info = train.train(family, data, str(tmp_path), config=options, threads=1)
    encoder = artifact.load(info.uri)
    vectors = np.asarray(encoder.encode_items(data.items).vectors[encoder.similar_vector])
    for side in (0, 1):
        history = [
            HistoryItem(key=data.items[row].key, vectors={encoder.similar_vector: vectors[row]})
            for row in range(side, 12, 2)
        ]
        (query,) = encoder.encode_users([UserState(features={}, history=history)])
        best = np.argsort(-(vectors @ np.asarray(query.values)))[:15]
        assert set(best % 2) == {side}


@pytest.mark.parametrize("genre", GENRES)
def test_a_profile_alone_decides_where_users_have_features(trained: Trained, genre: str) -> None:
    if not trained.encoder.user_features:
        pytest.skip(f"{trained.encoder.family} reads no user features")
    best = trained.best(
        UserState(features={"favourite": genre}, history=()), trained.world.data.items
    )
    assert sum(trained.world.genre(key) == genre for key in best) >= 9
