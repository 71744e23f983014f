"""Conditions and features as they are typed on a command line."""

from __future__ import annotations

import pytest

from indexer.cli import conditions
from indexer.errors import FilterError, QueryError


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ([], None),
        (["genres=Comedy"], {"genres": "Comedy"}),
        (["year=1990"], {"year": 1990}),
        (['code="1990"'], {"code": "1990"}),
        (["in_stock=true"], {"in_stock": True}),
        (["title=a=b"], {"title": "a=b"}),
        (["title="], {"title": ""}),
        (["year>=1990"], {"year": {"gte": 1990}}),
        (["year < 2000"], {"year": {"lt": 2000}}),
        (["price>9.5"], {"price": {"gt": 9.5}}),
        (["released<=2020-01-01"], {"released": {"lte": "2020-01-01"}}),
        (["genres!=Horror"], {"genres": {"not": "Horror"}}),
        (['genres=["Comedy", "Drama"]'], {"genres": ["Comedy", "Drama"]}),
        (['{"year": {"gte": 1990}}'], {"year": {"gte": 1990}}),
        (["a=1", '{"b": 2}'], {"all": [{"a": 1}, {"b": 2}]}),
    ],
    ids=str,
)
def test_conditions_mean_what_they_look_like(typed: list[str], meant: object) -> None:
    assert conditions.where(typed) == meant


@pytest.mark.parametrize(
    "typed", ["genres", "=Comedy", "{", "[1]", '"a"', '{"a": NaN}', "[" * 9_999]
)
def test_conditions_that_are_none_are_refused(typed: str) -> None:
    with pytest.raises(FilterError, match="--where"):
        conditions.where([typed])


def test_features_are_read_as_json_or_text() -> None:
    assert conditions.features(["age=25", "city=Rome", "vip=true", "note=a=b"]) == {
        "age": 25,
        "city": "Rome",
        "vip": True,
        "note": "a=b",
    }
    for wrong in (["age"], ["=1"], ["age=1", "age=2"]):
        with pytest.raises(QueryError):
            conditions.features(wrong)
