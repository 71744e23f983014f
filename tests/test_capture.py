"""Every way to change a table queues the items that it changed, and no others; none of it can
wait for us, or fail because of us. On both versions of PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import schema_dump
import sqlalchemy as sa
from capture_world import PRODUCTS, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from indexer import catalog, database, schema
from indexer.catalog import spec, triggers
from indexer.embedded import postgres
from indexer.errors import CatalogError, CatalogUnwatchable, SpecError


@pytest.fixture(scope="module")
def server(each_postgres_url: str, databases: Callable[[str], Any]) -> Iterator[str]:
    """One database for the module: the tests clean up after themselves by detaching."""
    scratch = databases(each_postgres_url)
    url = scratch.create()
    yield url
    scratch.drop(url)


@pytest.fixture(scope="module")
def server_engine(server: str) -> Iterator[sa.Engine]:
    engine = database.engine(server)
    yield engine
    engine.dispose()


@pytest.fixture
def bare(server: str, server_engine: sa.Engine) -> Iterator[World]:
    """A schema `shop` with nothing in it, nothing attached."""
    opened: list[psycopg.Connection[Any]] = []

    def connect() -> psycopg.Connection[Any]:
        connection = psycopg.connect(server, autocommit=True)
        connection.execute("SET search_path = shop")
        opened.append(connection)
        return connection

    world = World(engine=server_engine, db=connect(), connect=connect)
    world.run("CREATE SCHEMA shop")
    yield world
    for one in catalog.all_of(server_engine):
        catalog.detach(server_engine, one.name)
    for connection in opened:
        connection.close()
    with psycopg.connect(server, autocommit=True) as last:
        last.execute("DROP SCHEMA shop CASCADE")
        assert last.execute("SELECT count(*) FROM indexer.changes").fetchone() == (0,)


@pytest.fixture
def world(bare: World) -> World:
    """The products, attached, with three of them in the table and nothing queued."""
    bare.run(PRODUCTS)
    bare.attach()
    bare.add("a", "b", "c")
    return bare


# Each kind of statement


def test_an_insert_queues_its_row(world: World) -> None:
    world.run("INSERT INTO products (sku) VALUES ('d')")
    assert world.changes() == [("I", ["d"])]


def test_an_insert_of_many_rows_queues_them_in_one_row(world: World) -> None:
    world.run("INSERT INTO products (sku) VALUES ('d'), ('e'), ('f')")
    assert world.changes() == [("I", ["d", "e", "f"])]


@pytest.mark.parametrize("rows", [999, 1_000, 1_001, 2_500, 10_000, 10_001, 12_345])
def test_keys_come_in_rows_of_a_thousand(world: World, rows: int) -> None:
    statements = {
        "I": f"INSERT INTO products (sku) SELECT 'n' || i FROM generate_series(1, {rows}) AS i",
        "U": "UPDATE products SET title = 'new' WHERE sku LIKE 'n%'",
        "D": "DELETE FROM products WHERE sku LIKE 'n%'",
    }
    for op, statement in statements.items():
        world.run(statement)
        queued = [keys or [] for found, keys in world.changes() if found == op]
        assert len(queued) == -(-rows // 1_000)
        assert max(len(keys) for keys in queued) == min(rows, 1_000)
        assert sum(len(keys) for keys in queued) == rows
        assert len({key for keys in queued for key in keys}) == rows


def test_copy_queues_its_rows(world: World) -> None:
    with world.db.cursor() as cursor, cursor.copy("COPY products (sku, title) FROM STDIN") as copy:
        for number in range(1_500):
            copy.write_row((f"n{number}", "title"))
    assert world.keys() == {f"n{number}" for number in range(1_500)}


def test_an_update_queues_only_what_it_changed(world: World) -> None:
    world.run("UPDATE products SET title = CASE sku WHEN 'b' THEN 'new' ELSE title END")
    assert world.changes() == [("U", ["b"])]


def test_an_update_of_an_unwatched_column_queues_nothing(world: World) -> None:
    world.run("UPDATE products SET stock = stock + 1", "UPDATE products SET brand = 'x'")
    assert world.changes() == []


def test_an_update_that_changes_nothing_queues_nothing(world: World) -> None:
    world.run("UPDATE products SET title = title, price = price, attributes = attributes")
    world.run("UPDATE products SET title = 'x' WHERE sku = 'not there'")
    assert world.changes() == []


@pytest.mark.parametrize(
    "assignment", ["title = NULL", "attributes = '{}'", "price = 2", "title = '', price = NULL"]
)
def test_null_is_a_value_like_others(world: World, assignment: str) -> None:
    world.run(f"UPDATE products SET {assignment} WHERE sku = 'a'")
    assert world.changes() == [("U", ["a"])]
    world.run(f"UPDATE products SET {assignment} WHERE sku = 'a'")
    assert world.changes() == []


def test_a_delete_queues_its_rows(world: World) -> None:
    world.run("DELETE FROM products WHERE sku <> 'b'")
    assert world.changes() == [("D", ["a", "c"])]


def test_truncate_queues_the_whole_catalog(world: World) -> None:
    world.run("TRUNCATE products")
    assert world.changes() == [("T", None)]


def test_truncate_cascade_reaches_us_through_a_parent(world: World) -> None:
    world.run(
        "CREATE TABLE brands (name text PRIMARY KEY)",
        "ALTER TABLE products ADD FOREIGN KEY (brand) REFERENCES brands",
        "TRUNCATE brands CASCADE",
    )
    assert world.changes() == [("T", None)]


def test_on_conflict_queues_inserts_and_real_updates(world: World) -> None:
    world.run("""
        INSERT INTO products (sku, title) VALUES ('a', 'new'), ('b', 'Title of b'), ('d', 'd')
        ON CONFLICT (sku) DO UPDATE SET title = excluded.title
    """)
    assert sorted(world.changes()) == [("I", ["d"]), ("U", ["a"])]
    world.run("INSERT INTO products (sku) VALUES ('a'), ('e') ON CONFLICT DO NOTHING")
    assert world.changes() == [("I", ["e"])]


def test_merge_queues_all_three_kinds(world: World) -> None:
    world.run("""
        MERGE INTO products AS p
        USING (VALUES ('a', 'new'), ('b', NULL), ('d', 'd'), ('c', 'Title of c')) AS v (sku, title)
        ON p.sku = v.sku
        WHEN MATCHED AND v.title IS NULL THEN DELETE
        WHEN MATCHED THEN UPDATE SET title = v.title
        WHEN NOT MATCHED THEN INSERT (sku, title) VALUES (v.sku, v.title)
    """)
    assert sorted(world.changes()) == [("D", ["b"]), ("I", ["d"]), ("U", ["a"])]


def test_a_foreign_key_cascade_queues_what_it_touches(world: World) -> None:
    world.run(
        "CREATE TABLE brands (name text PRIMARY KEY)",
        "INSERT INTO brands VALUES ('x'), ('y')",
        "ALTER TABLE products ADD FOREIGN KEY (brand) REFERENCES brands "
        "ON DELETE CASCADE ON UPDATE CASCADE",
    )
    world.attach(returned=["brand"])
    world.run("UPDATE products SET brand = 'x' WHERE sku IN ('a', 'b')")
    assert world.keys() == {"a", "b"}
    world.run("UPDATE brands SET name = 'z' WHERE name = 'x'")
    assert world.keys() == {"a", "b"}
    world.run("DELETE FROM brands")
    assert world.changes() == [("D", ["a", "b"])]


def test_writing_ctes_queue_everything_they_do(world: World) -> None:
    world.run("""
        WITH one AS (UPDATE products SET title = 'new' WHERE sku = 'a' RETURNING 1),
             two AS (DELETE FROM products WHERE sku = 'b' RETURNING 1)
        INSERT INTO products (sku) VALUES ('d')
    """)
    assert sorted(world.changes()) == [("D", ["b"]), ("I", ["d"]), ("U", ["a"])]


def test_a_trigger_of_the_user_that_writes_is_seen(world: World) -> None:
    world.run(
        """
        CREATE FUNCTION shop.twin() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO shop.products (sku) VALUES (new.sku || '-twin'); RETURN NULL; END $$
        """,
        "CREATE TRIGGER twin AFTER INSERT ON products FOR EACH ROW WHEN (new.sku !~ 'twin') "
        "EXECUTE FUNCTION shop.twin()",
        "INSERT INTO products (sku) VALUES ('d'), ('e')",
    )
    assert world.keys() == {"d", "e", "d-twin", "e-twin"}


# Keys that change


def test_a_key_change_deletes_the_old_and_queues_the_new(world: World) -> None:
    world.run("UPDATE products SET sku = 'z' WHERE sku = 'a'")
    assert sorted(world.changes()) == [("D", ["a"]), ("U", ["z"])]


def test_keys_swapped_in_one_statement_are_both_queued(bare: World) -> None:
    bare.run(
        PRODUCTS.replace("PRIMARY KEY", "NOT NULL UNIQUE DEFERRABLE"),
        "INSERT INTO products (sku, title) VALUES ('a', 'one'), ('b', 'two'), ('c', 'three')",
    )
    bare.attach()
    bare.run("""
        UPDATE products SET sku = CASE sku WHEN 'a' THEN 'b' ELSE 'a' END WHERE sku IN ('a', 'b')
    """)
    assert bare.changes() == [("U", ["a", "b"])]


def test_keys_that_move_by_one_are_all_queued(bare: World) -> None:
    bare.run(
        "CREATE TABLE products (id int PRIMARY KEY, title text)",
        "INSERT INTO products SELECT i, 'title ' || i FROM generate_series(1, 4) AS i",
    )
    bare.attach(key="id", features={"title": "text"}, filters={})
    bare.run("UPDATE products SET id = id + 10")
    changed = bare.changes()
    assert sorted(changed) == [("D", ["1", "2", "3", "4"]), ("U", ["11", "12", "13", "14"])]


# Transactions


def test_a_rollback_queues_nothing(world: World) -> None:
    with pytest.raises(ZeroDivisionError), world.db.transaction():
        world.run("INSERT INTO products (sku) VALUES ('d')", "TRUNCATE products")
        raise ZeroDivisionError
    assert world.changes() == []


def test_a_savepoint_rolled_back_queues_nothing_of_it(world: World) -> None:
    with world.db.transaction():
        world.run(
            "INSERT INTO products (sku) VALUES ('d')",
            "SAVEPOINT here",
            "INSERT INTO products (sku) VALUES ('e')",
            "DELETE FROM products WHERE sku = 'a'",
            "ROLLBACK TO SAVEPOINT here",
            "UPDATE products SET title = 'new' WHERE sku = 'b'",
        )
    assert world.changes() == [("I", ["d"]), ("U", ["b"])]


def test_a_change_is_seen_when_it_commits_and_not_before(world: World) -> None:
    other = world.connect()
    with other.transaction():
        other.execute("INSERT INTO products (sku) VALUES ('d')")
        assert world.changes() == []
    assert world.changes() == [("I", ["d"])]


def test_a_statement_that_fails_queues_nothing(world: World) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        world.run("INSERT INTO products (sku) VALUES ('d'), ('a')")
    assert world.changes() == []


@pytest.mark.parametrize("role", ["replica", "origin", "local"])
def test_every_replication_role_is_seen(world: World, role: str) -> None:
    with world.db.transaction():
        world.run(
            f"SET LOCAL session_replication_role = {role}",
            "INSERT INTO products (sku) VALUES ('d')",
            "UPDATE products SET title = 'new' WHERE sku = 'a'",
            "DELETE FROM products WHERE sku = 'b'",
            "TRUNCATE products",
        )
    assert world.changes() == [("I", ["d"]), ("U", ["a"]), ("D", ["b"]), ("T", None)]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_strict_isolation_levels_of_two_writers_do_not_fail_by_us(world: World, level: str) -> None:
    other = world.connect()
    begin = f"BEGIN ISOLATION LEVEL {level}"
    world.run(begin)
    other.execute(begin)  # type: ignore[call-overload]
    world.run("UPDATE products SET title = 'new' WHERE sku = 'a'")
    other.execute("UPDATE products SET title = 'new' WHERE sku = 'b'")
    world.run("COMMIT")
    other.execute("COMMIT")
    assert world.keys() == {"a", "b"}


def test_a_prepared_transaction_is_seen_when_it_commits(tmp_path: Path) -> None:
    with postgres.start(
        tmp_path / "postgres", fsync=False, settings={"max_prepared_transactions": "1"}
    ) as server:
        engine = database.engine(server.url)
        schema.migrate(engine)
        catalog.attach(engine, spec.BUILTIN)
        engine.dispose()
        with psycopg.connect(server.url, autocommit=True) as db:
            db.execute("BEGIN")
            db.execute("INSERT INTO items (id) VALUES ('a')")
            db.execute("PREPARE TRANSACTION 'one'")
            assert db.execute("SELECT item_keys FROM indexer.changes").fetchall() == []
            db.execute("COMMIT PREPARED 'one'")
            assert db.execute("SELECT item_keys FROM indexer.changes").fetchall() == [(["a"],)]


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


@pytest.fixture
def shop(bare: World) -> World:
    """Products with prices and brands, seen together through a view."""
    bare.run(
        PRODUCTS.replace("price numeric(10, 2), ", ""),
        "CREATE TABLE prices (id int PRIMARY KEY, product text, amount numeric, note text)",
        "CREATE TABLE brands (name text PRIMARY KEY, country text)",
        "INSERT INTO brands VALUES ('x', 'at'), ('y', 'de')",
        """CREATE VIEW offers AS
            SELECT p.sku, p.title, b.country, min(r.amount) AS price
            FROM products AS p LEFT JOIN prices AS r ON r.product = p.sku
            LEFT JOIN brands AS b ON b.name = p.brand GROUP BY 1, 2, 3""",
        "INSERT INTO products (sku, brand) VALUES ('a', 'x'), ('b', 'x'), ('c', 'y')",
        "INSERT INTO prices VALUES (1, 'a', 10), (2, 'a', 12), (3, 'b', 5)",
    )
    bare.attach(
        table="shop.offers",
        features={"title": "text", "country": "category"},
        filters={"price": "float"},
        watch=[
            {"table": "shop.products", "key": "sku", "columns": ["title", "brand"]},
            {"table": "shop.prices", "key": "product", "columns": ["amount"]},
            {
                "table": "shop.brands",
                "key": "(SELECT array_agg(p.sku) FROM shop.products AS p "
                "WHERE p.brand = brands.name)",
            },
        ],
    )
    return bare


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


# What cannot be watched, and how it is said


REFUSED = [
    ("CREATE TABLE t (id int PRIMARY KEY, title text) PARTITION BY RANGE (id)", "partitioned"),
    ("CREATE TABLE t (id int, title text)", "unique and never NULL"),
    ("CREATE TABLE t (id int UNIQUE, title text)", "unique and never NULL"),
    ("CREATE TABLE t (id int NOT NULL, title text); CREATE UNIQUE INDEX ON t (id) WHERE id > 0",
     "unique and never NULL"),
    ("CREATE TABLE t (id int NOT NULL, title text, PRIMARY KEY (id, title))",
     "unique and never NULL"),
    ("CREATE UNLOGGED TABLE t (id int PRIMARY KEY, title text)", "SET LOGGED"),
    ("CREATE MATERIALIZED VIEW t AS SELECT 1 AS id, 'x'::text AS title", "materialized"),
    ("CREATE TABLE p (id int PRIMARY KEY, title text); CREATE TABLE t (PRIMARY KEY (id)) "
     "INHERITS (p)", "inherit"),
    ("CREATE TABLE t (id int PRIMARY KEY, title text); CREATE TABLE c () INHERITS (t)", "inherit"),
    ("CREATE TABLE p (id int PRIMARY KEY, title text) PARTITION BY RANGE (id); "
     "CREATE TABLE t PARTITION OF p DEFAULT", "partitioned"),
    ("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; "
     "CREATE FOREIGN TABLE t (id int, title text) SERVER s", "foreign"),
]  # fmt: skip


@pytest.mark.parametrize(("ddl", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_table_that_triggers_cannot_watch_is_refused(bare: World, ddl: str, said: str) -> None:
    bare.run(*ddl.split("; "))
    before = schema_dump.dump(bare.db, ["shop", "indexer"])
    try:
        with pytest.raises(CatalogUnwatchable, match=said):
            bare.attach(table="shop.t", key="id", features={"title": "text"}, filters={})
        assert schema_dump.dump(bare.db, ["shop", "indexer"]) == before
        assert catalog.all_of(bare.engine) == []
    finally:
        if "FOREIGN DATA" in ddl:
            bare.run("DROP FOREIGN DATA WRAPPER w CASCADE")


def test_system_tables_and_our_own_are_refused(bare: World) -> None:
    for table, key in (("pg_catalog.pg_class", "oid"), ("indexer.catalogs", "id")):
        with pytest.raises(CatalogUnwatchable, match="belongs to the system"):
            name = "relname" if key == "oid" else "name"
            bare.attach(table=table, key=key, features={name: "text"}, filters={})


def test_a_family_of_inheriting_tables_is_watched_together(bare: World) -> None:
    bare.run(
        PRODUCTS,
        "CREATE TABLE books (pages int, PRIMARY KEY (sku)) INHERITS (products)",
        "CREATE VIEW everything AS SELECT sku, title, price FROM products",
    )
    watch = [{"table": f"shop.{name}", "key": "sku"} for name in ("products", "books")]
    described = {"table": "shop.everything", "features": {"title": "text"}}
    with pytest.raises(CatalogUnwatchable, match="inherit"):
        bare.attach(**described, watch=watch[:1])
    bare.attach(**described, watch=watch)
    bare.run("INSERT INTO books (sku) VALUES ('book')", "INSERT INTO products (sku) VALUES ('p')")
    assert bare.keys() == {"book", "p"}
    bare.run("UPDATE products SET title = 'new'")  # names the parent, changes both
    assert bare.keys() == {"book", "p"}
    bare.run("DELETE FROM books")
    assert bare.keys() == {"book"}


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"table": "shop.product"}, "there is no table shop.product. Did you mean 'shop.products'"),
    ({"key": "skuu"}, "key: table shop.products has no column 'skuu'. Did you mean 'sku'"),
    ({"features": {"titel": "text"}}, "features.titel: .* Did you mean 'title'"),
    ({"filters": {"prize": "float"}}, "filters.prize: .* Did you mean 'price'"),
    ({"returned": ["brandd"]}, "returned.brandd: .* Did you mean 'brand'"),
    ({"features": {"x": {"kind": "text", "from": "title.x"}}}, "is text, not JSON"),
    ({"features": {"created_at": "number"}}, "kind 'number' cannot read: it wants a number"),
    ({"filters": {"price": "datetime"}}, "kind 'datetime' cannot read"),
    ({"filters": {"title": "geo"}}, "name two columns: lat and lon"),
    ({"watch": [{"table": "shop.products", "key": "title"}]}, "must be the catalog's key, 'sku'"),
    ({"watch": [{"table": "shop.products", "key": "sku", "columns": ["nope"]}]}, "'nope'"),
    ({"watch": [{"table": "shop.other", "key": "sku"}]}, "there is no table shop.other"),
    ({"watch": [{"table": "shop.stock", "key": "product_idd"}]}, "Did you mean 'product_id'"),
    ({"watch": [{"table": "shop.stock", "key": "lower("}]}, "neither a column nor an expression"),
    ({"watch": [{"table": "shop.stock", "key": "1/0"}]}, "division by zero"),
    ({"key": "tags"}, r"key: shop.products.tags is text\[\]: a key is one value"),
]


@pytest.mark.parametrize(("changed", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_description_that_does_not_fit_says_what_to_mend(
    bare: World, changed: dict[str, Any], said: str
) -> None:
    bare.run(
        PRODUCTS,
        "ALTER TABLE products ADD tags text[] NOT NULL UNIQUE",
        "CREATE TABLE stock (product_id text, amount int)",
    )
    with pytest.raises(SpecError, match=said) as raised:
        bare.attach(**changed)
    assert "\n" not in str(raised.value)
    assert catalog.all_of(bare.engine) == []


# Attaching and detaching


def test_detach_leaves_the_schema_as_it_was(bare: World) -> None:
    bare.run(PRODUCTS, "CREATE VIEW v AS SELECT * FROM products")
    before = schema_dump.dump(bare.db, ["shop", "indexer", "public"])
    bare.attach()
    bare.attach(
        name="second",
        table="shop.v",
        watch=[{"table": "shop.products", "key": "sku"}],
        notify=True,
    )
    assert schema_dump.dump(bare.db, ["shop", "indexer", "public"]) != before
    bare.run("INSERT INTO products (sku) VALUES ('d')", "TRUNCATE products")
    catalog.detach(bare.engine, "products")
    bare.run("INSERT INTO products (sku) VALUES ('e')")
    catalog.detach(bare.engine, "second")
    assert schema_dump.dump(bare.db, ["shop", "indexer", "public"]) == before
    assert bare.value("SELECT count(*) FROM indexer.changes") == 0
    assert bare.value("SELECT count(*) FROM indexer.catalogs") == 0
    bare.run("INSERT INTO products (sku) VALUES ('f')", "UPDATE products SET title = 'x'")


def test_detach_finds_a_table_that_was_renamed_or_moved(world: World) -> None:
    before = schema_dump.dump(world.db, ["indexer"])
    world.run("CREATE SCHEMA elsewhere", "ALTER TABLE products RENAME TO goods")
    world.run("ALTER TABLE goods SET SCHEMA elsewhere")
    try:
        catalog.detach(world.engine, "products")
        assert "twinspan" not in schema_dump.dump(world.db, ["elsewhere"])
        assert "capture" in before
        assert "capture" not in schema_dump.dump(world.db, ["indexer"])
    finally:
        world.run("DROP SCHEMA elsewhere CASCADE")


def test_detach_works_after_the_table_was_dropped(world: World) -> None:
    world.run("DROP TABLE products")
    catalog.detach(world.engine, "products")
    assert "capture" not in schema_dump.dump(world.db, ["indexer"])


def test_dropping_our_schema_sets_the_table_free(world: World) -> None:
    with pytest.raises(ZeroDivisionError), world.db.transaction():
        world.run("DROP SCHEMA indexer CASCADE", "INSERT INTO products (sku) VALUES ('d')")
        raise ZeroDivisionError


def test_attaching_again_changes_nothing_and_locks_nothing(world: World) -> None:
    before = schema_dump.dump(world.db, ["shop", "indexer"])
    other = world.connect()
    with other.transaction():  # a writer in the middle of its work
        other.execute("UPDATE products SET title = 'new' WHERE sku = 'a'")
        again = world.attach()
    assert (again.spec_version, again.id) == (1, catalog.get(world.engine, "products").id)
    assert schema_dump.dump(world.db, ["shop", "indexer"]) == before
    assert world.changes() == [("U", ["a"])]


def test_attaching_again_mends_triggers_that_were_dropped_or_disabled(world: World) -> None:
    before = schema_dump.dump(world.db, ["shop", "indexer"])
    number = catalog.get(world.engine, "products").id
    world.run(
        f"DROP TRIGGER twinspan_{number}_insert ON products",
        f"ALTER TABLE products DISABLE TRIGGER twinspan_{number}_update",
        f"ALTER TABLE products ENABLE TRIGGER twinspan_{number}_delete",
    )
    world.attach()
    assert schema_dump.dump(world.db, ["shop", "indexer"]) == before


def test_a_changed_description_watches_other_columns_under_a_new_version(world: World) -> None:
    changed = world.attach(filters={"stock": "integer"})
    assert changed.spec_version == 2
    assert changed.spec.fields == {"stock": "integer"}
    world.run("UPDATE products SET stock = 7 WHERE sku = 'a'", "UPDATE products SET price = 3")
    assert world.changes() == [("U", ["a"])]
    assert world.attach(filters={"stock": "integer"}).spec_version == 2


def test_a_change_under_way_is_not_lost_between_two_descriptions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made under triggers that do not watch its column, and is not visible yet."""
    monkeypatch.setattr(catalog, "ATTEMPTS", 1)
    other = world.connect()
    with other.transaction():
        other.execute("UPDATE products SET stock = 7 WHERE sku = 'a'")
        with pytest.raises(CatalogError, match=r"shop\.products is busy"):
            world.attach(filters={"stock": "integer"})
        assert catalog.get(world.engine, "products").spec_version == 1
    assert world.attach(filters={"stock": "integer"}).spec_version == 2


