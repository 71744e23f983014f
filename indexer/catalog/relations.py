"""What PostgreSQL knows of the tables that a catalog names, and whether triggers can watch them.

`resolve` compares a description with the database and raises SpecError (the file is wrong) or
CatalogUnwatchable (the table is); afterwards attaching can fail only for lack of a lock.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql

from indexer.catalog.spec import CatalogSpec, FieldSource, Source, TableName, WatchSpec
from indexer.database import SCHEMA
from indexer.errors import CatalogUnwatchable, SpecError

# Text forms and readings that depend on the session are pinned wherever we run.
PINNED = {
    "datestyle": "ISO, YMD",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
}

# Types whose text form no setting of a session changes.
_STEADY = (
    *("bool", "int2", "int4", "int8", "numeric", "text", "varchar", "bpchar", "name", "char"),
    *("uuid", "citext", "inet", "cidr", "macaddr", "macaddr8", "oid", "xid8", "bit", "varbit"),
    "ltree",
)
# Types whose `=` is equality. The others are compared by their text: json has no `=`, that of path
# counts points, that of interval takes a day for 24 hours, that of citext ignores case.
_EXACT = (
    *("bool", "int2", "int4", "int8", "float4", "float8", "numeric", "text", "varchar", "bpchar"),
    *("name", "uuid", "jsonb", "bytea", "date", "time", "timetz", "timestamp", "timestamptz"),
)
_JSON = ("json", "jsonb")
_QUOTING = postgresql.dialect(paramstyle="named").identifier_preparer  # leaves % alone
_KIND_TYPES: dict[str, tuple[str, str]] = {  # kind -> typcategories, in words
    "number": ("NSB", "a number"),
    "integer": ("NSB", "a number"),
    "float": ("NSB", "a number"),
    "bool": ("BSN", "a bool"),
    "datetime": ("DS", "a date or time"),
    "geo": ("", "JSON with lat and lon (or name two columns: lat and lon)"),
}

_RELATION = sa.text("""
    SELECT c.oid, c.relkind::text AS kind, c.relpersistence::text AS persistence,
           c.relispartition AS is_partition, pg_has_role(c.relowner, 'USAGE') AS owned,
           pg_get_userbyid(c.relowner) AS owner, current_user AS me,
           c.relkind IN ('r', 'p') AND row_security_active(c.oid) AS row_security,
           ARRAY(SELECT inhparent FROM pg_inherits WHERE inhrelid = c.oid)
               || ARRAY(SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid) AS relatives,
           EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = c.oid) AS subscribed
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relname = :name
""")
_COLUMNS = sa.text("""
    SELECT a.attname AS name, format_type(a.atttypid, -1) AS type,
           coalesce(element.typname, base.typname) AS scalar_type,
           coalesce(element.typcategory, base.typcategory)::text AS category,
           coalesce(element.typtype, base.typtype)::text AS typtype,
           element.oid IS NOT NULL AS is_array,
           coalesce(l.collisdeterministic, true) AS deterministic,
           has_column_privilege(a.attrelid, a.attnum, 'SELECT') AS readable,
           a.attnotnull AND EXISTS (
               SELECT FROM pg_index AS i
               WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indisvalid
                 AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
                 AND i.indpred IS NULL AND i.indexprs IS NULL
           ) AS is_key
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    JOIN pg_type AS base ON base.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
    LEFT JOIN pg_type AS element ON element.oid = base.typelem AND base.typcategory = 'A'
    LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
    WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
""")
_COLUMN_TYPE = sa.text("""
    SELECT format_type(a.atttypid, -1)
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relname = :name AND a.attname = :column
""")
_TABLES = sa.text("""
    SELECT n.nspname AS schema, c.relname AS name
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'v', 'p', 'm', 'f') AND n.nspname <> 'information_schema'
      AND n.nspname NOT LIKE 'pg\\_%'
""")
_IS_ARRAY = sa.text("SELECT typcategory = 'A' FROM pg_type WHERE oid = :oid")
_MAY_ATTACH = sa.text(f"""
    SELECT has_schema_privilege('{SCHEMA}', 'CREATE')
       AND has_table_privilege('{SCHEMA}.changes', 'INSERT')
