"""The user's statements never wait for us, and never fail by us."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from capture.world import PRODUCTS, World
from indexer import catalog, database
from indexer.catalog import spec
from indexer.errors import CatalogError, CatalogUnwatchable


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
