"""A role of the test's own, a login as it, and a catalog with an index to work on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import live_world
import pytest
import sqlalchemy as sa
from live_world import World

from indexer import database
from indexer.stores.qdrant import QdrantStore
from roles.world import run

_numbers = itertools.count()


@pytest.fixture
def role_name() -> str:
    return f"twinspan_test_{os.getpid()}_role_{next(_numbers)}"


@pytest.fixture
def role(each_engine: sa.Engine, role_name: str) -> Iterator[str]:
    """A name for a role, which is gone at the end with all its rights."""
    yield role_name
    with each_engine.begin() as connection:
        for name in (role_name, f"{role_name}_b"):
            if connection.scalar(sa.text("SELECT to_regrole(:name)"), {"name": name}):
                connection.exec_driver_sql(f"DROP OWNED BY {name} CASCADE")
                connection.exec_driver_sql(f"DROP ROLE {name}")


@pytest.fixture
def login(each_engine: sa.Engine) -> Iterator[Callable[[str], sa.Engine]]:
    """`login(role)` connects as it, with its own password."""
    opened: list[sa.Engine] = []

    def connect(role: str) -> sa.Engine:
        run(each_engine, f"ALTER ROLE {role} LOGIN PASSWORD 'a secret of the test'")
        url = each_engine.url.set(username=role, password="a secret of the test")
        opened.append(database.engine(url.render_as_string(hide_password=False)))
        return opened[-1]

    yield connect
    for engine in opened:
        engine.dispose()


@pytest.fixture
def world(each_engine: sa.Engine) -> Iterator[World]:
    store = QdrantStore.in_memory()
    yield live_world.make(each_engine, store, queue="roles")
    store.close()
