"""The retriever on both embedded stores, with real towers loaded from real artifacts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from encoders import artifact, content
from encoders.errors import ArtifactDamaged
from encoders.types import EncoderInfo, Feature, ItemRecord
from indexer import Retriever, interactions
from indexer.errors import (
    CollectionMissing,
    EncoderMismatch,
    FilterError,
    QueryError,
    UsageError,
)
from indexer.interactions import Event
from indexer.query import Hits, Query
from indexer.query import asked as asked_module
from indexer.settings import Settings
from indexer.stores import Collection, CollectionSpec, Point, VectorStore
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Tower

GENRES = ("Comedy", "Drama", "Horror", "Western")
FIELDS = {"genres": "keyword", "year": "integer", "in_stock": "bool"}
ITEM_FEATURES = (Feature(name="genres", kind="categories"), Feature(name="year", kind="number"))


def films(count: int = 80, *, prefix: str = "m") -> dict[str, dict[str, object]]:
    """Film i is of genre i % 4, so whoever liked one genre should get more of it."""
    return {
        f"{prefix}{i}": {"genres": [GENRES[i % 4]], "year": 1960 + i % 60, "in_stock": i % 3 == 0}
        for i in range(count)
    }


def records(rows: Mapping[str, Mapping[str, object]]) -> list[ItemRecord]:
    return [ItemRecord(key=key, features=row) for key, row in rows.items()]


def trained(root: Path, *, weight: float = 0.4) -> EncoderInfo:
    """A content encoder on disk. Another weight gives another encoder of the same dimension."""
    tower = content.fit(
        content.Config(category_weight=weight),
        records(films()),
        ITEM_FEATURES,
        popularity=np.ones(80, dtype=np.float32),
    )
    return artifact.save(tower, str(root), facts={}, metrics={})


@dataclass(kw_only=True)
class World:
    store: VectorStore
    settings: Settings
    root: Path
    retriever: Retriever = field(init=False)
    built: int = 0

    def __post_init__(self) -> None:
        self.retriever = Retriever(self.store, alias="movies", settings=self.settings)

    def build(
        self, info: EncoderInfo, rows: Mapping[str, Mapping[str, object]], *, live: bool = True
    ) -> Collection:
        """A collection of these rows by that encoder, as `reindex` makes one."""
        self.built += 1
        collection = Collection(name=f"movies-{self.built}", catalog="films")
        spec = CollectionSpec(
            collection=collection,
            vectors=info.vectors,
            fields=FIELDS,
            metadata={
                "format": 1,
                "index_id": self.built,
                "encoder_id": info.id,
                "encoder_uri": info.uri,
                "catalog": "films",
                "alias": "movies",
                "returned": ["genres", "year", "built_by"],
            },
        )
        self.store.ensure_collection(spec)
        self.write(info, collection, rows)
        if live:
            self.store.point_alias("movies", collection.name)
        return collection

    def write(
        self, info: EncoderInfo, collection: Collection, rows: Mapping[str, Mapping[str, object]]
    ) -> None:
        encoded = artifact.load(info.uri, expected_id=info.id).encode_items(records(rows))
        points = [
            Point(
                key=key,
                vectors={name: vectors[place] for name, vectors in encoded.vectors.items()},
                payload={**row, "built_by": info.id, "_key": key, "_version": 1, "_fence": 1},
            )
            for place, (key, row) in enumerate(rows.items())
        ]
        self.store.write_if_newer(collection, points, fence=1, mode="upsert")
        self.store.flush(collection)


@pytest.fixture(params=["edge", "qdrant"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    store: VectorStore = (
        EdgeStore(tmp_path / "edge") if request.param == "edge" else QdrantStore.in_memory()
    )
    yield World(
        store=store, settings=Settings(data_dir=tmp_path / "data"), root=tmp_path / "encoders"
    )
    store.close()


@pytest.fixture
def movies(world: World) -> World:
    """80 films, live."""
    world.build(trained(world.root), films())
    return world


def genres_of(hits: Hits) -> list[object]:
    return [genre for hit in hits for genre in hit.payload["genres"]]  # type: ignore[attr-defined]


# -- what a user gets ------------------------------------------------------------------------------


def test_who_liked_comedies_gets_comedies_that_they_have_not_seen(movies: World) -> None:
    hits = movies.retriever.recommend(history=["m0", "m4", "m8"], k=10)
    assert genres_of(hits) == ["Comedy"] * 10
    assert not set(hits.keys) & {"m0", "m4", "m8"}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits.history == 3


def test_seen_items_come_back_when_asked_for(movies: World) -> None:
    hits = movies.retriever.recommend(history=["m0"], k=20, exclude_seen=False)
    assert "m0" in hits.keys


def test_only_the_newest_events_reach_the_tower_but_all_are_seen(movies: World) -> None:
    history = [f"m{i}" for i in range(0, 80, 4)] * 4
    hits = movies.retriever.recommend(history=history, k=80)
    assert hits.history == 50
    assert len(hits) == 60
    assert "Comedy" not in genres_of(hits)


def test_an_empty_history_without_features_still_gets_an_answer(movies: World) -> None:
    hits = movies.retriever.recommend(k=5)
    assert len(hits) == 5
    assert (hits.history, hits.unknown) == (0, ())


def test_a_history_of_items_the_encoder_never_saw_works(movies: World) -> None:
    cold = films(8, prefix="new")
    info = artifact.list_of(str(movies.root))[0]
    movies.write(info, Collection(name="movies-1", catalog="films"), cold)
    hits = movies.retriever.recommend(history=["new0", "new4"], k=5)
    assert (hits.history, hits.unknown) == (2, ())
    assert genres_of(hits) == ["Comedy"] * 5


def test_unknown_keys_are_ignored_and_reported(movies: World) -> None:
    known = movies.retriever.recommend(history=["m0", "m4"], k=7)
    mixed = movies.retriever.recommend(
        history=["gone", "m0", "\ud800", "m4", "a\0b", "", "gone"], k=7
    )
    assert mixed.unknown == ("gone", "\ud800", "a\0b", "")
    assert mixed.history == 2
    assert mixed.keys == known.keys


def test_events_of_every_shape_mean_the_same(movies: World) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    event = Event(item_key="m3", event="rating", value=4.0, occurred_at=at)
    mapping = {"key": "m3", "event": "rating", "value": 4, "occurred_at": "2026-01-01T00:00:00Z"}
    answers = [movies.retriever.recommend([one], k=5).keys for one in ("m3", event, mapping)]
    assert answers[0] == answers[1] == answers[2]


def test_whole_numbers_are_keys_by_their_digits(world: World) -> None:
    world.build(trained(world.root), films(8, prefix=""))
    hits = world.retriever.recommend([0], k=7)  # type: ignore[list-item]
    assert hits.unknown == ()
    assert "0" not in hits.keys


def test_features_that_the_tower_does_not_read_are_reported(movies: World) -> None:
    assert movies.retriever.recommend(features={"age": 25}, k=1).ignored == ("age",)


def test_only_returned_fields_come_back(movies: World) -> None:
    [hit] = movies.retriever.recommend(k=1)
    assert set(hit.payload) == {"genres", "year", "built_by"}


def test_filters_hold_for_every_hit(movies: World) -> None:
    where = {"genres": ["Drama", "Horror"], "year": {"gte": 1980}, "in_stock": True}
    hits = movies.retriever.recommend(history=["m0"], where=where, k=50)
    expected = {
        key
        for key, film in films().items()
        if film["genres"][0] in {"Drama", "Horror"} and film["year"] >= 1980 and film["in_stock"]  # type: ignore[index,operator]
    }
    assert set(hits.keys) == expected
    assert movies.retriever.recommend(where={"genres": "Musical"}).keys == []


def test_exact_search_gives_the_same_items(movies: World) -> None:
    usual = movies.retriever.recommend(history=["m1"], k=20)
    exact = movies.retriever.recommend(history=["m1"], k=20, exact=True)
    assert [round(hit.score, 5) for hit in usual] == [round(hit.score, 5) for hit in exact]


def test_similar_items_are_of_its_kind_and_do_not_contain_it(movies: World) -> None:
    hits = movies.retriever.similar("m2", k=5)
    assert "m2" not in hits.keys
    assert genres_of(hits) == ["Horror"] * 5
    western = movies.retriever.similar("m2", where={"genres": "Western"}, k=5)
    assert genres_of(western) == ["Western"] * 5


# -- batches ---------------------------------------------------------------------------------------


def test_a_batch_answers_as_its_queries_one_by_one(movies: World) -> None:
    queries = [
        Query(history=["m0", "m4"], k=5),
        Query(history=[], k=3),
        Query(history=["m1", "gone"], where={"year": {"lt": 1990}}, k=9, exclude_seen=False),
        Query(history=["m2"], exact=True),
    ]
    together = movies.retriever.recommend_many(queries)
    for query, hits in zip(queries, together, strict=True):
        [alone] = movies.retriever.recommend_many([query])
        assert hits.keys == alone.keys
        assert np.allclose([h.score for h in hits], [h.score for h in alone], atol=1e-6)
        assert (hits.unknown, hits.history) == (alone.unknown, alone.history)


def test_an_empty_batch_gives_nothing(world: World) -> None:
    assert world.retriever.recommend_many([]) == []


def test_a_query_may_be_a_mapping(movies: World) -> None:
    [hits] = movies.retriever.recommend_many([{"history": ["m0"], "k": 2}])
    assert len(hits) == 2
    with pytest.raises(QueryError, match=r"'limit'.*history"):
        movies.retriever.recommend_many([{"limit": 2}])


# -- bad input, refused before the store is asked --------------------------------------------------

BAD: list[tuple[dict[str, object], str]] = [
    ({"k": 0}, "k must be from 1 to 1000"),
    ({"k": 10_000}, "k must be from 1 to 1000"),
    ({"k": -1}, "k must be"),
    ({"k": True}, "whole number"),
    ({"k": "10"}, "whole number"),
    ({"k": 2.5}, "whole number"),
    ({"history": "m1"}, "list of item keys"),
    ({"history": {"m1": 1}}, "list of item keys"),
    ({"history": 7}, "list of item keys"),
    ({"history": [None]}, r"history\[0\]"),
    ({"history": ["m1", 2.5]}, r"history\[1\]"),
    ({"history": [True]}, r"history\[0\]"),
    ({"history": [["m1"]]}, r"history\[0\]"),
    ({"history": [{"key": "m1", "rating": 5}]}, "'rating'"),
    ({"history": [{"event": "view"}]}, "item_key"),
    ({"history": [{"key": "m1", "value": "5"}]}, "value must be a finite number"),
    ({"history": [{"key": "m1", "value": float("nan")}]}, "finite"),
    ({"history": [{"key": "m1", "value": 10**400}]}, "finite"),
    ({"history": [{"key": "m1", "occurred_at": "yesterday"}]}, "occurred_at"),
    ({"history": [{"key": "m1", "occurred_at": 5}]}, "occurred_at"),
    ({"history": ["m1"] * 10_001}, "10001 events"),
    ({"features": ["age"]}, "features must be a mapping"),
    ({"user_key": 2.5}, "user_key"),
    ({"exclude_seen": 1}, "exclude_seen"),
    ({"exact": "yes"}, "exact"),
]


@pytest.mark.parametrize(("query", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_queries_are_refused_before_any_store_is_asked(
    tmp_path: Path, query: dict[str, object], message: str
) -> None:
    store = EdgeStore(tmp_path / "edge")  # without any index: whoever asks it gets another error
    retriever = Retriever(store, settings=Settings(data_dir=tmp_path))
    with pytest.raises(QueryError, match=message):
        retriever.recommend(**query)  # type: ignore[arg-type]
    store.close()


@pytest.mark.parametrize(
    "where",
    [
        {"colour": "red"},
        {"year": "nineteen"},
        {"year": {"gte": 2000, "lt": 1990}},
        {"year": {"above": 1}},
        {"genres": []},
        ["genres"],
        "genres=Comedy",
    ],
    ids=str,
)
def test_bad_filters_are_refused_by_name(movies: World, where: object) -> None:
    with pytest.raises(FilterError):
        movies.retriever.recommend(where=where)
    with pytest.raises(UsageError):
        movies.retriever.similar("m0", where=where)


def test_similar_to_an_unknown_item_says_so(movies: World) -> None:
    for key in ("gone", "\ud800", "a\0b", ""):
        with pytest.raises(QueryError, match="holds no item"):
            movies.retriever.similar(key)


def test_a_user_key_without_postgresql_says_what_is_missing(movies: World) -> None:
    with pytest.raises(QueryError, match="database_url"):
        movies.retriever.recommend(user_key="42")


# -- users whose history lies in PostgreSQL --------------------------------------------------------


@pytest.fixture
def stored(movies: World, engine: sa.Engine) -> Retriever:
    """User "7" watched three westerns long ago and one item that is gone."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        interactions.Interaction("7", key, at + timedelta(minutes=number), "view")
        for number, key in enumerate(["m3", "m7", "gone", "m11"])
    ]
    interactions.add(engine, rows, catalog="films")
    interactions.set_features(engine, [interactions.User("7", {"age": "old", "country": "NZ"})])
    return Retriever(movies.store, alias="movies", settings=movies.settings, engine=engine)


