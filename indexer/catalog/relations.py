"""What PostgreSQL knows of a table or view: what it is, its columns, their types.

Also the SQL that depends on it: identifiers quoted, statements put together by us run as they are.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from indexer.catalog.spec import TableName
from indexer.errors import SpecError

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
JSON = ("json", "jsonb")
_QUOTING = postgresql.dialect(paramstyle="named").identifier_preparer  # leaves % alone
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
_TABLES = sa.text("""
    SELECT n.nspname AS schema, c.relname AS name
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'v', 'p', 'm', 'f') AND n.nspname <> 'information_schema'
      AND n.nspname NOT LIKE 'pg\\_%'
""")
_COLUMN_TYPE = sa.text("""
    SELECT format_type(a.atttypid, -1)
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relname = :name AND a.attname = :column
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
        return self.scalar_type in JSON and not self.is_array

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


def probe(connection: sa.Connection, sql: str) -> sa.CursorResult[tuple[object, ...]]:
    """A query's columns, without its rows. PostgreSQL refuses it when it is more than one query:
    with a parameter there can be no second statement, without one the query can name none."""
    escaped = sql.replace("%", "%%")
    connection.exec_driver_sql(f"{escaped} LIMIT %(rows)s", {"rows": 0})
    return execute(connection, f"{sql} LIMIT 0")


def near(name: str, known: Sequence[str]) -> str:
    """A hint for a message: the names that come nearest, or those that there are."""
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if found:
        return f"Did you mean {' or '.join(repr(one) for one in found)}?"
    return f"There is: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}."


def find(connection: sa.Connection, name: TableName, place: str) -> Relation:
    """The relation of that name. Raises SpecError, with the names that come near."""
    found = describe(connection, name)
    if found is None:
        known = [str(TableName(*row)) for row in connection.execute(_TABLES)]
        raise SpecError(f"{place}: there is no table {name}. {near(str(name), known)}")
    return found


def column(relation: Relation, name: str, place: str) -> Column:
    """The column of that name. Raises SpecError, with the names that come near."""
    if name not in relation.columns:
        raise SpecError(
            f"{place}: table {relation.name} has no column {name!r}. "
            f"{near(name, list(relation.columns))}"
        )
    return relation.columns[name]
