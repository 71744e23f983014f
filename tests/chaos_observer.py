"""How long a committed change takes until the store shows it, seen from outside."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import psycopg

from indexer.indexes import Index
from indexer.stores.qdrant import QdrantStore

MARKS = 60  # items of the observer's own
EVERY_S = 0.25
LOOK_S = 0.04
PATIENCE_S = 120.0  # after the last commit


@dataclass(kw_only=True)
class Observer:
    """Inserts, updates and deletes items of its own, one a transaction, and looks into the store
    (past everything that is broken on purpose) until it shows each. `seconds` are the times."""

    url: str
    store: QdrantStore
    index: Index
    seconds: list[float] = field(default_factory=list[float])
    unknown: int = 0  # commits whose outcome nobody knows
    unseen: list[str] = field(default_factory=list[str])  # never shown: a lost change

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer")
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._pending: dict[str, tuple[str | None, float]] = {}  # key -> title, committed at
        self._present: set[str] = set()
        self._serial = 0

    def start(self) -> None:
        self._thread.start()

    def stop_writing(self) -> None:
        """It goes on looking for what it has committed."""
        self._stop.set()

    def finish(self) -> None:
        """Everything that was committed is seen, or in `unseen`."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(LOOK_S):
            if time.monotonic() >= due:
                self._change(f"mark-{self._serial % MARKS:02}")
                due = time.monotonic() + EVERY_S
            self._look()
        until = time.monotonic() + PATIENCE_S
        while self._pending and time.monotonic() < until:
            self._look()
            time.sleep(LOOK_S)
        self.unseen = sorted(self._pending)
        self._disconnect()

    def _change(self, key: str) -> None:
        """Insert, update and delete in turn; a change that is still under way is left alone."""
        self._serial += 1
        if key in self._pending:
            return
        goes = key in self._present and self._serial // MARKS % 3 == 2
        title = None if goes else f"mark {self._serial}"
        try:
            self._commit(key, title)
        except psycopg.Error:
            self.unknown += 1
            self._present.add(key)  # perhaps; a delete or an upsert is right either way
            self._disconnect()
            return
        self._pending[key] = (title, time.monotonic())
        (self._present.discard if goes else self._present.add)(key)

    def _commit(self, key: str, title: str | None) -> None:
        if self._connection is None:
            self._connection = psycopg.connect(self.url, connect_timeout=2, autocommit=True)
        if title is None:
            self._connection.execute("DELETE FROM public.items WHERE id = %s", (key,))
            return
        self._connection.execute(
            "INSERT INTO public.items (id, title) VALUES (%s, %s)"
            " ON CONFLICT (id) DO UPDATE SET title = excluded.title",
            (key, title),
        )

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _look(self) -> None:
        if not self._pending:
            return
        points = self.store.fetch(self.index.ref, list(self._pending), payload=("title",))
        now = time.monotonic()
        for key, (title, committed_at) in list(self._pending.items()):
            shown = points[key].payload["title"] if key in points else None
            if shown == title:
                self.seconds.append(now - committed_at)
                del self._pending[key]
