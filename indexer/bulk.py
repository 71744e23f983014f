"""Many rows into PostgreSQL at once, by COPY, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy import exc

from indexer.errors import UsageError


def copy_rows(
    connection: sa.Connection,
    table: Sequence[str],
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
) -> None:
    """Every row is in `table` (schema and name, or name), in order. An error that `rows` raises
    passes through and fails the transaction, so that nothing is half there."""
    raw = cast(psycopg.Connection, connection.connection.driver_connection)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(*table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    try:
        with raw.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as cause:
        if cause.sqlstate is None and isinstance(cause, psycopg.DataError):
            raise UsageError(f"a row cannot be stored: {cause}. Nothing was written.") from cause
        raise exc.DBAPIError("COPY", None, cause) from cause
    except UnicodeEncodeError as cause:
        raise UsageError(
            f"a row cannot be stored: {cause.reason} in {cause.object[:40]!r}. Nothing was written."
        ) from cause
