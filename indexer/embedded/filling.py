"""Backfills in the background, one after the other; those that were interrupted go on."""

from __future__ import annotations

import logging
import queue
import threading

import sqlalchemy as sa

from indexer import indexes, reindex
from indexer.errors import IndexStateError, TwinspanError
from indexer.stores import VectorStore

log = logging.getLogger(__name__)

RETRY_S = 5.0  # after an outage
STOP_S = 30.0  # one chunk of keys takes well under a second


class Filler:
    """A thread that gives the items of building indexes their entries. A stop between two chunks
    loses nothing: the cursor is in the database."""

    def __init__(self, engine: sa.Engine, store: VectorStore) -> None:
        self._engine = engine
        self._store = store
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="twinspan-fill", daemon=True)

    def start(self) -> None:
        for index in indexes.active(self._engine):
            if not index.backfill_done:
                self.add(index.id)
        self._thread.start()

    def add(self, index_id: int) -> None:
        """This index is filled when those before it are."""
        self._waiting.put(index_id)

    def stop(self) -> None:
        self._stop.set()
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while (index_id := self._waiting.get()) is not None and not self._stop.is_set():
            try:
                self._fill(index_id)
            except IndexStateError as cause:
                log.info("the backfill of index %d ends: %s", index_id, cause)
            except TwinspanError as cause:
                log.warning("the backfill of index %d waits: %s", index_id, cause)
                if not self._stop.wait(RETRY_S):
                    self.add(index_id)
            except Exception:
                log.exception("the backfill of index %d ended", index_id)

    def _fill(self, index_id: int) -> None:
        if not indexes.is_active(self._engine, index_id):
            return
        index = reindex.resume(self._engine, self._store, index_id)
        if index.backfill_done:
            return
        for _ in reindex.fill(self._engine, index):
            if self._stop.is_set():
                return
