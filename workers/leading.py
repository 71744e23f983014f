"""A thread of which one in all workers works at a time: whoever holds the connection that holds its
lock. When its process dies or the connection breaks, PostgreSQL frees the lock, and another takes
over.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

import psycopg
import sqlalchemy as sa

from indexer import database, schema, tables
from indexer.catalog import triggers
from indexer.errors import DatabaseUnavailable, TwinspanError

log = logging.getLogger(__name__)

STOP_S = 10.0  # patience with the thread at the end

_END_SILENCE = sa.text("SELECT set_config('idle_session_timeout', :ms, false)")
_TRY_LOCK = sa.text("SELECT pg_try_advisory_lock(:key)")
_LOOK = sa.text(f"""
    SELECT last_value, EXISTS (SELECT FROM indexer.changes)
        OR EXISTS (SELECT FROM indexer.entries WHERE {tables.DUE})
    FROM indexer.fences
""")


class Leading:
    """Leads or waits to lead, from `start` until `stop`. Nothing that happens to database, store or
    broker ends it: after an error it waits, twice as long each time in a row. `follow_s` is how
    often one that does not lead tries to, `silent_s` how long one that leads may not look. What a
    leader does is said by the methods at the end."""

    def __init__(
        self,
        *,
        name: str,
        key: int,
        silent_s: float,
        follow_s: float,
        pause_s: float,
        pause_max_s: float,
    ) -> None:
        self._name = name
        self._key = key
        self._silent_s = silent_s
        self._follow_s = follow_s
        self._pause_s = pause_s
        self._pause_max_s = pause_max_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"twinspan-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The lock is free and the thread gone, unless a server does not answer."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        pause_s = self._pause_s
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                try:
                    self._follow()
                finally:
                    self._left()
            except TwinspanError as cause:
                log.warning("the %s waits: %s", self._name, cause)
            except Exception:
                log.exception("the %s met a bug, and goes on", self._name)
            if time.monotonic() - started > self._pause_max_s:  # it worked for a while
                pause_s = self._pause_s
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, self._pause_max_s)
        self._ended()

    def _follow(self) -> None:
        """Lead as soon as nobody else does. Returns at the stop; raises for a lost connection."""
        engine = self._database()
        with Lock(engine, key=self._key, silent_s=self._silent_s) as lock:
            schema.check(engine)
            while not self._stop.is_set():
                if lock.take():
                    log.info("the %s leads", self._name)
                    self._lead(lock)
                    return
                self._stop.wait(self._follow_s)

    # -- what a kind of leader is ---------------------------------------------------------------

    def _database(self) -> sa.Engine:
        raise NotImplementedError

    def _lead(self, lock: Lock) -> None:
        """Work until the stop. Raises DatabaseUnavailable when the lock is lost."""
        raise NotImplementedError

    def _left(self) -> None:
        """Called in the thread each time that it has led or failed to."""

    def _ended(self) -> None:
        """Called in the thread at its end."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """`fence` is that of the newest claim, `work` whether anything is to be routed or claimed."""

    fence: int
    work: bool


class Lock:
    """A lock that one process of all holds, and its connection; that also says which release is at
    work here, so that no migration leaves it behind. Every method raises DatabaseUnavailable when
    the connection is lost, and with it the lock: also by PostgreSQL's own hand, when nothing was
    said for `silent_s` seconds. So a process that is stopped, or hangs, keeps no lock."""

    def __init__(self, engine: sa.Engine, *, key: int, silent_s: float) -> None:
        self._engine = engine
        self._key = key
        self._silent_s = silent_s

    def __enter__(self) -> Self:
        with database.translated(self._engine):
            connection = self._engine.connect()
            self._connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            schema.announce(self._connection)
            self._connection.execute(_END_SILENCE, {"ms": f"{round(1_000 * self._silent_s)}ms"})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """The connection is closed for good, which frees the lock and ends listening."""
        self._connection.invalidate()
        self._connection.close()

    def take(self) -> bool:
        """Whether this connection holds the lock now."""
        with database.translated(self._engine):
            return bool(self._connection.scalar(_TRY_LOCK, {"key": self._key}))

    def listen(self) -> None:
        with database.translated(self._engine):
            self._connection.execute(sa.text(f"LISTEN {triggers.CHANNEL}"))

    def notified(self, seconds: float) -> bool:
        """Whether a notification came within that time."""
        try:
            return any(True for _ in self._driver().notifies(timeout=seconds, stop_after=1))
        except psycopg.Error as cause:
            raise DatabaseUnavailable(f"PostgreSQL is gone while listening: {cause}") from cause

    def look(self) -> Look:
        """One cheap statement, many times a second; proves that the connection is alive."""
        with database.translated(self._engine):
            fence, work = self._connection.execute(_LOOK).one()
        return Look(fence=fence, work=work)

    def _driver(self) -> psycopg.Connection[tuple[object, ...]]:
        driver = self._connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection), driver
        return cast("psycopg.Connection[tuple[object, ...]]", driver)
