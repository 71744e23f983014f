"""A catalog `things` with columns of every kind, on both versions of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from indexer import catalog
from indexer.catalog import Catalog, spec

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
