"""Every value is read as its kind, whatever JSON it comes from."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer import catalog, plan
from indexer.catalog import Catalog, Item, rows, spec

LENIENT: list[tuple[str, object, object]] = [
    ("integer", "12", 12),
    ("integer", 3.0, 3),
    ("integer", [1, "2", None], [1, 2]),
    ("float", "19.99", 19.99),
    ("float", True, 1.0),
    ("float", [1, "NaN", 2.5], [1.0, 2.5]),
    ("bool", 1, True),
    ("bool", "False", False),
    ("bool", "yes", True),
    ("keyword", 5, "5"),
    ("keyword", True, "true"),
    ("keyword", ["a", None, 1], ["a", "1"]),
    ("datetime", "2024-02-29T12:00:00.5+02:00", "2024-02-29T10:00:00.500000Z"),
    ("datetime", ["2024-02-29"], ["2024-02-29T00:00:00Z"]),
    ("geo", [{"lat": 1, "lon": 2, "name": "x"}], [{"lat": 1.0, "lon": 2.0}]),
]

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=8)
    | st.sampled_from(["NaN", "Infinity", "2024-01-01", "1e999", "12", "true"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)

EVERY_KIND = spec.parse(
    {
        **{"name": "p", "table": "p", "key": "id"},
        "features": {kind: kind for kind in ("text", "category", "categories", "number")},
        "filters": {
            kind: kind for kind in ("keyword", "integer", "float", "bool", "datetime", "geo")
        },
        "returned": ["other"],
    },
    name="test",
)


def test_every_kind_of_value_is_read_as_its_kind(
    db: psycopg.Connection[Any], each_engine: sa.Engine, things: Catalog
) -> None:
    db.execute("SET timezone = 'Asia/Kolkata'")
    db.execute("""
        INSERT INTO things VALUES (
            7, 'A title', 'Acme', '{red,blue}',
            '{"a": {"b": 5}, "home": {"lat": 48.2, "lon": "16.37"}}', '[1, "two"]',
            12.50, 0.1, 9007199254740993, true, '2024-02-29',
            '2024-02-29 12:00:00+02', '2024-02-29 12:00:00', -33.9, 151.2,
            '6b2c5d0c-9a53-4f1d-8a6f-7d11aabbccdd'
        )
    """)
    found = catalog.read(each_engine, things, ["7", "8"])
    assert found == {
        "7": Item(
            key="7",
            features={
                "title": "A title",
                "brand": "Acme",
                "tags": ["red", "blue"],
                "weight": 0.1,
                "deep": "5",
            },
            payload={
                "title": "A title",
                "doc": {"a": {"b": 5}, "home": {"lat": 48.2, "lon": "16.37"}},
                "raw": [1, "two"],
                "a": {"b": 5},
                "brand": "Acme",
                "tags": ["red", "blue"],
                "stock": 9007199254740993,
                "price": 12.5,
                "sold": True,
                "born": "2024-02-29T00:00:00Z",
                "seen": "2024-02-29T10:00:00Z",
                "local": "2024-02-29T12:00:00Z",
                "place": {"lat": -33.9, "lon": 151.2},
                "home": {"lat": 48.2, "lon": 16.37},
                "uid": "6b2c5d0c-9a53-4f1d-8a6f-7d11aabbccdd",
            },
        )
    }
    json.dumps(found["7"].payload, allow_nan=False)


def test_missing_values_are_absent(
    db: psycopg.Connection[Any], each_engine: sa.Engine, things: Catalog
) -> None:
    db.execute("INSERT INTO things (id) VALUES (1)")
    db.execute("""INSERT INTO things (id, weight, price, stock, seen, born, lat, lon, tags, doc)
        VALUES (2, 'NaN', 'NaN', NULL, 'infinity', '-infinity', 1, NULL, '{NULL}',
                '{"a": null, "home": {"lat": null, "lon": 1}}')""")
    db.execute("INSERT INTO things (id, weight, price) VALUES (3, 'Infinity', '-Infinity')")
    found = catalog.read(each_engine, things, ["1", "2", "3"])
    assert found["1"] == Item(key="1", features={}, payload={})
    assert found["2"].features == {"tags": []}
    assert found["2"].payload == {"tags": [], "doc": {"a": None, "home": {"lat": None, "lon": 1}}}
    assert found["3"] == Item(key="3", features={}, payload={})


@pytest.mark.parametrize(("kind", "value", "wanted"), LENIENT)
def test_a_value_that_means_its_kind_is_taken(kind: str, value: object, wanted: object) -> None:
    described = spec.parse(
        {
            "name": "p",
            "table": "p",
            "key": "id",
            "features": {"title": "text"},
            "filters": {"field": {"kind": kind, "from": "doc.field"}},
            "returned": [],
        },
        name="test",
    )
    assert rows.shape(described).places == (("title", ()), ("doc", ("field",)))
    _, payload = rows.fields(rows.shape(described), [json.dumps([None, value])])
    assert payload == {"field": wanted}


def test_a_list_of_texts_is_one_text() -> None:
    shape = rows.shape(spec.BUILTIN)
    features, _ = rows.fields(shape, ['["T", ["one", null, "two"], null, null, null, 1, 2]'])
    assert features["description"] == "one\ntwo"


def test_json_that_utf8_cannot_hold_is_mended(
    db: psycopg.Connection[Any], each_engine: sa.Engine, things: Catalog
) -> None:
    raw = r'{"nul": "a\u0000b", "half": "\ud83d", "whole": "\ud83c\udfac", "\u0000k": 1}'
    db.execute("INSERT INTO things (id, raw) VALUES (1, %s::json), (2, '{}')", [raw])
    found = catalog.read(each_engine, things, ["1", "2"])
    assert found["1"].payload["raw"] == {
        "nul": "a\ufffdb",
        "half": "\ufffd",
        "whole": "\N{CLAPPER BOARD}",
        "\ufffdk": 1,
    }
    json.dumps(found["1"].payload, ensure_ascii=False).encode()


def test_more_columns_than_a_function_takes_are_read(
    db: psycopg.Connection[Any], each_engine: sa.Engine
) -> None:
    names = [f"c{number}" for number in range(250)]
    db.execute(f"CREATE TABLE wide (id int PRIMARY KEY, {' int, '.join(names)} int)")  # type: ignore[call-overload]
    wide = catalog.attach(
        each_engine,
        spec.parse(
            {
                **{"name": "wide", "table": "wide", "key": "id"},
                "features": dict.fromkeys(names, "number"),
            },
            name="test",
        ),
    )
    db.execute(f"INSERT INTO wide VALUES (1, {', '.join(map(str, range(250)))})")  # type: ignore[call-overload]
    item = catalog.read(each_engine, wide, ["1"])["1"]
    assert item.features == {name: float(number) for number, name in enumerate(names)}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=JSON)
def test_any_json_gives_what_stores_and_towers_take_or_an_error_of_its_own(value: object) -> None:
    names = [column for column, _ in rows.shape(EVERY_KIND).places]
    for name in names:
        document = json.dumps([value if each == name else None for each in names])
        try:
            features, payload = rows.fields(rows.shape(EVERY_KIND), [document])
        except rows.WrongValue as error:
            assert "\n" not in str(error)
            continue
        item = Item(key="k", features=features, payload=payload)
        if "NaN" not in document and "Infinity" not in document:  # which PostgreSQL never writes
            plan._canonical(item.payload)  # as the ledger hashes it
            plan._canonical(item.features)
        assert isinstance(features.get("number", 0.0), float)
        assert all(isinstance(word, str) for word in features.get("categories", []))  # type: ignore[attr-defined]
