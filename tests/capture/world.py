"""A user's database with a catalog to watch, for the tests of capture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa

from indexer import catalog
from indexer.catalog import Catalog, spec

PRODUCTS = """
    CREATE TABLE products (
        sku text PRIMARY KEY, title text, brand text, price numeric(10, 2), stock int,
        attributes jsonb, created_at timestamptz NOT NULL DEFAULT now()
    )
"""
DESCRIPTION: dict[str, Any] = {
    "name": "products",
    "table": "shop.products",
    "key": "sku",
    "features": {"title": "text", "genres": {"kind": "categories", "from": "attributes.genres"}},
    "filters": {"price": "float"},
}

Change = tuple[str, list[str] | None]


@dataclass
class World:
    """`db` is a user's own connection, in autocommit mode, schema `shop`; `connect` opens more."""

    engine: sa.Engine
    db: psycopg.Connection[Any]
    connect: Callable[[], psycopg.Connection[Any]]

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.db.execute(statement)  # type: ignore[call-overload]

    def attach(self, *, notify: bool = False, **changed: Any) -> Catalog:
        """Attach the products, described as above but for what is changed."""
        described = spec.parse({**DESCRIPTION, **changed}, name="test")
        return catalog.attach(self.engine, described, notify=notify)

    def changes(self) -> list[Change]:
        """What was queued since the last call, keys sorted, in the order of queueing."""
        rows = self.db.execute(
            "WITH gone AS (DELETE FROM indexer.changes RETURNING *) "
            "SELECT op, item_keys FROM gone ORDER BY id"
        ).fetchall()
        return [(op, None if keys is None else sorted(keys)) for op, keys in rows]

    def keys(self) -> set[str]:
        """The keys queued since the last call."""
        return {key for _, keys in self.changes() for key in keys or ()}

    def add(self, *skus: str) -> None:
        """Products of these keys, and nothing queued for them."""
        self.db.execute(
            "INSERT INTO products (sku, title, price, stock) "
            "SELECT sku, 'Title of ' || sku, 1, 5 FROM unnest(%s::text[]) AS sku",
            [list(skus)],
        )
        self.changes()

    def value(self, query: str, parameters: Sequence[object] = ()) -> Any:
        row = self.db.execute(query, parameters or None).fetchone()  # type: ignore[call-overload]
        assert row is not None, query
        return row[0]
