"""Schemas `shop` to capture from, on both versions of PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from capture.world import PRODUCTS, World
from indexer import catalog, database


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
