"""Two users of the catalog, each with a connection; the oracle follows what they commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from proof.oracle import Change, Oracle

CREATE = """
    CREATE TABLE public.films (id text PRIMARY KEY, title text NOT NULL, year int, note text)
"""
CATALOG: dict[str, object] = {
    "name": "films",
    "table": "public.films",
    "key": "id",
    "features": {"title": "text"},
    "filters": {"year": "integer"},
    "returned": ["title", "year"],
}


@dataclass(kw_only=True)
class User:
    """A connection, and what its open transaction has changed so far."""

    connection: psycopg.Connection
    changes: list[Change] = field(default_factory=list[Change])

    @property
    def holds(self) -> set[str]:
        """Keys whose rows nobody else may change now, or he would wait."""
        return {key for change in self.changes for key in change.touches}

    def execute(self, changes: Sequence[Change]) -> None:
        for change in changes:
            _execute(self.connection, change)
        self.changes += changes

    def undone(self, changes: Sequence[Change]) -> None:
        """Execute these in a savepoint, and roll it back."""
        self.connection.execute("SAVEPOINT regretted")
        for change in changes:
            _execute(self.connection, change)
        self.connection.execute("ROLLBACK TO SAVEPOINT regretted")

    def commit(self, oracle: Oracle) -> None:
        self.connection.commit()
        oracle.commit(self.changes)
        self.changes = []

    def rollback(self) -> None:
        self.connection.rollback()
        self.changes = []


def _execute(connection: psycopg.Connection, change: Change) -> None:
    row, keys = change.row, list(change.keys)
    values = (row.title, row.year)
    match change.verb:
        case "insert" | "upsert":
            update = "UPDATE SET title = excluded.title, year = excluded.year"
            connection.execute(
                "INSERT INTO public.films SELECT id, %s, %s FROM unnest(%s::text[]) AS id"
                f" ON CONFLICT (id) DO {update if change.verb == 'upsert' else 'NOTHING'}",
                [*values, keys],
            )
        case "copy":
            _copy(connection, keys, values)
        case "update":
            connection.execute(
                "UPDATE public.films SET title = %s, year = %s WHERE id = ANY(%s)",
                [*values, keys],
            )
        case "date":
            connection.execute(
                "UPDATE public.films SET year = %s WHERE id = ANY(%s)", [row.year, keys]
            )
        case "touch":
            connection.execute(
                "UPDATE public.films SET note = coalesce(note, '') || '!' WHERE id = ANY(%s)",
                [keys],
            )
        case "delete":
            connection.execute("DELETE FROM public.films WHERE id = ANY(%s)", [keys])
        case "truncate":
            connection.execute("TRUNCATE public.films")
        case "rename":
            connection.execute(
                "UPDATE public.films SET id = %s WHERE id = %s"
                " AND NOT EXISTS (SELECT FROM public.films WHERE id = %s)",
                [change.to, keys[0], change.to],
            )
        case _:
            raise AssertionError(change.verb)


def _copy(connection: psycopg.Connection, keys: Sequence[str], values: tuple[object, ...]) -> None:
    """COPY knows no conflicts, so only the keys that are not there."""
    found = connection.execute("SELECT id FROM public.films WHERE id = ANY(%s)", [list(keys)])
    known = {key for (key,) in found}
    with connection.cursor().copy("COPY public.films (id, title, year) FROM STDIN") as copy:
        for key in keys:
            if key not in known:
                copy.write_row((key, *values))
