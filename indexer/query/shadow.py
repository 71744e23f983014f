"""Shadow reads: a share of live queries is also asked of the index that is being built.

The user has the answer by then. What is asked waits in a short queue for one background thread, and
is dropped when that is full: nothing here can delay or fail a query. The other index answers with
its own tower from the vectors that it stores itself, so encoders never mix.
"""

from __future__ import annotations

import logging
import math
import queue
import random
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from indexer import metrics, shadow_reads
from indexer.query.hits import Hits
from indexer.shadow_reads import Read
from indexer.stores import VectorStore

if TYPE_CHECKING:
    from indexer.query import Retriever

log = logging.getLogger(__name__)

WAITING = 32  # queries; one more is dropped
KEPT = 1_000  # reads in memory, for the summary
TOGETHER = 50  # reads written to the database at once
REFRESH_S = 15.0  # between two looks for an index that is being built
FILLED = 0.9  # of the live index's items: one that holds fewer would only look bad
IDLE_S = 1.0  # without a query, until what was read is written
CLOSE_S = 5.0  # that `close` waits for the query under way

Ask = Callable[["Retriever"], Sequence[Hits]]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What the reads in memory say; means and medians are None before the first."""

    reads: int
    dropped: int
    failed: int
    overlap: float | None
    live_ms: float | None
    shadow_ms: float | None


class Shadow:
    """The shadow of one retriever. `open_other` makes a retriever of a physical collection;
    `engine` gives the database where one is at hand."""

    def __init__(
        self,
        store: VectorStore,
        alias: str,
        share: float,
        *,
        open_other: Callable[[str], Retriever],
        engine: Callable[[], sa.Engine | None],
        rng: random.Random | None = None,
    ) -> None:
        self._store, self._alias, self._share = store, alias, share
        self._open_other, self._engine = open_other, engine
        self._rng = rng or random.Random()
        self._waiting: queue.Queue[tuple[Ask, Sequence[Hits]]] = queue.Queue(WAITING)
        self._reads: deque[Read] = deque(maxlen=KEPT)
        self._unwritten: list[Read] = []
        self._other: tuple[str, Retriever] | None = None
        self._looked_at = -math.inf  # time.monotonic()
        self._dropped = self._failed = 0
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closing = threading.Event()

    def offer(self, ask: Ask, answers: Sequence[Hits]) -> None:
        """With the share's probability, `ask` will be put to the other index. Returns at once."""
        if not self._share or self._rng.random() >= self._share or self._closing.is_set():
            return
        self._start()
        try:
            self._waiting.put_nowait((ask, answers))
        except queue.Full:
            self._dropped += 1

    def overview(self) -> Overview:
        reads = list(self._reads)
        return Overview(
            reads=len(reads),
            dropped=self._dropped,
            failed=self._failed,
            overlap=statistics.fmean(one.overlap for one in reads) if reads else None,
            live_ms=statistics.median(one.live_ms for one in reads) if reads else None,
            shadow_ms=statistics.median(one.shadow_ms for one in reads) if reads else None,
        )

    def close(self) -> None:
        """No query is asked any more; what was read is written."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    # -- in the background ----------------------------------------------------------------------

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="twinspan-shadow", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                ask, answers = self._waiting.get(timeout=IDLE_S)
            except queue.Empty:
                self._write()
                continue
            self._read(ask, answers)
            if len(self._unwritten) >= TOGETHER:
                self._write()
        self._write()
        self._forget_other()

    def _read(self, ask: Ask, live: Sequence[Hits]) -> None:
        try:
            other = self._find(live[0])
            if other is None:
                return
            read = _compared(live, ask(other))
        except Exception as cause:  # noqa: BLE001 - whatever it is, it is not the user's affair
            self._failed += 1
            self._forget_other()
            log.warning("a shadow read of alias %s failed: %s", self._alias, cause)
            return
        self._reads.append(read)
        self._unwritten.append(read)
        metrics.shadowed(alias=self._alias, overlap=read.overlap)

    def _find(self, live: Hits) -> Retriever | None:
        """The newest index of the alias that is newer than the live one and about as full."""
        if time.monotonic() - self._looked_at >= REFRESH_S:
            self._looked_at = time.monotonic()
            name = self._newest(live)
            if name is None or self._other is None or self._other[0] != name:
                self._forget_other()
                self._other = (name, self._open_other(name)) if name else None
        if self._other is None or self._other[0] == live.collection:
            return None
        return self._other[1]

    def _newest(self, live: Hits) -> str | None:
        wanted = FILLED * self._store.status(live.collection).points
        newer: dict[int, str] = {}
        for name in self._store.collections():
            if not name.startswith(f"{self._alias}-") or name == live.collection:
                continue
            status = self._store.status(name)
            said = status.spec.metadata
            number = said.get("index_id")
            if said.get("alias") != self._alias or not isinstance(number, int):
                continue
            if number > live.index_id and status.points >= wanted:
                newer[number] = name
        return newer[max(newer)] if newer else None

    def _forget_other(self) -> None:
        """It is looked for anew, after a while."""
        if self._other is not None:
            self._other[1].close()
            self._other = None

    def _write(self) -> None:
        """What was read is in the database, where there is one; a failure costs these reads."""
        reads, self._unwritten = self._unwritten, []
        engine = self._engine()
        if not reads or engine is None:
            return
        try:
            shadow_reads.add(engine, reads)
        except Exception as cause:  # noqa: BLE001 - not worth failing anything
            log.warning("%d shadow reads were not kept: %s", len(reads), cause)


def _compared(live: Sequence[Hits], other: Sequence[Hits]) -> Read:
    """One read: the queries of one call together."""
    pairs = list(zip(live, other, strict=True))
    return Read(
        index_id=other[0].index_id,
        live_index_id=live[0].index_id,
        at=datetime.now(UTC),
        k=max(len(one) for one in live),
        overlap=statistics.fmean(_overlap(*pair) for pair in pairs),
        live_ms=live[0].total_ms,
        shadow_ms=other[0].total_ms,
    )


def _overlap(live: Hits, other: Hits) -> float:
    """The share of the live hits that the other gave, too; nothing found by either agrees."""
    if not len(live):
        return float(not len(other))
    return len({*live.keys} & {*other.keys}) / len(live)