def test_a_table_that_is_named_no_more_is_watched_no_more(shop: World) -> None:
    shop.attach(
        table="shop.offers",
        features={"title": "text"},
        watch=[{"table": "shop.products", "key": "sku"}],
    )
    shop.run("UPDATE prices SET amount = 99", "UPDATE products SET title = 'new' WHERE sku = 'a'")
    assert shop.changes() == [("U", ["a"])]
    assert "ON shop.prices" not in (dumped := schema_dump.dump(shop.db, ["shop"]))
    assert "ON shop.products" in dumped


def test_a_changed_description_has_every_item_of_an_indexed_catalog_read_again(
    world: World,
) -> None:
    number = catalog.get(world.engine, "products").id
    world.run(
        "INSERT INTO indexer.encoders (id, family, uri, vectors) VALUES ('e', 'f', 'u', '[]')",
        "INSERT INTO indexer.indexes "
        "(catalog_id, alias, encoder_id, collection, queue, state, spec_version) "
        f"VALUES ({number}, 'products', 'e', 'products-1', 'twinspan', 'live', 1)",
    )
    try:
        world.attach(filters={"stock": "integer"})
        assert world.changes() == [("T", None), ("U", ["a", "b", "c"])]
        with pytest.raises(CatalogError, match=r"indexes: \d+ \(live\).*--drop-indexes"):
            catalog.detach(world.engine, "products")
        world.run("INSERT INTO products (sku) VALUES ('d')")
        assert world.keys() == {"d"}, "the refusal has taken nothing away"
        world.run("UPDATE indexer.indexes SET state = 'retired'")
        catalog.detach(world.engine, "products")
        assert world.value("SELECT count(*) FROM indexer.indexes") == 0
    finally:
        world.run("DELETE FROM indexer.indexes", "DELETE FROM indexer.encoders")


