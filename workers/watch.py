"""The watcher: changes are routed, and indexes with work due are rung for.

Every worker has one, as a boot step; an advisory lock lets one of all of them lead. The leader is
whoever holds the connection that holds the lock: when its process dies or the connection breaks,
PostgreSQL frees the lock and another takes over within `FOLLOW_S`. Two leaders for a moment would
do no harm: routing has a lock of its own, and wake-ups may repeat.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

import psycopg
import sqlalchemy as sa

from indexer import changes, database, entries, entries_sql, indexes, schema, standing, tracing
from indexer.catalog import triggers
from indexer.errors import DatabaseUnavailable, TwinspanError
from indexer.settings import Settings
from workers.bell import Bell

log = logging.getLogger(__name__)

LEADER_LOCK = standing.LEADER_LOCK
FOLLOW_S = 2.0  # how often those who do not lead try to
PAUSE_S, PAUSE_MAX_S = 0.25, 5.0  # after an error, doubled each time in a row
LISTEN_S = 0.5  # how long a stop may wait for a listener
PURGES_PER_TOMBSTONE = 24  # a tombstone lives at most a twenty-fourth longer than asked
STOP_S = 10.0  # patience with the thread at the end

# A leader whose machine has vanished is noticed by PostgreSQL, and the other way round, in about
# ten seconds instead of the system's two hours.
KEEPALIVES = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "options": "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3",
}

_TRY_LOCK = sa.text("SELECT pg_try_advisory_lock(:key)")
_LOOK = sa.text(f"""
    SELECT last_value, EXISTS (SELECT FROM indexer.changes)
        OR EXISTS (SELECT FROM indexer.entries WHERE {entries_sql.DUE})
    FROM indexer.fences
""")


def engine(url: str) -> sa.Engine:
    """An engine whose lost connections are noticed soon. What the address sets itself stays."""
    plain = database.engine(url, pool_size=2)
    query = {**KEEPALIVES, **plain.url.query}
    careful = plain.url.update_query_dict(query)
    plain.dispose()
    return database.engine(careful.render_as_string(hide_password=False), pool_size=2)


class Watcher:
    """A thread that leads or waits to lead, from `start` until `stop`. Nothing that happens to
    database or broker ends it."""

    def __init__(self, settings: Settings, engine: sa.Engine, bell: Bell) -> None:
        self._settings = settings
        self._engine = engine
        self._bell = bell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="twinspan-watch", daemon=True)
        self._purged_at = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The lock is free and the thread gone, unless a server does not answer."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        pause_s = PAUSE_S
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                with closing(self._bell):
                    self._follow()
            except TwinspanError as cause:
                log.warning("the watcher waits: %s", cause)
            except Exception:
                log.exception("the watcher met a bug, and goes on")
            if time.monotonic() - started > PAUSE_MAX_S:  # it worked for a while
                pause_s = PAUSE_S
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    def _follow(self) -> None:
        """Lead as soon as nobody else does. Returns at the stop; raises for a lost connection."""
        with Lock(self._engine) as lock:
            schema.check(self._engine)
            while not self._stop.is_set():
                if lock.take():
                    if self._settings.notify:
                        lock.listen()
                    log.info("the watcher leads")
                    self._lead(lock)
                    return
                self._stop.wait(FOLLOW_S)

    def _lead(self, lock: Lock) -> None:
        while not self._stop.is_set():
            look = lock.look()
            moved = self._wake(look) if look.work else self._bell.ring((), fence=look.fence)
            self._purge()
            if not moved:
                self._wait(lock)

    def _wake(self, look: Look) -> int:
        """What is committed is routed, and every due index rung for. Returns the keys moved."""
        with tracing.span("wake"):
            moved = changes.route(self._engine, limit=self._settings.route_items)
            self._bell.ring(indexes.due(self._engine), fence=look.fence)
            return moved

    def _wait(self, lock: Lock) -> None:
        until = time.monotonic() + self._settings.poll_s
        if not self._settings.notify:
            self._stop.wait(self._settings.poll_s)
            return
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            if lock.notified(min(left, LISTEN_S)):
                return

    def _purge(self) -> None:
        every_s = self._settings.tombstone_s / PURGES_PER_TOMBSTONE
        if time.monotonic() - self._purged_at > every_s:
            self._purged_at = time.monotonic()
            gone = entries.purge(self._engine, tombstone_s=self._settings.tombstone_s)
            log.info("%d ledger rows of deleted items are gone", gone)


@dataclass(frozen=True, kw_only=True)
class Look:
    """`fence` is that of the newest claim, `work` whether anything is to be routed or claimed."""

    fence: int
    work: bool


class Lock:
    """A lock that one process of all holds, by default the leader's, and its connection; that also
    says which release is at work here, so that no migration leaves it behind. Every method raises
    DatabaseUnavailable when the connection is lost, and with it the lock."""

    def __init__(self, engine: sa.Engine, *, key: int = LEADER_LOCK) -> None:
        self._engine = engine
        self._key = key

    def __enter__(self) -> Self:
        with database.translated(self._engine):
            connection = self._engine.connect()
            self._connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            schema.announce(self._connection)
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
