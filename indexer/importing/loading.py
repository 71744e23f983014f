"""Rows into the tables: staged by COPY, merged by one statement a table, all in one transaction.

An item's row sets what it names and leaves alone what it is silent about; None takes away. A second
import of the same file touches no row, so that the triggers of the catalog queue nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from indexer import bulk, database, interactions, schema
from indexer.errors import ImportFailed
from indexer.importing.report import Job, Report
from indexer.interactions import Interaction, Merged, User

IMPORT_LOCK = 0x7457494E_494D50  # one import at a time: two would add the same events twice


class Item(NamedTuple):
    """A row for `public.items`. `says` names what of title and description the file speaks of."""

    key: str
    title: str | None
    description: str | None
    attributes: Mapping[str, object]
    says: tuple[str, ...] = ("title",)


STAGE_ITEMS = """
    CREATE TEMPORARY TABLE staged_items (
        ordinal bigint GENERATED ALWAYS AS IDENTITY, id text COLLATE "C", title text,
        description text, attributes jsonb, cleared text[], says text[]
    ) ON COMMIT DROP
"""

MERGE_ITEMS = """
    WITH wanted AS MATERIALIZED (
        SELECT DISTINCT ON (id) * FROM staged_items ORDER BY id, ordinal DESC
    ), merged AS (
        SELECT wanted.id, stored.id IS NULL AS fresh,
               CASE WHEN 'title' = ANY (wanted.says) THEN wanted.title
                    ELSE stored.title END AS title,
               CASE WHEN 'description' = ANY (wanted.says) THEN wanted.description
                    ELSE stored.description END AS description,
               (CASE WHEN jsonb_typeof(stored.attributes) = 'object' THEN stored.attributes
                     ELSE '{}' END - wanted.cleared) || wanted.attributes AS attributes,
               stored.title AS old_title, stored.description AS old_description,
               stored.attributes AS old_attributes
        FROM wanted LEFT JOIN public.items AS stored ON stored.id = wanted.id
    ), written AS (
        INSERT INTO public.items (id, title, description, attributes)
        SELECT id, title, description, attributes FROM merged
        WHERE fresh OR (title, description, attributes)
              IS DISTINCT FROM (old_title, old_description, old_attributes)
        ORDER BY id
        ON CONFLICT (id) DO UPDATE SET title = excluded.title,
            description = excluded.description, attributes = excluded.attributes,
            updated_at = now()
        RETURNING (xmax = 0) AS added
    )
    SELECT (SELECT count(*) FROM staged_items), (SELECT count(*) FROM wanted),
           (SELECT count(*) FROM written WHERE added),
           (SELECT count(*) FROM written WHERE NOT added)
"""


def load(
    engine: sa.Engine,
    job: Job,
    *,
    source: str,
    catalog: str = interactions.DEFAULT_CATALOG,
    items: Iterable[Item] | None = None,
    users: Iterable[User] | None = None,
    events: Iterable[Interaction] | None = None,
) -> Report:
    """Everything is stored, or, on any error, nothing. Raises ImportFailed when not one row could
    be used, since then the file is not what it was said to be."""
    schema.check(engine)
    with database.begin(engine) as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": IMPORT_LOCK})
        staged = _stage(connection, items, users, events)
        job.tell("writing", 0, 0, 0)
        merged = _merge(connection, staged, catalog)
        _refuse_empty(job, source, merged)
    return job.report(source, **merged)


def _stage(
    connection: sa.Connection,
    items: Iterable[Item] | None,
    users: Iterable[User] | None,
    events: Iterable[Interaction] | None,
) -> list[str]:
    staged: list[str] = []
    if items is not None:
        _stage_items(connection, items)
        staged.append("items")
    if users is not None:
        interactions.stage_users(connection, users)
        staged.append("users")
    if events is not None:
        interactions.stage_interactions(connection, events)
        staged.append("interactions")
    return staged


def _stage_items(connection: sa.Connection, items: Iterable[Item]) -> None:
    connection.execute(sa.text(STAGE_ITEMS))
    columns = ("id", "title", "description", "attributes", "cleared", "says")
    rows = (
        (
            item.key,
            item.title,
            item.description,
            *interactions.split_nulls(item.attributes),
            list(item.says),
        )
        for item in items
    )
    bulk.copy_rows(connection, ("staged_items",), columns, rows)
    connection.execute(sa.text("ANALYZE staged_items"))


def _merge(connection: sa.Connection, staged: list[str], catalog: str) -> dict[str, Merged]:
    merged: dict[str, Merged] = {}
    if "items" in staged:
        merged["items"] = interactions.merged(*connection.execute(sa.text(MERGE_ITEMS)).one())
    if "users" in staged:
        merged["users"] = interactions.merge_users(connection)
    if "interactions" in staged:
        merged["interactions"] = interactions.merge_interactions(connection, catalog=catalog)
    return merged


def _refuse_empty(job: Job, source: str, merged: dict[str, Merged]) -> None:
    if any(one.read for one in merged.values()):
        return
    if not job.skipped:
        raise ImportFailed(f"{source}: there is no row in it. Nothing was imported.")
    raise ImportFailed(
        f"{source}: not one row could be used ({sum(job.skipped.values()):,} refused). "
        f"The first: {job.examples[0]}. Nothing was imported."
    )