def test_a_busy_table_is_left_alone_with_a_clear_error(
    bare: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "ATTEMPTS", 2)
    bare.run(PRODUCTS)
    before = schema_dump.dump(bare.db, ["shop", "indexer"])
    other = bare.connect()
    with other.transaction():
        other.execute("INSERT INTO products (sku) VALUES ('d')")
        with pytest.raises(CatalogError, match=r"shop\.products is busy.*try again"):
            bare.attach()
    assert schema_dump.dump(bare.db, ["shop", "indexer"]) == before
    bare.attach()


def test_attaching_waits_for_a_writer_without_holding_up_the_others(bare: World) -> None:
    bare.run(PRODUCTS)
    writer, other = bare.connect(), bare.connect()
    writer.execute("BEGIN; INSERT INTO products (sku) VALUES ('d')")
    attaching = threading.Thread(target=bare.attach)
    attaching.start()
    slowest_s, until = 0.0, time.monotonic() + 1.0
    while time.monotonic() < until:
        started = time.monotonic()
        other.execute("INSERT INTO products (sku) VALUES (gen_random_uuid()::text)")
        slowest_s = max(slowest_s, time.monotonic() - started)
    assert attaching.is_alive()
    writer.execute("COMMIT")
    attaching.join(timeout=10)
    assert not attaching.is_alive()
    bare.changes()
    assert slowest_s < 2 * triggers.LOCK_TIMEOUT_MS / 1000 + 0.3
    bare.run("INSERT INTO products (sku) VALUES ('e')")
    assert bare.changes() == [("I", ["e"])]


