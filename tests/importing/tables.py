"""What lies in tables after an import."""

from __future__ import annotations

import sqlalchemy as sa

from indexer import database


def query(engine: sa.Engine, statement: str) -> list[tuple[object, ...]]:
    with database.begin(engine) as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def item(engine: sa.Engine, key: str) -> tuple[object, ...]:
    (found,) = query(
        engine, f"SELECT title, description, attributes FROM public.items WHERE id = '{key}'"
    )
    return found
