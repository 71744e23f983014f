"""Whether triggers can watch what a description names, and how.

`resolve` compares a description with the database and raises SpecError (the file is wrong) or
CatalogUnwatchable (the table is); afterwards attaching can fail only for lack of a lock.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import exc

from indexer.catalog import relations
from indexer.catalog.relations import Column, Relation
from indexer.catalog.spec import CatalogSpec, FieldSource, Source, WatchSpec
from indexer.database import SCHEMA
from indexer.errors import CatalogUnwatchable, SpecError

_KIND_TYPES: dict[str, tuple[str, str]] = {  # kind -> typcategories, in words
    "number": ("NSB", "a number"),
    "integer": ("NSB", "a number"),
    "float": ("NSB", "a number"),
    "bool": ("BSN", "a bool"),
    "datetime": ("DS", "a date or time"),
    "geo": ("", "JSON with lat and lon (or name two columns: lat and lon)"),
}

_IS_ARRAY = sa.text("SELECT typcategory = 'A' FROM pg_type WHERE oid = :oid")
_MAY_ATTACH = sa.text(f"""
    SELECT has_schema_privilege('{SCHEMA}', 'CREATE')
       AND has_table_privilege('{SCHEMA}.changes', 'INSERT')
""")


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A table to watch. `key` is SQL over its row under the table's own name; it gives an array of
    keys where `keys_are_array`. `unique`: no two rows have the same key. `compared` is SQL of
    what must differ for an update to count."""

    relation: Relation
    key: str
    keys_are_array: bool
    unique: bool
    steady: bool
    compared: tuple[str, ...]


def resolve(connection: sa.Connection, spec: CatalogSpec) -> list[Watch]:
    """What is to be watched for this description, in the order of the tables' oids."""
    _check_rights(connection)
    catalog = relations.find(connection, spec.table_name, "table")
    _check_readable(catalog, spec)
    watches = [_watch(connection, spec, catalog, one) for one in _wanted(spec, catalog)]
    for watch in watches:
        _check_relatives(watch.relation, {other.relation.oid for other in watches})
    return sorted(watches, key=lambda watch: watch.relation.oid)


def _wanted(spec: CatalogSpec, catalog: Relation) -> list[WatchSpec]:
    """The tables to watch: those that the description names, and the catalog's own table."""
    own = [watch for watch in spec.watch if watch.table == spec.table]
    if catalog.is_view:
        if own or not spec.watch:
            raise CatalogUnwatchable(
                f"{spec.table} is a view, which fires no triggers. Name each table that it reads, "
                "and the expression that gives the item's key, as [[watch]]."
            )
        return list(spec.watch)
    if not own:
        return [WatchSpec(table=spec.table, key=spec.key), *spec.watch]
    if own[0].key != spec.key:
        raise SpecError(
            f"watch {spec.table}: its key must be the catalog's key, {spec.key!r}. "
            "Mend it, or leave this [[watch]] out: the catalog's own table is watched anyway."
        )
    return list(spec.watch)


def _watch(
    connection: sa.Connection, spec: CatalogSpec, catalog: Relation, wanted: WatchSpec
) -> Watch:
    is_own = wanted.table_name == catalog.name
    relation = catalog if is_own else relations.find(connection, wanted.table_name, "watch")
    _check_watchable(relation)
    columns = sorted(wanted.columns or (spec.columns if is_own else relation.columns))
    for name in columns:
        relations.column(relation, name, f"watch {relation.name} columns")
    compared = [
        relation.columns[name].compared(relations.quoted(name))
        for name in columns
        if name != wanted.key
    ]
    if wanted.key not in relation.columns:
        return _watch_by_expression(connection, relation, wanted.key, tuple(compared))
    key = relation.columns[wanted.key]
    if is_own and not key.is_key:
        raise CatalogUnwatchable(
            f"{relation.name}.{key.name} cannot be the key: its values must be unique and never "
            f"NULL. Make it so (ALTER TABLE {relation.name} ADD PRIMARY KEY ({key.name})), or name "
            "another column as `key`."
        )
    return Watch(
        relation=relation,
        key=relations.quoted(key.name),
        keys_are_array=key.is_array and not is_own,
        unique=key.is_key,
        steady=key.steady,
        compared=tuple(compared),
    )


def _watch_by_expression(
    connection: sa.Connection, relation: Relation, key: str, compared: tuple[str, ...]
) -> Watch:
    alias = relations.quoted(relation.name.name)
    # In WHERE no aggregate, window function or set may stand; two columns fit there nowhere.
    query = (
        f"SELECT ({key}\n) FROM {relations.quoted(relation.name)} AS {alias} "
        f"WHERE ({key}\n) IS NOT NULL"
    )
    path = str(connection.scalar(sa.text("SHOW search_path")))
    set_path = sa.text("SELECT set_config('search_path', :path, true)")
    try:
        with connection.begin_nested():
            connection.execute(set_path, {"path": "pg_catalog, pg_temp"})
            described = relations.probe(connection, query).cursor
            assert described is not None and described.description is not None, query
            oid = described.description[0][1]
            connection.execute(set_path, {"path": path})
    except exc.DBAPIError as cause:
        said = str(cause.orig).strip().splitlines()[0]
        raise SpecError(
            f"watch {relation.name}: key {key!r} is neither a column nor an expression over a row "
            f"of the table: {said}. {relations.near(key, list(relation.columns))} Functions and "
            "tables in an expression are written with their schema."
        ) from cause
    return Watch(
        relation=relation,
        key=f"({key}\n)",
        keys_are_array=bool(connection.scalar(_IS_ARRAY, {"oid": oid})),
        unique=False,
        steady=False,
        compared=compared,
    )


