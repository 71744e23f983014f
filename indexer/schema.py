"""The schema `indexer` in PostgreSQL: brought to this release's revision, or compared with it.

The revisions lie in package `migrations`. `check` is cheap and imports no alembic.

Releases side by side: a revision that only adds (expands) leaves older releases at work. One that
takes something away (contracts) raises `indexer.compatibility.oldest`, and can be made only when no
worker of an older release runs, each of which holds a shared lock on its release's revision.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import sqlalchemy as sa

from indexer import database, roles, tables
from indexer.database import SCHEMA
from indexer.errors import DatabaseError, SchemaInUse, SchemaMissing, SchemaOutdated, SchemaTooNew

REVISIONS = ("0001", "0002", "0003", "0004", "0006", "0007")  # oldest first; a test keeps it true
HEAD = REVISIONS[-1]

VERSION_TABLE = "alembic_version"
MIGRATE_LOCK = 7_204_002  # pg_advisory_xact_lock key: one migration at a time per database
RELEASE_LOCK = 7_204_006  # first of two keys; the second is the revision of a worker's release

_AT_WORK = sa.text("""
    SELECT objid AS revision, count(*) AS workers FROM pg_locks
    WHERE locktype = 'advisory' AND classid = :lock AND objsubid = 2 AND granted
      AND mode = 'ShareLock'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    GROUP BY 1 ORDER BY 1
""")


def migrate(engine: sa.Engine) -> str:
    """The schema is at this release's revision, or at a later one that this release can work on;
    returns which. All of it in one transaction, and one migration at a time. Raises SchemaTooNew
    when a newer release has left this one behind, SchemaInUse when this one would leave workers of
    an older release behind that still run; then nothing was changed."""
    from alembic import command
    from alembic.config import Config

    _check_server(engine)
    with database.begin(engine) as connection:
        prepare(connection)
        found = _revision(connection)
        if found is not None and found not in REVISIONS:
            _check_compatible(connection, found)
            return found
        if found != HEAD:
            config = Config()
            config.set_main_option("script_location", _script_location())
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return HEAD


def check(engine: sa.Engine) -> str:
    """The revision of the schema, when it is the one that this release was made for, or a later one
    that says that this release can work on it. Raises SchemaMissing, SchemaOutdated or
    SchemaTooNew."""
    with database.begin(engine) as connection:
        found = _revision(connection)
        if found is None:
            raise SchemaMissing(SchemaMissing.__doc__)
        if found not in REVISIONS:
            _check_compatible(connection, found)
            return found
    if found != HEAD:
        raise SchemaOutdated(
            f"The schema {SCHEMA} is at revision {found}, this release needs {HEAD}. "
            "Run `twinspan migrate`."
        )
    return found


def announce(connection: sa.Connection) -> None:
    """As long as this connection lives, no migration leaves this release behind. Waits for one that
    is about to: check the schema afterwards."""
    lock = sa.text("SELECT pg_advisory_lock_shared(:lock, :revision)")
    connection.execute(lock, {"lock": RELEASE_LOCK, "revision": int(HEAD)})


def at_work(engine: sa.Engine) -> dict[str, int]:
    """How many workers are at work, by the revision that their release was made for."""
    with database.begin(engine) as connection:
        found = connection.execute(_AT_WORK, {"lock": RELEASE_LOCK})
        return {f"{row.revision:04}": row.workers for row in found}


def prepare(connection: sa.Connection) -> None:
    """No other migration runs, and schema `indexer` is there to hold alembic's version table."""
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATE_LOCK})
    connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))


def finish(connection: sa.Connection) -> None:
    """After the last revision: roles have the rights that it gives to their purpose, and no worker
    is at work whose release it leaves behind, until our transaction ends. Raises SchemaInUse."""
    oldest = _oldest(connection)
    if oldest is None:  # a revision from before roles and this rule
        return
    roles.permit_again(connection)
    lock = sa.text("SELECT pg_try_advisory_xact_lock(:lock, :revision)")
    for revision in (one for one in REVISIONS if one < oldest):
        if not connection.scalar(lock, {"lock": RELEASE_LOCK, "revision": int(revision)}):
            raise SchemaInUse(
                f"workers of an older release (schema {revision}) are still running, and this "
                "migration takes away what they need. Nothing was changed. Stop them (SIGTERM: "
                "they give their work back), then run `twinspan migrate` again."
            )


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


def _oldest(connection: sa.Connection) -> str | None:
    """The revision whose release is the oldest that can work here; None when nothing says so."""
    table = f"{SCHEMA}.compatibility"
    if connection.scalar(sa.text("SELECT to_regclass(:table)"), {"table": table}) is None:
        return None
    return connection.scalar(sa.select(tables.compatibility.c.oldest))


def _check_compatible(connection: sa.Connection, found: str) -> None:
    """Raises SchemaTooNew unless the schema, which is newer, says that this release can work."""
    if _oldest(connection) not in REVISIONS:
        raise SchemaTooNew(
            f"The schema {SCHEMA} is at revision {found}, which this release cannot work on "
            f"(it knows up to {HEAD}). Upgrade twinspan."
        )


def _script_location() -> str:
    return str(resources.files("migrations"))
