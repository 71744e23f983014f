"""The watcher: changes are routed, and indexes with work due are rung for.

Every worker has one, as a boot step; one of all of them leads (`workers/leading.py`). When it is
gone, another takes over within `FOLLOW_S`. Two leaders for a moment would do no harm: routing has a
lock of its own, and wake-ups may repeat.
"""

from __future__ import annotations

import logging
import time

import sqlalchemy as sa

from indexer import changes, database, entries, indexes, standing, tracing
from indexer.settings import Settings
from workers.bell import Bell
from workers.leading import Leading, Lock, Look

log = logging.getLogger(__name__)

LEADER_LOCK = standing.LEADER_LOCK
SILENT_S = 20.0  # on top of two polls: a leader that does not look for longer leads no more
FOLLOW_S = 2.0  # how often those who do not lead try to
PAUSE_S, PAUSE_MAX_S = 0.25, 5.0  # after an error, doubled each time in a row
LISTEN_S = 0.5  # how long a stop may wait for a listener
PURGES_PER_TOMBSTONE = 24  # a tombstone lives at most a twenty-fourth longer than asked

# A leader whose machine has vanished is noticed by PostgreSQL, and the other way round, in about
# ten seconds instead of the system's two hours.
KEEPALIVES = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "options": "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3",
}


def engine(url: str) -> sa.Engine:
    """An engine whose lost connections are noticed soon. What the address sets itself stays."""
    plain = database.engine(url, pool_size=2)
    query = {**KEEPALIVES, **plain.url.query}
    careful = plain.url.update_query_dict(query)
    plain.dispose()
    return database.engine(careful.render_as_string(hide_password=False), pool_size=2)


class Watcher(Leading):
    """Routes and rings, or waits to, from `start` until `stop`."""

    def __init__(self, settings: Settings, engine: sa.Engine, bell: Bell) -> None:
        super().__init__(
            name="watcher",
            key=LEADER_LOCK,
            silent_s=SILENT_S + 2 * settings.poll_s,
            follow_s=FOLLOW_S,
            pause_s=PAUSE_S,
            pause_max_s=PAUSE_MAX_S,
        )
        self._settings = settings
        self._engine = engine
        self._bell = bell
        self._purged_at = time.monotonic()

    def _database(self) -> sa.Engine:
        return self._engine

    def _left(self) -> None:
        self._bell.close()

    def _lead(self, lock: Lock) -> None:
        if self._settings.notify:
            lock.listen()
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
