"""Reading a catalog: by key, in key order, value by value; one odd row harms itself only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer import catalog, database, plan
from indexer.catalog import Catalog, Item, rows, spec
from indexer.errors import CatalogError, CatalogUnknown, DatabaseUnavailable, SchemaMissing

TABLE = """
    CREATE TABLE things (
        id int PRIMARY KEY, title text, brand varchar(40), tags text[], doc jsonb, raw json,
        price numeric, weight double precision, stock bigint, sold bool, born date,
        seen timestamptz, local timestamp, lat double precision, lon double precision, uid uuid
    )
"""
DESCRIPTION: dict[str, Any] = {
    "name": "things",
    "table": "things",
    "key": "id",
    "features": {
        "title": "text",
        "brand": "category",
        "tags": "categories",
        "weight": "number",
        "deep": {"kind": "category", "from": "doc.a.b"},
    },
    "filters": {
        "brand": "keyword",
        "tags": "keyword",
        "stock": "integer",
        "price": "float",
        "sold": "bool",
        "born": "datetime",
        "seen": "datetime",
        "local": "datetime",
        "place": {"kind": "geo", "lat": "lat", "lon": "lon"},
        "home": {"kind": "geo", "from": "doc.home"},
        "uid": "keyword",
    },
    "returned": ["title", "doc", "raw", "price", "doc.a"],
}


@pytest.fixture
def db(each_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(each_database_url, autocommit=True) as connection:
        connection.execute(TABLE)
        yield connection


@pytest.fixture
def things(db: psycopg.Connection[Any], each_engine: sa.Engine) -> Catalog:
    return catalog.attach(each_engine, spec.parse(DESCRIPTION, name="test"))


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


def test_keys_that_cannot_be_are_absent(
    db: psycopg.Connection[Any], each_engine: sa.Engine, things: Catalog
) -> None:
    db.execute("INSERT INTO things (id, title) VALUES (1, 'one')")
    odd = ["not a number", "", "1\0", "\ud800", "99999999999999999999", " 1", "01", "+1"]
    assert catalog.read(each_engine, things, ["1", *odd]).keys() == {"1"}
    assert catalog.read(each_engine, things, odd) == {}
    assert catalog.read(each_engine, things, []) == {}


def test_a_scan_walks_in_the_keys_own_order_by_its_index(
    db: psycopg.Connection[Any], each_engine: sa.Engine, things: Catalog
) -> None:
    db.execute("INSERT INTO things (id, title) SELECT i, 't' || i FROM generate_series(1, 2500) i")
    walked: list[str] = []
    after: str | None = None
    while keys := catalog.scan_keys(each_engine, things, after=after, limit=700):
        walked += keys
        after = keys[-1]
    assert walked == [str(number) for number in range(1, 2501)]
    items = catalog.scan_items(each_engine, things, after="2498", limit=10)
    assert [(item.key, item.features["title"]) for item in items] == [
        ("2499", "t2499"),
        ("2500", "t2500"),
    ]
    assert catalog.scan_items(each_engine, things, after="2500", limit=10) == []
    assert catalog.count(each_engine, things) == 2500


@pytest.mark.parametrize("name", ["item_key", "item", "id", "Key", "order"])
def test_a_scan_keeps_the_keys_order_whatever_the_column_is_called(
    db: psycopg.Connection[Any], each_engine: sa.Engine, name: str
) -> None:
    db.execute(f'CREATE TABLE named ("{name}" int PRIMARY KEY, title text)')  # type: ignore[call-overload]
    db.execute("INSERT INTO named SELECT i FROM generate_series(1, 30) AS i")
    described = {"name": "n", "table": "named", "key": name, "features": {"title": "text"}}
    named = catalog.attach(each_engine, spec.parse(described, name="test"))
    walked = catalog.scan_keys(each_engine, named, after=None, limit=15)
    walked += catalog.scan_keys(each_engine, named, after=walked[-1], limit=99)
    assert walked == [str(number) for number in range(1, 31)]


def test_a_scan_and_a_read_use_the_keys_index(
    db: psycopg.Connection[Any], each_engine: sa.Engine, things: Catalog
) -> None:
    db.execute("INSERT INTO things (id) SELECT i FROM generate_series(1, 20000) i")
    db.execute("ANALYZE things")
    plans: list[str] = []
    with each_engine.connect() as connection:

        def explain(conn: Any, cursor: Any, statement: str, parameters: Any, *rest: object) -> None:
            if "things" in statement:
                explained = db.execute(f"EXPLAIN {statement}", parameters)  # type: ignore[call-overload]
                plans.append("\n".join(line for (line,) in explained))

        connection.detach()
        sa.event.listen(each_engine, "before_cursor_execute", explain)
        catalog.scan_keys(each_engine, things, after="100", limit=10)
        catalog.read(each_engine, things, [str(number) for number in range(500)])
        sa.event.remove(each_engine, "before_cursor_execute", explain)
    assert len(plans) == 2
    assert all("things_pkey" in one and "Seq Scan" not in one for one in plans), plans


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


def test_a_table_that_has_changed_since_is_said(
    db: psycopg.Connection[Any], each_engine: sa.Engine, things: Catalog
) -> None:
    db.execute("ALTER TABLE things DROP COLUMN brand")
    with pytest.raises(CatalogError, match=r"brand does not exist\. Mend .* attach it again"):
        catalog.read(each_engine, things, ["1"])
    db.execute("DROP TABLE things")
    for catalog_now in (things, catalog.get(each_engine, "things")):
        with pytest.raises(CatalogError, match="attach it again"):
            catalog.count(each_engine, catalog_now)


def test_an_unknown_catalog_is_answered_with_those_that_there_are(each_engine: sa.Engine) -> None:
    with pytest.raises(CatalogUnknown, match="None is attached yet"):
        catalog.get(each_engine, "thing")
    catalog.attach(each_engine, spec.BUILTIN)
    with pytest.raises(CatalogUnknown, match="Did you mean 'items'"):
        catalog.get(each_engine, "item")
    with pytest.raises(CatalogUnknown, match="Did you mean 'items'"):
        catalog.detach(each_engine, "item")
    with pytest.raises(CatalogUnknown, match="no catalog 99"):
        catalog.get_by_id(each_engine, 99)
    known = catalog.get(each_engine, "items")
    assert catalog.get_by_id(each_engine, known.id) == known
    assert catalog.all_of(each_engine) == [known]


def test_without_a_schema_or_a_server_the_error_says_which(postgres_url: str) -> None:
    bare = database.engine(postgres_url)
    with pytest.raises(SchemaMissing, match="twinspan migrate"):
        catalog.attach(bare, spec.BUILTIN)
    with pytest.raises(SchemaMissing, match="twinspan migrate"):
        catalog.all_of(bare)
    bare.dispose()
    nowhere = database.engine("postgresql://postgres@127.0.0.1:1/postgres")
    with pytest.raises(DatabaseUnavailable):
        catalog.attach(nowhere, spec.BUILTIN)


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
