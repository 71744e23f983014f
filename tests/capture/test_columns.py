"""Columns, keys and names of all kinds, and several tables behind a view."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from capture.world import PRODUCTS, World
from indexer import catalog
from indexer.errors import CatalogUnwatchable

# Columns and keys of all kinds


def test_a_stored_generated_column_is_watched(bare: World) -> None:
    bare.run("""
        CREATE TABLE products (
            id int PRIMARY KEY, net numeric, other int,
            gross numeric GENERATED ALWAYS AS (round(net * 1.19, 2)) STORED
        )
    """)
    bare.attach(key="id", features={"gross": "number"}, filters={})
    bare.run("INSERT INTO products VALUES (1, 10, 1), (2, 20, 2)")
    assert bare.changes() == [("I", ["1", "2"])]
    bare.run("UPDATE products SET other = 5")
    assert bare.changes() == []
    bare.run("UPDATE products SET net = 30 WHERE id = 2")
    assert bare.changes() == [("U", ["2"])]


def test_a_generated_key_works(bare: World) -> None:
    bare.run("""
        CREATE TABLE products (
            id int, title text,
            sku text GENERATED ALWAYS AS ('p-' || id) STORED NOT NULL UNIQUE
        )
    """)
    bare.attach(features={"title": "text"}, filters={})
    bare.run("INSERT INTO products VALUES (1, 'one')", "UPDATE products SET id = 2")
    assert bare.changes() == [("I", ["p-1"]), ("U", ["p-2"]), ("D", ["p-1"])]


KEYS = [
    ("integer", ["-5", "0", "2147483647"]),
    ("bigint", ["-9223372036854775808", "77"]),
    ("smallint", ["1"]),
    ("uuid", ["6b2c5d0c-9a53-4f1d-8a6f-7d11aabbccdd"]),
    ("text", ["plain", "", " ", "it's", 'a"b', "a\\b", "ключ", "🎬", "{a,b}", "NULL", "a\nb"]),
    ("varchar(3)", ["abc", "é"]),
    ("char(5)", ["ab", "abcde"]),
    ("numeric(10, 2)", ["1.50", "-3.00"]),
    ("double precision", ["0.1", "1e+30", "0.30000000000000004"]),
    ("boolean", ["true", "false"]),
    ("date", ["2024-02-29", "infinity", "0044-03-15 BC"]),
    ("timestamp", ["2024-02-29 12:00:00.123456"]),
    ("timestamptz", ["2024-02-29 12:00:00+00"]),
    ("interval", ["1 day", "24:00:00"]),
    ("bytea", ["\\xdeadbeef"]),
    ("inet", ["10.0.0.1", "::1"]),
    ("mood", ["happy"]),
    ("positive", ["5"]),
]


@pytest.mark.parametrize(("type_name", "keys"), KEYS, ids=[name for name, _ in KEYS])
def test_a_key_of_any_type_is_captured_and_read_by_the_same_text(
    bare: World, type_name: str, keys: list[str]
) -> None:
    bare.run(
        "CREATE TYPE shop.mood AS ENUM ('happy', 'sad')",
        "CREATE DOMAIN shop.positive AS int CHECK (value > 0)",
        f"CREATE TABLE products (sku {type_name} PRIMARY KEY, title text)",
    )
    described = bare.attach(features={"title": "text"}, filters={})
    bare.run(  # settings that change how such values are written
        "SET datestyle = 'German, DMY'",
        "SET timezone = 'Asia/Kolkata'",
        "SET intervalstyle = 'iso_8601'",
        "SET extra_float_digits = -5",
        "SET bytea_output = 'escape'",
    )
    for key in keys:
        if key in ("24:00:00",):  # equal to 1 day, and so no second key
            continue
        bare.db.execute(
            sql.SQL("INSERT INTO products VALUES ({}, 'title')").format(sql.Literal(key))
            if type_name not in ("timestamptz", "date")
            else sql.SQL("INSERT INTO products VALUES ({}::{}, 'title')").format(
                sql.Literal(key), sql.SQL(type_name)
            )
        )
    queued = bare.keys()
    assert len(queued) == bare.value("SELECT count(*) FROM products")
    assert catalog.read(bare.engine, described, sorted(queued)).keys() == queued
    assert set(catalog.scan_keys(bare.engine, described, after=None, limit=100)) == queued
    bare.run("UPDATE products SET title = 'new'")
    assert bare.keys() == queued
    bare.run("DELETE FROM products")
    assert bare.keys() == queued


def test_columns_of_types_without_equality_are_compared_by_their_text(bare: World) -> None:
    bare.run(
        """CREATE TABLE products (
            sku text PRIMARY KEY, doc json, title text, span interval, tags json[]
        )""",
        "INSERT INTO products VALUES ('a', '{\"x\": 1}', 'word', '1 day', ARRAY['1'::json])",
    )
    bare.attach(
        features={
            "title": "text",
            "span": "category",
            "x": {"kind": "number", "from": "doc.x"},
            "tags": "categories",
        },
        filters={},
    )
    for change in ("doc = '{\"x\": 2}'", "span = '24:00:00'", "tags = NULL"):
        bare.run(f"UPDATE products SET {change}")
        assert bare.changes() == [("U", ["a"])], change
        bare.run(f"UPDATE products SET {change}")
        assert bare.changes() == [], change


def test_a_collation_that_takes_different_texts_for_equal_hides_nothing(bare: World) -> None:
    try:
        bare.run(
            "CREATE COLLATION shop.lax "
            "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server is built without ICU, the only source of such collations")
    bare.run("CREATE TABLE products (sku text PRIMARY KEY, title text COLLATE shop.lax)")
    bare.attach(features={"title": "text"}, filters={})
    bare.run("INSERT INTO products VALUES ('a', 'word')", "UPDATE products SET title = 'WORD'")
    assert bare.changes() == [("I", ["a"]), ("U", ["a"])]


ODD_TABLE = '"Weird.Schema"."sélect %s :x ""q"""'


