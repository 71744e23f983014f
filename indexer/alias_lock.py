"""One change per alias at a time, over all machines: an advisory lock of PostgreSQL."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import exc

from indexer import database
from indexer.errors import IndexStateError

ALIAS_LOCK = 7_204  # first key of pg_advisory_lock(ALIAS_LOCK, hashtext(alias))


@contextmanager
def held(engine: sa.Engine, alias: str) -> Generator[sa.Connection]:
    """Nobody else changes the alias in the block. No transaction is open while the store works.
    Transactions of the block belong on the connection given: it holds the lock, so when it breaks,
    none of them succeeds any more. Raises IndexStateError while another holds the lock."""
    key = {"a": ALIAS_LOCK, "b": alias}
    with database.translated(engine), engine.connect() as connection:
        with connection.begin():
            lock = sa.text("SELECT pg_try_advisory_lock(:a, hashtext(:b))")
            taken = connection.scalar(lock, key)
        if not taken:
            raise IndexStateError(
                f"somebody else is changing alias {alias!r} right now. Look at `twinspan status`."
            )
        try:
            yield connection
        finally:
            _unlock(connection, key)


def _unlock(connection: sa.Connection, key: Mapping[str, object]) -> None:
    try:
        with connection.begin():
            connection.execute(sa.text("SELECT pg_advisory_unlock(:a, hashtext(:b))"), key)
    except exc.DBAPIError:  # the connection is gone, and the lock with it
        connection.invalidate()