def test_a_known_user_is_answered_by_their_stored_history(stored: Retriever) -> None:
    hits = stored.recommend(user_key="7", k=8)
    assert genres_of(hits) == ["Western"] * 8
    assert (hits.history, hits.unknown) == (3, ("gone",))
    assert hits.keys == stored.recommend(["m3", "m7", "m11"], k=8).keys
    assert hits.keys == stored.recommend(user_key=7, k=8).keys  # type: ignore[arg-type]


def test_a_session_follows_on_the_stored_history(stored: Retriever) -> None:
    together = stored.recommend(["m0"], user_key="7", k=60)
    assert together.history == 4
    assert together.keys == stored.recommend(["m3", "m7", "m11", "m0"], k=60).keys
    assert "m0" not in together.keys


def test_an_unknown_user_is_a_new_user(stored: Retriever) -> None:
    for user_key in ("nobody", "\ud800", "a\0b"):
        hits = stored.recommend(user_key=user_key, k=5)
        assert (len(hits), hits.history) == (5, 0)


# -- which index, which encoder --------------------------------------------------------------------


def test_without_an_index_the_error_names_the_alias_and_the_remedy(world: World) -> None:
    with pytest.raises(CollectionMissing, match=r"'movies'.*twinspan reindex"):
        world.retriever.recommend()