def _check_rights(connection: sa.Connection) -> None:
    if not connection.scalar(_MAY_ATTACH):
        raise CatalogUnwatchable(
            f"this user may not create functions in schema {SCHEMA}. "
            "Attach as the user that ran `twinspan migrate`."
        )


def _check_readable(catalog: Relation, spec: CatalogSpec) -> None:
    """The catalog's columns are there, may be read, and can hold what they are said to hold."""
    if catalog.kind == "m":
        raise CatalogUnwatchable(
            f"{catalog.name} is a materialized view: what REFRESH changes fires no trigger. "
            "Attach a plain view over the same tables instead."
        )
    if catalog.row_security:
        raise CatalogUnwatchable(
            f"row-level security may hide rows of {catalog.name} from user {catalog.me}, and "
            f"hidden items would be deleted. ALTER ROLE {catalog.me} BYPASSRLS."
        )
    read = {"key": Source(column=spec.key), **spec.sources}
    for place, source in read.items():
        column = relations.column(catalog, source.column, place)
        if not column.readable:
            raise CatalogUnwatchable(
                f"user {catalog.me} may not read {catalog.name}.{column.name}. "
                f"GRANT SELECT ON {catalog.name} TO {catalog.me}."
            )
        _check_type(catalog, column, source, place)


def _check_type(catalog: Relation, column: Column, source: Source, place: str) -> None:
    where = f"{place}: {catalog.name}.{column.name} is {column.type}"
    if column.scalar_type == "bytea" and place != "key":
        raise SpecError(f"{where}: bytes cannot be read as a value. Leave the column out.")
    if column.is_array and place == "key":
        raise SpecError(f"{where}: a key is one value. Name another column as `key`.")
    if source.path and not column.is_json:
        raise SpecError(f"{where}, not JSON: {str(source)!r} has nothing to go into.")
    kind = getattr(source, "kind", None)
    if kind == "geo" and isinstance(source, FieldSource) and source.lon is not None:
        kind = "float"
    if kind not in _KIND_TYPES or column.scalar_type in relations.JSON:
        return
    categories, wanted = _KIND_TYPES[kind]
    if column.category not in categories or column.scalar_type == "money":
        raise SpecError(f"{where}, which kind {kind!r} cannot read: it wants {wanted}.")


def _check_watchable(relation: Relation) -> None:
    name = relation.name
    schema_is_ours = name.schema in (SCHEMA, "information_schema") or name.schema.startswith("pg_")
    remedies = [
        (
            relation.persistence == "t",
            "it is temporary. Attach a permanent table.",
        ),
        (
            schema_is_ours,
            "it belongs to the system. Attach a table of your own.",
        ),
        (
            relation.kind == "v",
            "it is a view. Name the tables that it reads as [[watch]].",
        ),
        (
            relation.kind == "m",
            "it is a materialized view. Watch the tables that it reads.",
        ),
        (
            relation.kind == "f",
            "it is a foreign table, whose changes fire no triggers here. Attach "
            "it in the database where it lies.",
        ),
        (
            relation.kind == "p" or relation.is_partition,
            "it is partitioned, and rows that come or "
            "go with a partition fire no trigger. Keep the items in a plain table and attach that.",
        ),
        (
            relation.persistence == "u",
            f"it is unlogged, and a crash empties it unseen. ALTER TABLE {name} SET LOGGED.",
        ),
        (
            relation.subscribed,
            "it is filled by logical replication, which fires no statement "
            "triggers. Attach it in the database that publishes it.",
        ),
        (
            not relation.owned,
            f"triggers on it are for its owner, {relation.owner}, to make; you are "
            f"{relation.me}. Attach as {relation.owner}, or GRANT {relation.owner} TO "
            f"{relation.me}.",
        ),
    ]
    for applies, remedy in remedies:
        if applies:
            raise CatalogUnwatchable(f"{name} cannot be watched: {remedy}")


def _check_relatives(relation: Relation, watched: set[int]) -> None:
    """A statement fires the triggers of the table it names, also for rows of inheriting tables."""
    if set(relation.relatives) - watched:
        raise CatalogUnwatchable(
            f"{relation.name} cannot be watched alone: other tables inherit from it, or it from "
            "them, and a statement fires the triggers of the table that it names only. Attach a "
            "view, with a [[watch]] for each table of the family."
        )
