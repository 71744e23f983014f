"""Filters: what may be written, what is refused and how, and what a filter means."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from qdrant_client import models

from indexer import filters, wording
from indexer.errors import FilterError, UsageError
from indexer.filters import FieldKind, mapping

FIELDS: dict[str, FieldKind] = {
    "genres": "keyword",
    "year": "integer",
    "price": "float",
    "in_stock": "bool",
    "released": "datetime",
    "shop": "geo",
    "any": "keyword",
}
BERLIN = {"lat": 52.52, "lon": 13.405}


def passes(where: Any, **payload: object) -> bool:
    return filters.matches(filters.parse(where, FIELDS), payload)


@pytest.mark.parametrize("where", [None, {}, models.Filter()])
def test_no_filter_lets_everything_pass(where):
    assert filters.parse(where, FIELDS) is None
    assert filters.matches(None, {})


@pytest.mark.parametrize(
    ("where", "passing", "failing"),
    [
        ({"genres": "Comedy"}, ["Comedy", ["Drama", "Comedy"]],
         ["comedy", "", None, [], ["Drama"]]),
        ({"genres": ["A", "B"]}, ["A", "B", ["C", "B"]], ["C", None, []]),
        ({"genres": ["A", None]}, ["A", None, []], ["B", [None]]),
        ({"genres": None}, [None, []], ["", "A", [None]]),
        ({"genres": {"exists": True}}, ["A", ""], [None, []]),
        ({"genres": {"exists": False}}, [None, []], ["A"]),
        ({"genres": {"not": "A"}}, ["B", None, [], ["B", "C"]], ["A", ["A", "B"]]),
        ({"genres": {"not": ["A", "B"]}}, ["C", None], ["A", ["C", "B"]]),
        ({"genres": {"not": None}}, ["A"], [None, []]),
        ({"year": 3}, [3, 3.0, [1, 3]], [True, "3", 3.5, None]),
        ({"year": 1}, [1], [True, "1"]),
        ({"year": {"gte": 1990}}, [1990, 2000, [1, 1990]], [1989, None, "1990", True]),
        ({"year": {"gt": 1990, "lt": 1992}}, [1991], [1990, 1992, [1989, 1993]]),
        ({"year": {"gte": 3.5, "lte": 5.5}}, [4, 5], [3, 6]),
        ({"year": {"gt": 3.5, "lt": 4.5}}, [4], [3, 5]),
        ({"year": {"gt": 3, "gte": 3, "lte": 9, "lt": 5}}, [4], [3, 5]),
        ({"year": {"gte": 1990, "not": 1995}}, [1990, 1996], [1995, 1989]),
        ({"price": 3}, [3, 3.0], [3.1, True]),
        ({"price": [0.1, 2]}, [0.1, 2], [0.2, "0.1"]),
        ({"price": {"lte": 9.99}}, [9.99, -1], [9.991]),
        ({"in_stock": True}, [True, [False, True]], [False, 1, "true", None]),
        ({"in_stock": [True, False]}, [True, False], [None, 0]),
        ({"released": "2020-01-01"}, ["2020-01-01T00:00:00Z", "2020-01-01T01:00:00+01:00"],
         ["2020-01-02", "nonsense", 3]),
        ({"released": {"gte": date(2020, 1, 1)}}, ["2020-01-01", "2021-05-05 10:00:00"],
         ["2019-12-31T23:59:59.999999Z"]),
        ({"shop": {"near": BERLIN, "within_m": 1_000}},
         [BERLIN, [{"lat": 0, "lon": 0}, {"lat": 52.521, "lon": 13.406}]],
         [{"lat": 52.6, "lon": 13.4}, None, {"lat": 52.52}, "52.52,13.405"]),
    ],
    ids=repr,
)  # fmt: skip
def test_a_condition_means_what_it_says(where, passing, failing):
    (field,) = where
    for value in passing:
        assert passes(where, **{field: value}), value
    for value in failing:
        assert not passes(where, **{field: value}), value


def test_fields_side_by_side_must_all_hold():
    where = {"genres": "Comedy", "year": {"gte": 1990}}
    assert passes(where, genres=["Comedy"], year=1994)
    assert not passes(where, genres=["Comedy"], year=1980)
    assert not passes(where, year=1994)


def test_groups_combine():
    where = {
        "any": [{"year": {"lt": 1950}}, {"all": [{"genres": "Drama"}, {"year": {"gt": 2000}}]}],
        "none": [{"in_stock": False}, {"price": {"gt": 100}}],
    }
    assert passes(where, year=1940)
    assert passes(where, year=2010, genres="Drama", price=5)
    assert not passes(where, year=2010, genres="Comedy")
    assert not passes(where, year=1940, in_stock=False)
    assert not passes(where, year=1940, price=101.5)


def test_a_field_named_like_a_group_is_a_field_unless_given_mappings():
    assert passes({"any": "x"}, any="x")
    assert passes({"any": ["x", "y"]}, any="y")
    assert passes({"any": [{"any": "x"}, {"year": 1}]}, year=1)


def test_datetimes_are_made_utc():
    for value in (
        "2020-01-01T02:00:00+02:00",
        "2020-01-01",
        date(2020, 1, 1),
        datetime(2020, 1, 1),
        datetime(2019, 12, 31, 19, tzinfo=timezone(timedelta(hours=-5))),
    ):
        parsed = filters.parse({"released": value}, FIELDS)
        assert isinstance(parsed, filters.Equals)
        assert parsed.values == (datetime(2020, 1, 1, tzinfo=UTC),)


def deep(levels: int, wrap) -> Any:
    where: Any = {"genres": "x"}
    for _ in range(levels):
        where = wrap(where)
    return where


def not_chain(levels: int) -> Any:
    said: Any = "x"
    for _ in range(levels):
        said = {"not": said}
    return {"genres": said}


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"genre": "x"}, "'genre'.*Did you mean 'genres'.*Filterable: any, genres"),
        ({"zzz": "x"}, "no field 'zzz'"),
        ({7: "x"}, "no field 7"),
        ({10**5_000: "x"}, "no field <int>"),
        ({"x" * 10**6: "x"}, "no field 'xxx"),
        ({"year": {"x" * 10**6: 1}}, "is not an operator"),
        ({"year": 10**5_000}, "64 bits"),
        ({"year": "1990"}, "'year'.*whole number.*str '1990'"),
        ({"year": True}, "'year'.*bool True"),
        ({"year": 1.5}, "'year'.*float 1.5"),
        ({"year": 2**63}, "64 bits"),
        ({"genres": 5}, "'genres'.*text"),
        ({"genres": "\ud800"}, "Unicode"),
        ({"price": float("nan")}, "finite"),
        ({"price": float("inf")}, "finite"),
        ({"price": 10**400}, "finite"),
        ({"in_stock": 1}, "true or false"),
        ({"released": "yesterday"}, "ISO 8601"),
        ({"released": 20200101}, "ISO 8601"),
        ({"released": "0001-01-01T00:00:00+23:59"}, "ISO 8601"),
        ({"genres": []}, "empty"),
        ({"genres": ["a"] * 10_001}, "10,000"),
        ({"genres": [["a"]]}, "text"),
        ({"genres": {"gte": "a"}}, "no order"),
        ({"in_stock": {"gt": False}}, "no order"),
        ({"year": {}}, "empty"),
        ({"year": {"from": 1990}}, "'from' is not an operator.*gte"),
        ({"year": {"gte": None}}, "whole number"),
        ({"year": {"gte": "x"}}, "whole number"),
        ({"year": {"gte": True}}, "whole number"),
        ({"year": {"gte": float("nan")}}, "whole number"),
        ({"year": {"gte": 2**53}}, "double"),
        ({"year": {"gte": 2000, "lte": 1990}}, "nothing lies"),
        ({"year": {"gt": 3, "lt": 4}}, "nothing lies"),
        ({"price": {"gt": 3, "lte": 3}}, "nothing lies"),
        ({"released": {"gt": "2020-01-02", "lt": "2020-01-01"}}, "nothing lies"),
        ({"year": {"gte": [1990]}}, "whole number"),
        ({"shop": "Berlin"}, "near"),
        ({"shop": BERLIN}, "not an operator"),
        ({"shop": {"near": BERLIN}}, "within_m"),
        ({"shop": {"within_m": 5}}, "near"),
        ({"shop": {"near": {"lat": 91, "lon": 0}, "within_m": 5}}, "between -90 and 90"),
        ({"shop": {"near": {"lat": "x", "lon": 0}, "within_m": 5}}, "must be a number"),
        ({"shop": {"near": {"lat": 1}, "within_m": 5}}, "lat.*lon"),
        ({"shop": {"near": BERLIN, "within_m": -1}}, "between 0"),
        ({"year": {"near": BERLIN, "within_m": 5}}, "geo fields"),
        ({"genres": {"exists": "yes"}}, "true or false"),
        ({"all": []}, "'all' takes a non-empty list"),
        ({"none": {"year": 1}}, "'none' takes a non-empty list"),
        ({"all": [{}]}, "non-empty mappings"),
        ({"all": ["x"]}, "non-empty mappings"),
        (deep(5_000, lambda inner: {"all": [inner]}), "deeper than 16"),
        (deep(17, lambda inner: {"none": [inner]}), "deeper than 16"),
        (not_chain(5_000), "deeper than 16"),
        ({"any": [{"year": n} for n in range(1_001)]}, "1,000 conditions"),
        ([("genres", "x")], "mapping"),
        ("genres = 'x'", "mapping"),
        (models.FieldCondition(key="year", match=models.MatchValue(value=1)), r"Filter\(must"),
    ],
    ids=lambda value: value if isinstance(value, str) else wording.short(value),
)
def test_what_makes_no_sense_is_refused_by_name(where, says):
    with pytest.raises(FilterError, match=f"(?s){says}") as caught:
        filters.parse(where, FIELDS)
    assert isinstance(caught.value, UsageError)
    assert len(str(caught.value)) < 400


def test_a_catalog_without_filterable_fields_says_so():
    with pytest.raises(FilterError, match="no filterable fields"):
        filters.parse({"year": 1}, {})


def field(key: str, **said: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, **said)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (models.Filter(must=[field("year", match=models.MatchValue(value=3))]), {"year": 3}),
        (models.Filter(must=field("genres", match=models.MatchAny(any=["a", "b"]))),
         {"genres": ["a", "b"]}),
        (models.Filter(must_not=[field("in_stock", match=models.MatchValue(value=False))]),
         {"none": [{"in_stock": False}]}),
        (models.Filter(should=[field("price", range=models.Range(gte=3.5)),
                               models.IsEmptyCondition(is_empty=models.PayloadField(key="price"))]),
         {"any": [{"price": {"gte": 3.5}}, {"price": None}]}),
        (models.Filter(must=[field("released",
                                   range=models.DatetimeRange(lt=datetime(2020, 1, 1)))]),
         {"released": {"lt": "2020-01-01"}}),
        (models.Filter(must=[field("shop", geo_radius=models.GeoRadius(
            center=models.GeoPoint(**BERLIN), radius=500))]),
         {"shop": {"near": BERLIN, "within_m": 500}}),
        (models.Filter(min_should=models.MinShould(
            conditions=[field("year", match=models.MatchValue(value=1)),
                        field("year", match=models.MatchValue(value=2))], min_count=1)),
         {"any": [{"year": 1}, {"year": 2}]}),
        (models.Filter(must=[models.Filter(must=[field("year", is_empty=False)])]),
         {"year": {"exists": True}}),
    ],
    ids=["value", "any", "must_not", "should", "datetime", "geo", "min_should", "nested"],
)  # fmt: skip
def test_a_qdrant_filter_is_the_same_as_ours(theirs, ours):
    assert filters.parse(theirs, FIELDS) == filters.parse(ours, FIELDS)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (field("genre", match=models.MatchValue(value="x")), "Did you mean 'genres'"),
        (field("year", match=models.MatchValue(value="x")), "whole number"),
        (field("genres", match=models.MatchText(text="x")), "full-text"),
        (field("genres", **{"match": models.MatchExcept(**{"except": ["x"]})}), "must_not"),
        (field("genres", values_count=models.ValuesCount(gt=1)), "values_count"),
        (field("genres", is_null=True), "is_null"),
        (field("year", range=models.Range()), "no bound"),
        (field("year", range=models.Range(gte=5, lte=4)), "nothing lies"),
        (models.HasIdCondition(has_id=[1]), "exclude"),
        (models.IsNullCondition(is_null=models.PayloadField(key="year")), "is_empty"),
        (models.Filter(), "without any condition"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_our_fields_cannot_answer_of_a_qdrant_filter_is_refused(condition, says):
    with pytest.raises(FilterError, match=says):
        filters.parse(models.Filter(must=[condition]), FIELDS)


def test_a_qdrant_filter_has_the_same_limits():
    leaf = field("year", match=models.MatchValue(value=1))
    with pytest.raises(FilterError, match="conditions"):
        filters.parse(models.Filter(must=[leaf] * (mapping.MAX_CONDITIONS + 1)), FIELDS)
    nested = models.Filter(must=[leaf])
    for _ in range(mapping.MAX_DEPTH + 1):
        nested = models.Filter.model_construct(must=[nested])
    with pytest.raises(FilterError, match="deeper"):
        filters.parse(nested, FIELDS)


def test_parsing_a_mapping_imports_no_client():
    code = (
        "import sys; from indexer import filters; filters.parse({'a': 1}, {'a': 'integer'});"
        "sys.exit(any(name.startswith(('qdrant', 'torch')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