def test_hits_say_where_they_come_from(movies: World) -> None:
    hits = movies.retriever.recommend(history=["m0", "m1"], k=8)
    info = artifact.list_of(str(movies.root))[0]
    assert (hits.index_id, hits.collection, hits.encoder_id) == (1, "movies-1", info.id)
    assert list(hits.timings) == ["resolve", "history", "encode", "search"]
    assert all(ms >= 0 for ms in hits.timings.values())
    assert json.loads(json.dumps(hits.as_dict()))["encoder"] == info.id
    assert "8 hits from movies-1" in repr(hits)
    assert repr(hits).endswith(", …>")
    assert hits[0] == next(iter(hits))
    assert len(hits[2:4]) == 2


def test_the_next_query_follows_the_alias(movies: World) -> None:
    before = movies.retriever.recommend(history=["m0"], k=3)
    second = trained(movies.root, weight=0.9)
    movies.build(second, films(40))
    after = movies.retriever.recommend(history=["m0"], k=3)
    assert before.encoder_id != after.encoder_id == second.id
    assert {hit.payload["built_by"] for hit in after} == {second.id}


def test_a_tower_that_did_not_build_the_index_is_refused(movies: World) -> None:
    own, other = artifact.list_of(str(movies.root))[0], trained(movies.root, weight=0.9)
    given = Retriever(
        movies.store,
        alias="movies",
        settings=movies.settings,
        encoder=Tower(other.id, artifact.load(other.uri)),
    )
    for ask in (lambda: given.recommend(k=1), lambda: given.similar("m0")):
        with pytest.raises(EncoderMismatch, match=f"{own.id}.*{other.id}"):
            ask()
    movies.build(other, films())
    assert given.recommend(k=1).encoder_id == other.id


