"""The schema `indexer` in PostgreSQL: brought to this release's revision, or compared with it.

The revisions lie in package `migrations`. `check` is cheap and imports no alembic.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import sqlalchemy as sa

from indexer import database
from indexer.database import SCHEMA
from indexer.errors import DatabaseError, SchemaMissing, SchemaOutdated, SchemaTooNew

REVISIONS = ("0001", "0002")  # of this release, oldest first; a test keeps it true
HEAD = REVISIONS[-1]

VERSION_TABLE = "alembic_version"
MIGRATE_LOCK = 7_204_002  # pg_advisory_xact_lock key: one migration at a time per database


def migrate(engine: sa.Engine) -> str:
    """The schema is at this release's revision, which is returned; all of it in one transaction,
    and one migration at a time. Raises SchemaTooNew when a newer release was here before."""
    from alembic import command
    from alembic.config import Config

    _check_server(engine)
    with database.begin(engine) as connection:
        prepare(connection)
        found = _revision(connection)
        if found is not None and found not in REVISIONS:
            raise _too_new(found)
        if found != HEAD:
            config = Config()
            config.set_main_option("script_location", _script_location())
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return HEAD


def check(engine: sa.Engine) -> None:
    """Returns when the schema is the one that this release was made for. Raises SchemaMissing,
    SchemaOutdated or SchemaTooNew."""
    with database.begin(engine) as connection:
        found = _revision(connection)
    if found is None:
        raise SchemaMissing(SchemaMissing.__doc__)
    if found not in REVISIONS:
        raise _too_new(found)
    if found != HEAD:
        raise SchemaOutdated(
            f"The schema {SCHEMA} is at revision {found}, this release needs {HEAD}. "
            "Run `twinspan migrate`."
        )


def prepare(connection: sa.Connection) -> None:
    """No other migration runs, and schema `indexer` is there to hold alembic's version table."""
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATE_LOCK})
    connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))


def configure(context: Any, **options: object) -> None:
    """What every run of alembic here has in common."""
    context.configure(
        version_table=VERSION_TABLE,
        version_table_schema=SCHEMA,
        include_schemas=True,
        include_name=is_ours,
        compare_type=True,
        compare_server_default=True,
        **options,
    )


def is_ours(name: str | None, kind: str, parents: dict[str, str | None]) -> bool:
    """Whether alembic shall compare this: our schema, and of schema public only `items`."""
    if kind == "schema":
        return name in {SCHEMA, "public", None}
    if kind == "table" and parents.get("schema_name") != SCHEMA:
        return name == "items"
    return kind != "table" or name != VERSION_TABLE


def _check_server(engine: sa.Engine) -> None:
    with database.begin(engine) as connection:
        number = connection.scalar(sa.text("SELECT current_setting('server_version_num')::int"))
    if number is not None and number < 150_000:
        raise DatabaseError(
            f"PostgreSQL {number // 10_000} is too old. Twinspan needs PostgreSQL 15 or newer."
        )


def _revision(connection: sa.Connection) -> str | None:
    """The revision that the database is at; None when it was never migrated."""
    table = f"{SCHEMA}.{VERSION_TABLE}"
    if connection.scalar(sa.text("SELECT to_regclass(:table)"), {"table": table}) is None:
        return None
    return connection.scalar(sa.text(f"SELECT max(version_num) FROM {table}"))


def _script_location() -> str:
    return str(resources.files("migrations"))


def _too_new(found: str) -> SchemaTooNew:
    return SchemaTooNew(
        f"The schema {SCHEMA} is at revision {found}, which this release does not know "
        f"(it knows up to {HEAD}). Upgrade twinspan."
    )
