"""Every way to change a table queues the items that it changed, and no others."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capture.world import PRODUCTS, World
from indexer import catalog, database, schema
from indexer.catalog import spec, triggers
from indexer.embedded import postgres

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
