"""A session that writes all the time, and how soon the live index shows each change."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Self

import psycopg
from edge_server import SharedEdge

from indexer.indexes import Index

FIXED = 500  # items that are never written to
LOOK_S = 0.01


class Writer:
    """One change a transaction, evenly paced, each looked for in the live index until it shows."""

    def __init__(self, url: str, store: SharedEdge, items: int, per_second: float) -> None:
        self._url, self._store, self._items = url, store, items
        self._pause_s = 1 / per_second
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._pending: dict[str, tuple[str, float, str]] = {}  # key -> title, at, phase
        self.seen: dict[str, list[float]] = {}
        self.index: Index | None = None  # where to look
        self.phase = ""
        self.changes = 0
        self._threads = [threading.Thread(target=one) for one in (self._write, self._look)]

    def __enter__(self) -> Self:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._threads:
            one.join()

    def count(self, phase: str) -> int:
        return len(self.seen.get(phase, ()))

    def _write(self) -> None:
        due = time.monotonic()
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due += self._pause_s
                self._change(connection)

    def _change(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        """Upserts in turn over new and old items; every tenth is followed by a delete elsewhere."""
        self.changes += 1
        number = FIXED + self.changes * 7 % (self._items + 1_000)
        key, title = f"item-{number}", f"word{self.changes} written{self.changes}"
        connection.execute(
            "INSERT INTO public.items (id, title) VALUES (%s, %s)"
            " ON CONFLICT (id) DO UPDATE SET title = excluded.title",
            (key, title),
        )
        with self._lock:
            self._pending[key] = (title, time.monotonic(), self.phase)
        if self.changes % 10 == 0:
            other = FIXED + (number + self._items // 2) % self._items
            connection.execute("DELETE FROM public.items WHERE id = %s", (f"item-{other}",))

    def _look(self) -> None:
        while not self._stop.wait(LOOK_S):
            with self._lock:
                pending = dict(self._pending)
            if pending and self.index is not None:
                self._see(pending, self._store.fetch(self.index.ref, list(pending)[:100]))

    def _see(
        self, pending: Mapping[str, tuple[str, float, str]], points: Mapping[str, Any]
    ) -> None:
        now = time.monotonic()
        for key, (title, at, phase) in pending.items():
            if key in points and points[key].payload["title"] == title:
                self.seen.setdefault(phase, []).append(1_000 * (now - at))
                with self._lock:
                    if self._pending.get(key, ("",))[0] == title:
                        del self._pending[key]
