"""Bad input, refused before the store is asked, and the most that is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer import Retriever
from indexer.errors import FilterError, QueryError, UsageError
from indexer.query import asked as asked_module
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore
from query.world import World

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
TOO_MUCH: list[tuple[object, str]] = [
    (5, "queries must be a list"),
    ([{}] * (asked_module.QUERIES_MAX + 1), "1,001 queries in one call"),
    ([{"history": [{"item_key": "a", 1: 2, "x": 3}]}], "has no 'x', 1"),
    ([{"history": ["x" * 2_001]}], "2,001 characters"),
    ([{"history": [10**5_000]}], "must be a key"),
    ([{"k": 10**5_000}], "k must be from 1"),
    ([{"features": {1: 2}}], "a feature's name is text"),
    ([{"features": {str(n): n for n in range(1_001)}}], "1,001 features"),
    ([{"history": ["a"] * 10_001}], "10001 events"),
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


@pytest.mark.parametrize(("asked", "says"), TOO_MUCH)
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