def test_a_damaged_encoder_is_refused(movies: World) -> None:
    weights = Path(artifact.list_of(str(movies.root))[0].uri) / "model.safetensors"
    content_bytes = bytearray(weights.read_bytes())
    content_bytes[-1] ^= 1
    weights.write_bytes(content_bytes)
    with pytest.raises(ArtifactDamaged):
        movies.retriever.recommend()


def test_a_physical_collection_can_be_asked_by_its_own_name(movies: World) -> None:
    movies.build(trained(movies.root, weight=0.9), films(20), live=False)
    shadow = Retriever(movies.store, alias="movies-2", settings=movies.settings)
    assert shadow.recommend(k=1).index_id == 2


def test_swapping_the_live_index_under_queries_gives_no_error_and_no_mixed_answer(
    world: World,
) -> None:
    encoders = [trained(world.root, weight=0.3), trained(world.root, weight=0.9)]
    for info in encoders:
        world.build(info, films(), live=True)
    expected = {
        info.id: Retriever(
            world.store, alias=f"movies-{number}", settings=world.settings
        ).recommend(history=["m0", "m5"], k=10)
        for number, info in enumerate(encoders, start=1)
    }
    scores = {id_: [round(hit.score, 4) for hit in hits] for id_, hits in expected.items()}
    assert len({tuple(each) for each in scores.values()}) == 2, "the two must be tellable apart"
    asking = Asking(world.retriever)
    asking.start()
    asking.wait_for(3)
    for turn in range(30):
        world.store.point_alias("movies", f"movies-{1 + turn % 2}")
        asking.wait_for(asking.count + 2)
    asking.stop()
    assert {hits.encoder_id for hits in asking.answers} == {info.id for info in encoders}
    for hits in asking.answers:
        assert {hit.payload["built_by"] for hit in hits} == {hits.encoder_id}
        assert [round(hit.score, 4) for hit in hits] == scores[hits.encoder_id]


