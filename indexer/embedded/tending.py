"""Keeping the embedded store's searches fast: a collection that outgrew scans gets a graph.

A Qdrant server does that by itself. Qdrant Edge builds a graph only when it is asked, so the
process that owns it asks, one collection at a time, in the background: the store works on a copy in
a child process, and reads and writes go on meanwhile.
"""

from __future__ import annotations

import logging
import threading

import sqlalchemy as sa

from indexer import indexes
from indexer.errors import TwinspanError
from indexer.stores import VectorStore

log = logging.getLogger(__name__)

LOOK_S = 30.0  # between two looks; high: new items are scanned for longer, low: more rebuilding


class Tender:
    """A thread that optimises the collections of active indexes when they need it."""

    def __init__(self, engine: sa.Engine, store: VectorStore, *, look_s: float = LOOK_S) -> None:
        self._engine = engine
        self._store = store
        self._look_s = look_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="twinspan-tend", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No collection is begun any more. One that is being optimised is left to the store's
        `close`, which abandons the copy."""
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.wait(self._look_s):
            try:
                self._tend()
            except TwinspanError as cause:
                if not self._stop.is_set():
                    log.warning("the store's searches could not be made faster: %s", cause)

    def _tend(self) -> None:
        for index in indexes.active(self._engine):
            if self._stop.is_set():
                return
            if not self._store.status(index.collection).indexed:
                self._store.optimize(index.ref)
                log.info("index %d: searches use a graph now", index.id)
