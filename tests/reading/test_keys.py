"""Reading by key and scanning in key order, both by the key's index."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from indexer import catalog
from indexer.catalog import Catalog, spec


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
