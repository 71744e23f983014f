"""Whether the triggers on users' tables are those that this release would put there.

For `doctor`: reads PostgreSQL's own catalogs, changes nothing, and needs no rights on the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from indexer.catalog import triggers, watching
from indexer.catalog.spec import CatalogSpec
from indexer.catalog.watching import Watch
from indexer.database import SCHEMA

_WATCHED = sa.text(f"SELECT watched -> 'tables' FROM {SCHEMA}.catalogs WHERE id = :catalog_id")
_INSTALLED = sa.text(f"""
    SELECT t.tgname AS trigger, t.tgrelid::regclass::text AS table, t.tgenabled = 'A' AS always,
           t.tgrelid AS oid, p.prosrc AS text, p.prosecdef AS definer
    FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE p.pronamespace = CAST('{SCHEMA}' AS regnamespace)
      AND starts_with(t.tgname::text, :prefix)
""")
_MAY_RESOLVE = sa.text(f"SELECT has_schema_privilege('{SCHEMA}', 'CREATE')")
_EXISTS = sa.text("SELECT CAST(to_regclass(:name) AS oid)")


def faults(connection: sa.Connection, catalog_id: int, spec: CatalogSpec) -> list[str]:
    """What keeps changes of the catalog from being captured, or captures them in another way than
    this release would; empty when all is well."""
    rows = connection.execute(_INSTALLED, {"prefix": f"twinspan_{catalog_id}_"}).mappings()
    installed = {(row["oid"], row["trigger"]): row for row in rows}
    tables: Sequence[Mapping[str, Any]] = (
        connection.scalar(_WATCHED, {"catalog_id": catalog_id}) or ()
    )
    found = [
        fault
        for one in tables
        for fault in _of_table(connection, catalog_id, str(one["table"]), installed)
    ]
    if not found and connection.scalar(_MAY_RESOLVE):
        found = list(_of_texts(catalog_id, watching.resolve(connection, spec), installed))
    return found


def _of_table(
    connection: sa.Connection,
    catalog_id: int,
    table: str,
    installed: Mapping[tuple[int, str], Mapping[Any, Any]],
) -> Iterator[str]:
    oid = connection.scalar(_EXISTS, {"name": _quoted(table)})
    if oid is None:
        yield f"{table} is gone"
        return
    for event in triggers.EVENTS:
        name = triggers.trigger_name(catalog_id, event)
        row = installed.get((oid, name))
        if row is None:
            yield f"{table} has no trigger {name}"
        elif not row["always"]:
            yield f"{name} on {table} is not enabled ALWAYS"


def _of_texts(
    catalog_id: int,
    watches: Sequence[Watch],
    installed: Mapping[tuple[int, str], Mapping[Any, Any]],
) -> Iterator[str]:
    for watch in watches:
        for event in triggers.EVENTS:
            row = installed.get((watch.relation.oid, triggers.trigger_name(catalog_id, event)))
            if row is None:
                yield f"{watch.relation.name} is described, and not watched for {event.name}"
            elif not row["definer"] or row["text"] not in triggers.bodies(catalog_id, watch, event):
                yield (
                    f"the function behind {triggers.trigger_name(catalog_id, event)} on "
                    f"{watch.relation.name} is not this release's"
                )


def _quoted(table: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in table.split(".", 1))
