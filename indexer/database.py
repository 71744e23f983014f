"""Connections to PostgreSQL: one engine per process, errors translated in one place."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc

from indexer import metrics
from indexer.errors import DatabaseError, DatabaseUnavailable, SchemaMissing, UsageError

SCHEMA = "indexer"
CONNECT_TIMEOUT_S = 5

# SQLSTATE classes and codes that mean "not now": connection trouble, shutdown, resources, locks.
OUTAGE_CLASSES = ("08", "53", "57", "58")
TRANSIENT_CODES = ("40001", "40P01", "55P03", "25006")


def engine(url: str, *, pool_size: int = 5) -> sa.Engine:
    """An engine for `url` (postgresql://...). Connects on first use, never before: open it after
    fork. Raises UsageError for an address that is not PostgreSQL's."""
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError):  # a port that is no number
        raise UsageError(
            "database_url is not an address. Write postgresql://user:password@host:port/name."
        ) from None
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise UsageError(f"database_url must start with postgresql://, not {parsed.drivername}://.")
    return sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=10,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "twinspan",
            # Every statement is planned for what it is asked: a plan for any array of keys made an
            # ack of 512 items three times as slow. And poolers need no care.
            "prepare_threshold": None,
        },
    )


@contextmanager
def opened(url: str) -> Generator[sa.Engine]:
    """As `engine`; its connections are closed at the end."""
    made = engine(url)
    try:
        yield made
    finally:
        made.dispose()


@contextmanager
def begin(engine: sa.Engine) -> Generator[sa.Connection]:
    """A transaction: committed at the end, rolled back on any error, errors translated."""
    with translated(engine), engine.begin() as connection:
        yield connection


@contextmanager
def translated(engine: sa.Engine) -> Generator[None]:
    """Turn driver errors into ours; the address is shown without its password."""
    try:
        yield
    except exc.DBAPIError as cause:
        raise _counted(
            _translate(cause, engine.url.render_as_string(hide_password=True))
        ) from cause
    except exc.TimeoutError as cause:  # the pool is exhausted
        raise _counted(DatabaseUnavailable(f"no free connection to PostgreSQL: {cause}")) from cause


def _counted(error: DatabaseError) -> DatabaseError:
    metrics.database_failed(error)
    return error


def is_outage(error: exc.DBAPIError) -> bool:
    """Whether the statement may succeed later, unchanged."""
    code = getattr(error.orig, "sqlstate", None)
    if code is None:
        return isinstance(error.orig, psycopg.OperationalError | psycopg.InterfaceError)
    return code.startswith(OUTAGE_CLASSES) or code in TRANSIENT_CODES


def _translate(cause: exc.DBAPIError, address: str) -> DatabaseError:
    original = cause.orig
    code = getattr(original, "sqlstate", None)
    said = (
        str(original).strip().splitlines()[0] if str(original).strip() else type(original).__name__
    )
    if isinstance(original, psycopg.errors.UndefinedTable) and f"{SCHEMA}." in said:
        return SchemaMissing(f"{SchemaMissing.__doc__} PostgreSQL said: {said}")
    if is_outage(cause) or (code is not None and code.startswith("28")):
        return DatabaseUnavailable(
            f"PostgreSQL at {address} is not available: {said}. "
            "Check database_url, and that the server runs and accepts this user."
        )
    return DatabaseError(f"PostgreSQL at {address} refused a statement: {said}")