""")


@dataclass(frozen=True, kw_only=True)
class Column:
    """`type` is its name in SQL without a length; `scalar_type` and `category` are pg_type's, of
    the element where it is an array, of the base where it is a domain."""

    name: str
    type: str
    scalar_type: str
    category: str
    typtype: str
    is_array: bool
    deterministic: bool
    readable: bool
    is_key: bool

    @property
    def is_json(self) -> bool:
        return self.scalar_type in _JSON and not self.is_array

    @property
    def steady(self) -> bool:
        return not self.is_array and (self.scalar_type in _STEADY or self.typtype == "e")

    def compared(self, quoted: str) -> str:
        """SQL whose values differ whenever the column's values do."""
        if not self.deterministic:
            return f'{quoted}::text COLLATE "C"'
        exact = self.scalar_type in _EXACT or self.typtype == "e"
        return quoted if exact else f"{quoted}::text"


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A table or view as it is now."""

    oid: int
    name: TableName
    kind: str
    persistence: str
    is_partition: bool
    owned: bool
    owner: str
    me: str
    row_security: bool
    relatives: Sequence[int]
    subscribed: bool
    columns: dict[str, Column]

    @property
    def is_view(self) -> bool:
        return self.kind == "v"


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
    catalog = _find(connection, spec.table_name, "table")
    _check_readable(catalog, spec)
    watches = [_watch(connection, spec, catalog, one) for one in _wanted(spec, catalog)]
    for watch in watches:
        _check_relatives(watch.relation, {other.relation.oid for other in watches})
    return sorted(watches, key=lambda watch: watch.relation.oid)


def describe(connection: sa.Connection, name: TableName) -> Relation | None:
    """The relation of that name, None when there is none."""
    row = connection.execute(_RELATION, name._asdict()).mappings().one_or_none()
    if row is None:
        return None
    columns = [
        Column(**one) for one in connection.execute(_COLUMNS, {"oid": row["oid"]}).mappings()
    ]
    return Relation(name=name, columns={column.name: column for column in columns}, **row)


def column_type(connection: sa.Connection, name: TableName, column: str) -> str | None:
    """SQL's name of the column's type, None when there is no such column."""
    return connection.scalar(_COLUMN_TYPE, {**name._asdict(), "column": column})


def quoted(name: str | TableName) -> str:
    """As an identifier in SQL that is run by `execute`."""
    quote = _QUOTING.quote_identifier
    return quote(name) if isinstance(name, str) else ".".join(quote(part) for part in name)


def execute(connection: sa.Connection, sql: str) -> sa.CursorResult[tuple[object, ...]]:
    """Run SQL that was put together here, parameters none: `%` and `:` mean themselves."""
    return connection.exec_driver_sql(sql.replace("%", "%%"))


def near(name: str, known: Sequence[str]) -> str:
    """A hint for a message: the names that come nearest, or those that there are."""
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if found:
        return f"Did you mean {' or '.join(repr(one) for one in found)}?"
    return f"There is: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}."


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
    relation = catalog if is_own else _find(connection, wanted.table_name, "watch")
    _check_watchable(relation)
    columns = wanted.columns or (spec.columns if is_own else tuple(relation.columns))
    for name in columns:
        _column(relation, name, f"watch {relation.name} columns")
    compared = [
        relation.columns[name].compared(quoted(name)) for name in columns if name != wanted.key
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
        key=quoted(key.name),
        keys_are_array=key.is_array and not is_own,
        unique=key.is_key,
        steady=key.steady,
        compared=tuple(compared),
    )


def _watch_by_expression(
    connection: sa.Connection, relation: Relation, key: str, compared: tuple[str, ...]
) -> Watch:
    alias = quoted(relation.name.name)
    probe = f"SELECT ({key}\n) FROM {quoted(relation.name)} AS {alias} LIMIT 0"
    path = str(connection.scalar(sa.text("SHOW search_path")))
    set_path = sa.text("SELECT set_config('search_path', :path, true)")
    try:
        with connection.begin_nested():
            connection.execute(set_path, {"path": "pg_catalog, pg_temp"})
            described = execute(connection, probe).cursor
            assert described is not None and described.description is not None, probe
            oid = described.description[0][1]
            connection.execute(set_path, {"path": path})
    except exc.DBAPIError as cause:
        said = str(cause.orig).strip().splitlines()[0]
        raise SpecError(
            f"watch {relation.name}: key {key!r} is neither a column nor an expression over a row "
            f"of the table: {said}. {near(key, list(relation.columns))} Functions and tables in an "
            "expression are written with their schema."
        ) from cause
    return Watch(
        relation=relation,
        key=f"({key}\n)",
        keys_are_array=bool(connection.scalar(_IS_ARRAY, {"oid": oid})),
        unique=False,
        steady=False,
        compared=compared,
    )


def _find(connection: sa.Connection, name: TableName, place: str) -> Relation:
    found = describe(connection, name)
    if found is None:
        known = [str(TableName(*row)) for row in connection.execute(_TABLES)]
        raise SpecError(f"{place}: there is no table {name}. {near(str(name), known)}")
    return found


def _column(relation: Relation, name: str, place: str) -> Column:
    if name not in relation.columns:
        raise SpecError(
            f"{place}: table {relation.name} has no column {name!r}. "
            f"{near(name, list(relation.columns))}"
        )
    return relation.columns[name]


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
        column = _column(catalog, source.column, place)
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
    if kind not in _KIND_TYPES or column.scalar_type in _JSON:
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