def test_an_index_may_be_replaced_and_dropped_under_queries(world: World) -> None:
    encoders = [trained(world.root, weight=0.3), trained(world.root, weight=0.9)]
    old = world.build(encoders[0], films(12))
    asking = Asking(world.retriever)
    asking.start()
    for turn in range(1, 12):
        asking.wait_for(asking.count + 1)
        new = world.build(encoders[turn % 2], films(12))
        world.store.drop_collection(old.name)
        old = new
    asking.stop()
    for hits in asking.answers:
        assert {hit.payload["built_by"] for hit in hits} == {hits.encoder_id}


def test_threads_share_a_retriever(movies: World) -> None:
    histories = [[f"m{i}", f"m{i + 3}"] for i in range(40)]
    alone = [movies.retriever.recommend(history, k=5).keys for history in histories]

    def ask(history: Sequence[str]) -> list[str]:
        return movies.retriever.recommend(history, k=5).keys

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, histories)) == alone


class Asking(threading.Thread):
    """Asks the same question until it is stopped; keeps every answer, and the first error."""

    def __init__(self, retriever: Retriever) -> None:
        super().__init__(daemon=True)
        self.answers: list[Hits] = []
        self._retriever = retriever
        self._error: Exception | None = None
        self._stopping = False
        self._answered = threading.Condition()

    @property
    def count(self) -> int:
        return len(self.answers)

    def run(self) -> None:
        try:
            while not self._stopping:
                self.answers.append(self._retriever.recommend(history=["m0", "m5"], k=10))
                with self._answered:
                    self._answered.notify_all()
        except Exception as error:  # noqa: BLE001  # told to the test
            self._error = error
            with self._answered:
                self._answered.notify_all()

    def wait_for(self, count: int) -> None:
        with self._answered:
            assert self._answered.wait_for(
                lambda: self._error is not None or len(self.answers) >= count, timeout=30
            ), "no answer within 30 s"
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._stopping = True
        self.join(30)
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (5, "queries must be a list"),
        ([{}] * (asked_module.QUERIES_MAX + 1), "1,001 queries in one call"),
        ([{"history": [{"item_key": "a", 1: 2, "x": 3}]}], "has no 'x', 1"),
        ([{"history": ["x" * 2_001]}], "2,001 characters"),
        ([{"history": [10**5_000]}], "must be a key"),
        ([{"k": 10**5_000}], "k must be from 1"),
        ([{"features": {1: 2}}], "a feature's name is text"),
        ([{"features": {str(n): n for n in range(1_001)}}], "1,001 features"),
        ([{"history": ["a"] * 10_001}], "10001 events"),
    ],
)
def test_what_is_too_much_or_nonsense_is_refused_before_anything_is_read(
    asked: object, says: str
) -> None:
    with pytest.raises(QueryError, match=says):
        asked_module.check_many(asked, k_max=100)


def test_the_most_that_is_allowed_is_taken() -> None:
    most: list[dict[str, object]] = [
        {"history": ["x" * asked_module.KEY_MAX] * asked_module.HISTORY_MAX, "k": 100},
        {"features": {str(n): n for n in range(asked_module.FEATURES_MAX)}},
    ]
    checked = asked_module.check_many(most + [{}] * (asked_module.QUERIES_MAX - 2), k_max=100)
    assert len(checked) == asked_module.QUERIES_MAX
