"""What alembic runs: on the connection that `indexer.schema.migrate` hands over, or by hand on
the database that `TWINSPAN_DATABASE_URL` (or twinspan.toml) names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError

from indexer import database, schema, settings, tables
from indexer.errors import TwinspanError


def run_by_hand() -> None:
    """Migrate, or write the SQL of it where alembic was given --sql."""
    if context.is_offline_mode():
        schema.configure(context, dialect_name="postgresql", literal_binds=True)
        with context.begin_transaction():
            context.execute(f"CREATE SCHEMA IF NOT EXISTS {database.SCHEMA}")
            context.run_migrations()
        return
    url = settings.load().database_url
    if url is None:
        raise CommandError("Set TWINSPAN_DATABASE_URL to the address of your database.")
    engine = database.engine(url.get_secret_value())
    try:
        with database.begin(engine) as connection:
            run_on(connection)
    finally:
        engine.dispose()


def run_on(connection: sa.Connection) -> None:
    """Everything in the connection's transaction, one migration at a time."""
    schema.prepare(connection)
    schema.configure(context, connection=connection, target_metadata=tables.metadata)
    context.run_migrations()
    schema.finish(connection)


given = context.config.attributes.get("connection")
if given is not None:
    run_on(given)
else:
    try:
        run_by_hand()
    except TwinspanError as cause:
        raise CommandError(str(cause)) from cause
