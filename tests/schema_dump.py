"""What a database's schemas hold, as text that is the same on every version of PostgreSQL.

`python tests/schema_dump.py ADDRESS` prints that of schema `indexer`, for migrations/schema.sql.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

IN_SCHEMAS = (
    "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = ANY(%s)"
)
WITHOUT_ALEMBIC = "AND c.relname NOT LIKE 'alembic%%'"
# An identity's sequence hangs on its column; but so does a partitioned table on its key's.
WITHOUT_IDENTITY = """
    AND NOT (c.relkind = 'S'
             AND EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'i'))
"""

RELATIONS = f"""
    SELECT c.oid, c.oid::regclass::text, c.relkind::text, pg_get_partkeydef(c.oid), c.reloptions,
           c.relacl::text, c.relpersistence::text, c.relrowsecurity
    {IN_SCHEMAS} AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') {WITHOUT_ALEMBIC}
    {WITHOUT_IDENTITY}
    ORDER BY n.nspname, c.relname
"""
COLUMNS = """
    SELECT attname, format_type(atttypid, atttypmod),
           (SELECT collname FROM pg_collation AS l WHERE l.oid = attcollation
              AND l.collname <> 'default'),
           attnotnull, pg_get_expr(adbin, adrelid), attidentity::text, attgenerated::text,
           attacl::text
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
# PostgreSQL 18 lists NOT NULL as constraints, too: the columns say it.
CONSTRAINTS = """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = %s AND contype <> 'n' ORDER BY 1
"""
INDEXES = """
    SELECT pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid = %s
      AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype <> 'f')
    ORDER BY 1
"""
TRIGGERS = """
    SELECT pg_get_triggerdef(oid), tgenabled::text FROM pg_trigger
    WHERE tgrelid = %s AND NOT tgisinternal ORDER BY 1
"""
VIEW = "SELECT pg_get_viewdef(%s::oid)"
FUNCTIONS = """
    SELECT pg_get_functiondef(p.oid), replace(p.proacl::text, pg_get_userbyid(p.proowner), 'OWNER')
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = ANY(%s) AND p.prokind IN ('f', 'p') ORDER BY n.nspname, p.proname, 1
"""
KINDS = {
    "r": "TABLE",
    "p": "TABLE",
    "v": "VIEW",
    "m": "MATERIALIZED VIEW",
    "S": "SEQUENCE",
    "f": "FOREIGN TABLE",
}


def dump(connection: psycopg.Connection[Any], schemas: Sequence[str]) -> str:
    """All tables, views, sequences, functions and triggers of the schemas, with privileges."""
    lines: list[str] = []
    for row in connection.execute(RELATIONS, [list(schemas)]).fetchall():
        lines += [*_relation(connection, *row), ""]
    for definition, privileges in connection.execute(FUNCTIONS, [list(schemas)]).fetchall():
        lines += [definition.rstrip() + ";", *_privileges(privileges), ""]
    return "\n".join(lines)


def _relation(
    connection: psycopg.Connection[Any],
    oid: int,
    name: str,
    kind: str,
    partition_key: str | None,
    options: list[str] | None,
    privileges: str | None,
    persistence: str,
    row_security: bool,
) -> Iterable[str]:
    columns = [] if kind == "S" else connection.execute(COLUMNS, [oid]).fetchall()
    constraints = connection.execute(CONSTRAINTS, [oid]).fetchall()
    parts = [_column(*column) for column in columns]
    parts += [f"CONSTRAINT {conname} {definition}" for conname, definition in constraints]
    clauses = [f"CREATE {'UNLOGGED ' if persistence == 'u' else ''}{KINDS[kind]} {name}"]
    if parts and kind in "rpf":
        clauses[0] += " (\n    " + ",\n    ".join(parts) + "\n)"
    if partition_key:
        clauses.append(f"PARTITION BY {partition_key}")
    if options:
        clauses.append("WITH (\n    " + ",\n    ".join(options) + "\n)")
    if kind in "vm":
        clauses.append(f"AS {_one(connection, VIEW, oid)}".rstrip(";"))
    yield " ".join(clauses) + ";"
    if row_security:
        yield f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;"
    yield from _privileges(privileges)
    for (definition,) in connection.execute(INDEXES, [oid]).fetchall():
        yield f"{definition};"
    for definition, enabled in connection.execute(TRIGGERS, [oid]).fetchall():
        yield f"{definition}; -- enabled {enabled}"


def _one(connection: psycopg.Connection[Any], query: str, oid: int) -> str:
    row = connection.execute(query, [oid]).fetchone()  # type: ignore[call-overload]
    assert row is not None, query
    return str(row[0])


def _column(
    name: str,
    type_name: str,
    collation: str | None,
    required: bool,
    default: str | None,
    identity: str,
    generated: str,
    privileges: str | None,
) -> str:
    words = [name, type_name]
    if collation:
        words.append(f'COLLATE "{collation}"')
    if required:
        words.append("NOT NULL")
    if default is not None:
        words.append(f"{'GENERATED' if generated else 'DEFAULT'} {default}")
    if identity:
        words.append(f"GENERATED {'ALWAYS' if identity == 'a' else 'BY DEFAULT'} AS IDENTITY")
    if privileges:
        words.append(f"/* privileges {privileges} */")
    return " ".join(words)


def _privileges(granted: str | None) -> list[str]:
    return [f"-- privileges {granted}"] if granted else []


if __name__ == "__main__":
    with psycopg.connect(sys.argv[1]) as opened:
        print(dump(opened, ["indexer"]), end="")
