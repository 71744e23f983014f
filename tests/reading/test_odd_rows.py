"""One odd row harms itself only."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from indexer import catalog
from indexer.catalog import Catalog, spec

WRONG = [
    ("features.title", "text", {"a": 1}, "text"),
    ("features.brand", "category", ["a"], "text"),
    ("features.tags", "categories", [["a"]], "text"),
    ("features.weight", "number", "heavy", "a number"),
    ("features.weight", "number", [1], "a number"),
    ("features.weight", "number", 10**400, "a number"),
    ("filters.stock", "integer", 1.5, "a whole number"),
    ("filters.stock", "integer", 2**63, "a whole number of 64 bits"),
    ("filters.stock", "integer", "many", "a number"),
    ("filters.price", "float", {"amount": 1}, "a number"),
    ("filters.sold", "bool", "perhaps", "true or false"),
    ("filters.sold", "bool", 2, "true or false"),
    ("filters.born", "datetime", "yesterday", "a date or time"),
    ("filters.born", "datetime", 1700000000, "a date or time"),
    ("filters.born", "datetime", "0044-03-15 BC", "a date or time"),
    ("filters.home", "geo", "here", "a place"),
    ("filters.home", "geo", {"lat": 91, "lon": 0}, "a place on Earth"),
    ("filters.home", "geo", {"lat": "x", "lon": 0}, "a number"),
    ("filters.tags", "keyword", [{"a": 1}], "text"),
]


@pytest.mark.parametrize(("where", "kind", "value", "said"), WRONG)
def test_a_value_of_the_wrong_type_harms_its_own_item_only(
    db: psycopg.Connection[Any],
    each_engine: sa.Engine,
    where: str,
    kind: str,
    value: object,
    said: str,
) -> None:
    part, name = where.split(".")
    source = {"good": {"kind": "text", "from": "doc.good"}}
    described: dict[str, Any] = {
        **{"name": "docs", "table": "docs", "key": "id", "features": source, "returned": []},
        part: {**(source if part == "features" else {}), name: {"kind": kind, "from": "doc.value"}},
    }
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, doc jsonb)")
    docs = catalog.attach(each_engine, spec.parse(described, name="test"))
    for number, document in enumerate([{"good": "x"}, {"value": value}, {"good": "y"}], start=1):
        db.execute("INSERT INTO docs VALUES (%s, %s)", [number, json.dumps(document)])
    found = catalog.read(each_engine, docs, ["1", "2", "3"])
    assert (found["1"].error, found["3"].error) == (None, None)
    assert found["1"].features["good"] == "x"
    assert (found["2"].features, found["2"].payload) == ({}, {})
    assert found["2"].error is not None
    assert found["2"].error.startswith(f"{where}: ")
    assert said in found["2"].error
    assert len(found["2"].error) < 200


def test_a_number_too_long_for_python_harms_its_own_item_only(
    db: psycopg.Connection[Any], each_engine: sa.Engine, things: Catalog
) -> None:
    db.execute("INSERT INTO things (id, price) VALUES (1, ('1' || repeat('0', 9000))::numeric)")
    db.execute("INSERT INTO things (id, doc) VALUES (2, ('[' || repeat('[', 3000) || "
               "repeat(']', 3000) || ']')::jsonb)")  # fmt: skip
    db.execute("INSERT INTO things (id, price) VALUES (3, 1)")
    # deep, but not so deep that reading fails: what comes after reading did
    db.execute("INSERT INTO things (id, raw) VALUES (4, ('[\"\\ud800\",' || repeat('[', 900) || "
               "repeat(']', 900) || ']')::json)")  # fmt: skip
    found = catalog.read(each_engine, things, ["1", "2", "3", "4"])
    assert "9,001 digits" in (found["1"].error or "")
    assert "nested too deeply" in (found["2"].error or "")
    assert "nested too deeply" in (found["4"].error or "")
    assert found["3"].payload["price"] == 1.0


def test_a_row_that_fails_in_the_database_harms_its_own_item_only(
    db: psycopg.Connection[Any], each_engine: sa.Engine
) -> None:
    db.execute("CREATE TABLE base (id int PRIMARY KEY, parts int)")
    db.execute("CREATE VIEW shares AS SELECT id, 100 / parts AS share FROM base")
    db.execute("INSERT INTO base SELECT i, i %% 50 FROM generate_series(1, 120) AS i", [])
    shares = catalog.attach(
        each_engine,
        spec.parse(
            {
                **{"name": "shares", "table": "shares", "key": "id"},
                "features": {"share": "number"},
                "watch": [{"table": "base", "key": "id"}],
            },
            name="test",
        ),
    )
    found = catalog.read(each_engine, shares, [str(i) for i in range(1, 130)])
    assert len(found) == 120
    assert {key for key, item in found.items() if item.error} == {"50", "100"}
    assert found["50"].error == "the row cannot be read: division by zero"
    assert found["51"].features == {"share": 100.0}
    scanned = catalog.scan_items(each_engine, shares, after=None, limit=200)
    assert [item.key for item in scanned] == [str(i) for i in range(1, 121)]


def test_a_view_with_a_key_twice_says_so(
    db: psycopg.Connection[Any], each_engine: sa.Engine
) -> None:
    db.execute("CREATE TABLE base (id int PRIMARY KEY, other int, title text)")
    db.execute("CREATE VIEW twice AS SELECT other AS id, title FROM base")
    db.execute("INSERT INTO base VALUES (1, 1, 'a'), (2, 1, 'b'), (3, 3, 'c'), (4, NULL, 'd')")
    twice = catalog.attach(
        each_engine,
        spec.parse(
            {
                **{"name": "twice", "table": "twice", "key": "id"},
                "features": {"title": "text"},
                "watch": [{"table": "base", "key": "other"}],
            },
            name="test",
        ),
    )
    found = catalog.read(each_engine, twice, ["1", "3"])
    assert found["1"].error == "public.twice has 2 rows of this key; it must have one"
    assert found["3"].features == {"title": "c"}
    assert "4" not in catalog.scan_keys(each_engine, twice, after=None, limit=9)
