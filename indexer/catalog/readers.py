"""What roles of workers may read of users' tables: the columns that a catalog's description names.

Settled with every attach and detach, and when a role is given its rights; see `indexer.roles`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy import exc

from indexer import roles, tables
from indexer.catalog import relations
from indexer.catalog.relations import quoted
from indexer.catalog.spec import CatalogSpec, TableName
from indexer.errors import CatalogError

INSUFFICIENT_PRIVILEGE = "42501"

_RELATION = sa.text("""
    SELECT c.oid, n.nspname, has_schema_privilege(:role, n.oid, 'USAGE') AS may_enter
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relname = :name
""")
_COLUMNS = sa.text("""
    SELECT a.attname AS name, has_column_privilege(:role, a.attrelid, a.attnum, 'SELECT') AS may,
           EXISTS (
               SELECT FROM aclexplode(a.attacl) AS granted
               JOIN pg_roles AS r ON r.oid = granted.grantee AND r.rolname = :role
               WHERE granted.privilege_type = 'SELECT'
           ) AS granted
    FROM pg_attribute AS a
    WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
""")


def settle(connection: sa.Connection, also: Iterable[TableName] = ()) -> None:
    """Every worker's role may read those columns of the catalogs' tables that a description names,
    and of `also` no more than that. What is granted on a whole table is not touched, nor is the
    right to enter a schema taken back. Raises CatalogError with the SQL that somebody else has to
    run where this user may not grant it."""
    wanted: dict[TableName, set[str]] = {name: set() for name in also}
    for spec in specs(connection):
        wanted.setdefault(spec.table_name, set()).update((spec.key, *spec.columns))
    for role in roles.all_of(connection, "worker"):
        for name, columns in wanted.items():
            _settle(connection, role, name, columns)


def withdraw(connection: sa.Connection, role: str) -> None:
    """The role may read no column of the catalogs' tables by a right that was given to it alone."""
    for name in {spec.table_name for spec in specs(connection)}:
        _settle(connection, role, name, set())


def specs(connection: sa.Connection) -> list[CatalogSpec]:
    """The descriptions of all attached catalogs."""
    found = connection.scalars(sa.select(tables.catalogs.c.spec).order_by(tables.catalogs.c.id))
    return [CatalogSpec.model_validate(one) for one in found]


def _settle(connection: sa.Connection, role: str, name: TableName, wanted: set[str]) -> None:
    surplus, needed = _differences(connection, role, name, wanted)
    for sql in (*surplus, *needed):
        _run_if_allowed(connection, sql)
    _, lacking = _differences(connection, role, name, wanted)
    if lacking:
        raise CatalogError(
            f"role {role!r} of the workers cannot read {name}, and this user may not let it. "
            f"Have the owner run: {'; '.join(lacking)}; then try again."
        )


def _differences(
    connection: sa.Connection, role: str, name: TableName, wanted: set[str]
) -> tuple[list[str], list[str]]:
    """SQL that takes back what the role may read too much, and that gives what it lacks."""
    relation = connection.execute(_RELATION, {"role": role, **name._asdict()}).one_or_none()
    if relation is None:  # dropped since
        return [], []
    columns = connection.execute(_COLUMNS, {"role": role, "oid": relation.oid}).all()
    surplus = [one.name for one in columns if one.granted and one.name not in wanted]
    missing = [one.name for one in columns if one.name in wanted and not one.may]
    table, whom = quoted(name), quoted(role)
    revokes = [f"REVOKE SELECT ({_list(surplus)}) ON {table} FROM {whom}"] if surplus else []
    grants = [f"GRANT SELECT ({_list(missing)}) ON {table} TO {whom}"] if missing else []
    if wanted and not relation.may_enter:
        grants.insert(0, f"GRANT USAGE ON SCHEMA {quoted(name.schema)} TO {whom}")
    return revokes, grants


def _run_if_allowed(connection: sa.Connection, sql: str) -> None:
    """PostgreSQL warns or fails where somebody may not grant, depending on what else he may."""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql("SET LOCAL client_min_messages = error")
            relations.execute(connection, sql)
    except exc.DBAPIError as cause:
        if getattr(cause.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise


def _list(columns: Sequence[str]) -> str:
    return ", ".join(quoted(column) for column in columns)
