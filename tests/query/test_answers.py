"""What a user gets: by taste, unseen, filtered; and that a batch answers as its queries alone."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from encoders import artifact
from indexer.errors import QueryError
from indexer.interactions import Event
from indexer.query import Query
from indexer.stores import Collection
from query.world import World, films, genres_of, trained

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
