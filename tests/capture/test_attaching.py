"""What cannot be watched is refused with what to mend; attaching and detaching leave no trace."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import schema_dump

from capture.world import PRODUCTS, World
from indexer import catalog
from indexer.catalog import triggers
from indexer.errors import CatalogError, CatalogUnwatchable, SpecError

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