# The user's statements never fail by us


@pytest.fixture
def nobody(bare: World) -> Iterator[psycopg.Connection[Any]]:
    """A user who may do everything with the products, and nothing in schema indexer."""
    role = f"twinspan_test_nobody_{bare.db.info.backend_pid}"
    bare.run(
        PRODUCTS,
        f"CREATE ROLE {role}",
        f"GRANT USAGE ON SCHEMA shop TO {role}",
        f"GRANT ALL ON products TO {role}",
    )
    connection = bare.connect()
    connection.execute(f"SET ROLE {role}")  # type: ignore[call-overload]
    yield connection
    connection.close()
    bare.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_writer_without_rights_on_our_schema_is_seen(
    bare: World, nobody: psycopg.Connection[Any]
) -> None:
    bare.attach()
    nobody.execute("INSERT INTO products (sku) VALUES ('d')")
    nobody.execute("UPDATE products SET title = 'new'")
    nobody.execute("DELETE FROM products")
    nobody.execute("TRUNCATE products")
    assert bare.changes() == [("I", ["d"]), ("U", ["d"]), ("D", ["d"]), ("T", None)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        nobody.execute("INSERT INTO indexer.changes (catalog_id, op) VALUES (1, 'T')")


def test_nobody_else_can_use_our_functions(bare: World, nobody: psycopg.Connection[Any]) -> None:
    bare.attach()
    function = bare.value("SELECT min(proname) FROM pg_proc WHERE proname LIKE 'capture%'")
    bare.run("GRANT USAGE ON SCHEMA indexer TO PUBLIC")
    try:
        nobody.execute("CREATE TEMPORARY TABLE mine (sku text)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            nobody.execute(
                "CREATE TRIGGER t AFTER INSERT ON mine REFERENCING NEW TABLE AS twinspan_new "  # type: ignore[call-overload]
                f"FOR EACH STATEMENT EXECUTE FUNCTION indexer.{function}()"
            )
    finally:
        bare.run("REVOKE USAGE ON SCHEMA indexer FROM PUBLIC")


def test_who_does_not_own_the_table_is_told(bare: World, server: str) -> None:
    role = f"twinspan_test_attacher_{bare.db.info.backend_pid}"
    bare.run(
        PRODUCTS,
        f"CREATE ROLE {role} LOGIN PASSWORD 'secret'",
        f"GRANT USAGE ON SCHEMA shop TO {role}",
        f"GRANT USAGE, CREATE ON SCHEMA indexer TO {role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA indexer TO {role}",
    )
    url = sa.make_url(server).set(username=role, password="secret")
    theirs = database.engine(url.render_as_string(hide_password=False))
    described = spec.parse({**{"name": "p", "table": "shop.products", "key": "sku"},
                            "features": {"title": "text"}}, name="test")  # fmt: skip
    try:
        with pytest.raises(
            CatalogUnwatchable, match=r"may not read.*GRANT SELECT ON shop.products"
        ):
            catalog.attach(theirs, described)
        bare.run(f"GRANT SELECT, TRIGGER ON products TO {role}")
        with pytest.raises(CatalogUnwatchable, match=r"for its owner, .*Attach as"):
            catalog.attach(theirs, described)
        bare.run(f"ALTER TABLE products OWNER TO {role}")
        catalog.attach(theirs, described)
        bare.run("INSERT INTO products (sku) VALUES ('d')")
        assert bare.changes() == [("I", ["d"])]
        bare.run("ALTER TABLE products ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        with pytest.raises(CatalogUnwatchable, match="BYPASSRLS"):
            catalog.attach(theirs, described)
        bare.run(f"REVOKE CREATE ON SCHEMA indexer FROM {role}")
        with pytest.raises(CatalogUnwatchable, match=r"may not create functions"):
            catalog.attach(theirs, described)
    finally:
        theirs.dispose()
        for one in catalog.all_of(bare.engine):
            catalog.detach(bare.engine, one.name)
        bare.run(f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def test_a_hostile_search_path_and_temporary_tables_change_nothing(world: World) -> None:
    world.run(
        "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.array_agg(text) RETURNS text[] LANGUAGE sql AS 'SELECT NULL::text[]'",
        "CREATE FUNCTION evil.cardinality(anyarray) RETURNS int LANGUAGE sql AS 'SELECT 0'",
        "CREATE TABLE evil.changes (catalog_id int, item_keys text[], op text)",
        "CREATE TEMPORARY TABLE twinspan_new (sku text, title text)",
        "CREATE TEMPORARY TABLE changes (catalog_id int, item_keys text[], op text)",
        "SET search_path = evil, pg_temp, pg_catalog",
    )
    try:
        world.run("INSERT INTO shop.products (sku) VALUES ('d')")
        world.run("UPDATE shop.products SET title = 'x' WHERE sku = 'd'")
        assert world.changes() == [("I", ["d"]), ("U", ["d"])]
    finally:
        world.run("SET search_path = shop", "DROP SCHEMA evil CASCADE")


def test_dropping_a_watched_column_fails_no_statement_and_misses_nothing(world: World) -> None:
    world.run("UPDATE products SET title = 'warm' WHERE sku = 'c'")
    world.changes()
    world.run("ALTER TABLE products DROP COLUMN price")
    world.run("INSERT INTO products (sku) VALUES ('d')")
    assert world.changes() == [("I", ["d"])]
    world.run("UPDATE products SET title = 'new' WHERE sku = 'a'")
    assert world.changes() == [("U", ["a"])]
    world.run("UPDATE products SET stock = 0 WHERE sku <> 'a'")
    assert world.changes() == [("U", ["b", "c", "d"])], "rather too many than too few"
    world.run("DELETE FROM products WHERE sku = 'a'")
    assert world.changes() == [("D", ["a"])]
    with pytest.raises(CatalogError, match=r"does not fit shop.products any more"):
        catalog.read(world.engine, catalog.get(world.engine, "products"), ["b"])


def test_renaming_the_key_fails_no_statement_and_is_said_aloud(world: World) -> None:
    notices: list[str] = []
    world.db.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    world.run("ALTER TABLE products RENAME COLUMN sku TO id")
    world.run(
        "INSERT INTO products (id) VALUES ('d')",
        "UPDATE products SET title = 'new'",
        "DELETE FROM products WHERE id = 'a'",
    )
    assert world.changes() == [("T", None)], "once, however many statements"
    assert len(notices) == 3
    assert "does not see which items change in shop.products" in notices[0]
    with pytest.raises(CatalogError, match=r"is gone.*attach it again"):
        catalog.scan_keys(world.engine, catalog.get(world.engine, "products"), after=None, limit=1)
    assert world.attach(key="id").spec_version == 2
    world.run("UPDATE products SET title = 'newer' WHERE id = 'b'")
    assert world.changes() == [("U", ["b"])]


def test_an_expression_that_fails_for_a_row_fails_no_statement(bare: World) -> None:
    bare.run(
        PRODUCTS,
        "CREATE TABLE stock (product text, parts int)",
        "CREATE VIEW v AS SELECT sku, title, price FROM products",
    )
    bare.attach(
        table="shop.v",
        features={"title": "text"},
        watch=[
            {"table": "shop.products", "key": "sku"},
            {"table": "shop.stock", "key": "product || (100 / parts)"},
        ],
    )
    bare.run("INSERT INTO stock VALUES ('a', 50), ('a', NULL)")
    assert bare.changes() == [("I", ["a2"])]
    bare.run("INSERT INTO stock VALUES ('a', 0)")
    assert bare.changes() == [("T", None)]


def test_changing_the_type_of_a_column_in_an_open_session_is_no_trouble(world: World) -> None:
    world.run("UPDATE products SET title = 'one' WHERE sku = 'a'")
    world.run(
        "ALTER TABLE products ALTER COLUMN price TYPE text, ADD COLUMN extra int DEFAULT 1",
        "ALTER TABLE products ALTER COLUMN sku TYPE varchar(20)",
        "UPDATE products SET price = 'free' WHERE sku = 'b'",
    )
    assert world.changes() == [("U", ["a"]), ("U", ["b"])]


def test_a_large_statement_after_a_small_one_keeps_a_good_plan(world: World) -> None:
    """A plan cached for one row, with a nested loop, would take minutes for 20,000."""
    world.run("INSERT INTO products (sku) SELECT 'n' || i FROM generate_series(1, 20000) AS i")
    for sku in ("n1", "n2", "n3", "n4", "n5", "n6", "n7"):
        world.run(f"UPDATE products SET title = 'small' WHERE sku = '{sku}'")
    world.changes()
    world.run("SET statement_timeout = '20s'", "UPDATE products SET title = 'large'")
    assert len(world.keys()) == 20_003


def test_a_small_statement_needs_no_subtransaction_id(world: World) -> None:
    """Beyond 64 of them in a transaction, every snapshot of the server gets slower."""
    with world.db.transaction():
        before = int(world.value("SELECT pg_current_xact_id()::text::bigint"))
        for number in range(20):
            world.run(f"UPDATE products SET title = '{number}' WHERE sku = 'a'")
        other = world.connect()
        after = int(other.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()[0])  # type: ignore[index]
    assert after == before + 1
    assert world.keys() == {"a"}


def test_two_writers_of_the_same_catalog_never_wait_for_each_other(world: World) -> None:
    other = world.connect()
    other.execute("SET lock_timeout = '1s'")
    world.run("BEGIN", "UPDATE products SET title = 'x' WHERE sku = 'a'")
    other.execute("UPDATE products SET title = 'y' WHERE sku = 'b'")
    other.execute("INSERT INTO products (sku) VALUES ('d')")
    world.run("COMMIT")
    assert world.keys() == {"a", "b", "d"}


# NOTIFY


def test_notify_comes_once_a_statement_and_only_when_something_was_queued(bare: World) -> None:
    bare.run(PRODUCTS)
    bare.attach(notify=True)
    bare.run(f"LISTEN {triggers.CHANNEL}")
    bare.run("INSERT INTO products (sku) SELECT 'n' || i FROM generate_series(1, 3000) AS i")
    assert _notices(bare) == [("twinspan", "")]
    bare.run("UPDATE products SET stock = 1", "DELETE FROM products WHERE sku = 'none'")
    assert _notices(bare) == []
    bare.run("UPDATE products SET sku = 'z' WHERE sku = 'n1'")
    assert _notices(bare) == [("twinspan", "")]
    bare.run("TRUNCATE products")
    assert _notices(bare) == [("twinspan", "")]
    bare.attach()
    bare.run("INSERT INTO products (sku) VALUES ('a')")
    assert _notices(bare) == []
    assert bare.changes()[-1] == ("I", ["a"])


def _notices(world: World) -> list[tuple[str, str]]:
    return [(one.channel, one.payload) for one in world.db.notifies(timeout=0.2)]


# Any sequence of statements

VALUE = st.sampled_from(["x", "y", None])
SKU = st.sampled_from(["a", "b", "c", "d", "e"])
STATEMENT = st.one_of(
    st.tuples(st.just("insert"), st.lists(SKU, min_size=1, max_size=4, unique=True), VALUE),
    st.tuples(st.just("update"), st.lists(SKU, max_size=5, unique=True), VALUE),
    st.tuples(st.just("delete"), st.lists(SKU, max_size=5, unique=True), VALUE),
    st.tuples(st.just("rename"), st.permutations(["a", "b", "c", "d", "e"]), VALUE),
    st.tuples(st.just("truncate"), st.just([]), VALUE),
)
RUN = {
    "insert": """MERGE INTO products AS p USING unnest(%(skus)s::text[]) AS new (sku)
                 ON p.sku = new.sku
                 WHEN MATCHED THEN UPDATE SET title = %(title)s
                 WHEN NOT MATCHED THEN INSERT (sku, title) VALUES (new.sku, %(title)s)""",
    "update": "UPDATE products SET title = %(title)s WHERE sku = ANY(%(skus)s)",
    "delete": "DELETE FROM products WHERE sku = ANY(%(skus)s)",
    "rename": """UPDATE products SET sku = (%(skus)s::text[])[ascii(sku) - 96]""",
    "truncate": "TRUNCATE products",
}


@settings(
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(statements=st.lists(st.tuples(STATEMENT, st.booleans()), min_size=1, max_size=12))
def test_any_sequence_queues_exactly_what_differs_afterwards(
    renaming_world: World, statements: list[tuple[tuple[str, list[str], str | None], bool]]
) -> None:
    """After each statement, the queued keys are those whose row came, went or changed."""
    world = renaming_world
    world.run("TRUNCATE products")
    world.changes()
    for (kind, skus, title), kept in statements:
        before = _rows(world)
        with world.db.transaction(force_rollback=not kept):
            world.db.execute(RUN[kind], {"skus": skus, "title": title})
        after = _rows(world)
        differ = {sku for sku in before | after if before.get(sku, 0) != after.get(sku, 0)}
        queued = world.changes()
        if kept and kind == "truncate":
            assert queued == [("T", None)]
        else:
            assert {key for _, keys in queued for key in keys or ()} == differ
            assert {key for op, keys in queued if op == "D" for key in keys or ()} == (
                before.keys() - after.keys()
            )


@pytest.fixture
def renaming_world(bare: World) -> World:
    bare.run(PRODUCTS.replace("PRIMARY KEY", "NOT NULL UNIQUE"))
    bare.run("ALTER TABLE products DROP CONSTRAINT products_sku_key")
    bare.run("ALTER TABLE products ADD UNIQUE (sku) DEFERRABLE")
    bare.attach()
    return bare


def _rows(world: World) -> dict[str, str | None]:
    return dict(world.db.execute("SELECT sku, title FROM products").fetchall())