def test_odd_names_are_only_names(bare: World) -> None:
    bare.run(
        'CREATE SCHEMA "Weird.Schema"',
        f"""CREATE TABLE {ODD_TABLE} (
            "Key %(k)s" text PRIMARY KEY, "a:b" text, "twinspan_keys" text, "key" text, "o" int
        )""",
    )
    try:
        described = bare.attach(
            table=ODD_TABLE,
            key="Key %(k)s",
            features={
                "one": {"kind": "text", "from": "a:b"},
                "two": {"kind": "text", "from": "twinspan_keys"},
                "three": {"kind": "text", "from": "key"},
                "four": {"kind": "number", "from": "o"},
            },
            filters={},
        )
        bare.db.execute(f"INSERT INTO {ODD_TABLE} VALUES ('k', 'a', 'b', 'c', 1)")  # type: ignore[call-overload]
        assert bare.changes() == [("I", ["k"])]
        for column in ('"a:b"', '"twinspan_keys"', '"key"'):
            bare.run(f"UPDATE {ODD_TABLE} SET {column} = 'new'")
            assert bare.changes() == [("U", ["k"])], column
        found = catalog.read(bare.engine, described, ["k"])["k"]
        assert found.features == {"one": "new", "two": "new", "three": "new", "four": 1.0}
        catalog.detach(bare.engine, "products")
    finally:
        bare.run('DROP SCHEMA "Weird.Schema" CASCADE')


# Several tables behind a view


def test_each_table_behind_a_view_queues_the_views_keys(shop: World) -> None:
    shop.run("UPDATE products SET title = 'new' WHERE sku = 'c'")
    assert shop.changes() == [("U", ["c"])]
    shop.run("INSERT INTO prices VALUES (4, 'c', 3), (5, 'c', 4)")
    assert shop.changes() == [("I", ["c"])]
    shop.run("UPDATE prices SET amount = amount + 1 WHERE product = 'a'")
    assert shop.changes() == [("U", ["a"])]
    shop.run("UPDATE prices SET note = 'unwatched', id = id + 100")
    assert shop.changes() == []
    shop.run("DELETE FROM prices WHERE product = 'b'")
    assert shop.changes() == [("D", ["b"])]
    shop.run("TRUNCATE prices")
    assert shop.changes() == [("T", None)]


def test_a_price_that_moves_to_another_product_concerns_both(shop: World) -> None:
    shop.run("UPDATE prices SET product = 'c' WHERE id = 3")
    assert shop.keys() == {"b", "c"}


def test_prices_that_swap_their_products_concern_both(shop: World) -> None:
    shop.run("UPDATE prices SET amount = CASE id WHEN 1 THEN 5 WHEN 3 THEN 10 ELSE amount END")
    assert shop.keys() == {"a", "b"}
    shop.run("UPDATE prices SET product = NULL WHERE id = 3")
    assert shop.keys() == {"b"}


def test_an_expression_may_give_many_keys(shop: World) -> None:
    shop.run("UPDATE brands SET country = 'ch' WHERE name = 'x'")
    assert shop.changes() == [("U", ["a", "b"])]
    shop.run("UPDATE brands SET country = 'ch'")
    assert shop.changes() == [("U", ["c"])]
    shop.run("INSERT INTO brands VALUES ('nobody makes it', 'fr')")
    assert shop.changes() == []


def test_a_view_without_watched_tables_is_refused(shop: World) -> None:
    with pytest.raises(CatalogUnwatchable, match=r"\[\[watch\]\]"):
        shop.attach(name="other", table="shop.offers", features={"title": "text"}, filters={})


def test_a_bag_of_equal_rows_that_changes_is_seen(bare: World) -> None:
    """Three rows (1, 1, 2) become (1, 2, 2): as sets they are equal."""
    bare.run(
        PRODUCTS,
        "CREATE TABLE prices (product text, amount int)",
        "INSERT INTO products (sku) VALUES ('a')",
        "INSERT INTO prices VALUES ('a', 1), ('a', 1), ('a', 2)",
        "CREATE VIEW offers AS SELECT sku, title, (SELECT sum(amount) FROM prices "
        "WHERE product = sku) AS price FROM products",
    )
    bare.attach(
        table="shop.offers",
        features={"title": "text"},
        watch=[
            {"table": "shop.products", "key": "sku"},
            {"table": "shop.prices", "key": "product"},
        ],
    )
    bare.run(
        "UPDATE prices SET amount = 2 WHERE ctid = (SELECT min(ctid) FROM prices WHERE amount = 1)"
    )
    assert bare.changes() == [("U", ["a"])]
