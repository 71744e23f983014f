"""Upkeep: what nobody waits for. Indexes are verified without end, at a low rate, and what has had
its time is cleared away.

Every worker has a thread for it, and one of all of them works (`workers/leading.py`). It reads
little at a time and changes nothing itself: what is to be repaired goes through the ledger's queue,
behind every change. It loads no encoder, so vectors are compared by the hash of what they were made
of.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa

from indexer import history, indexes, shadow_reads, tidying
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.verify import records, running
from indexer.verify.comparison import Options
from indexer.verify.records import Record
from workers.leading import Leading, Lock
from workers.services import LazyServices, Services

log = logging.getLogger(__name__)

UPKEEP_LOCK = 7_204_005  # pg_try_advisory_lock key, one per database
SILENT_S = 120.0  # one that does not look for longer, as when a store hangs, keeps up no more
FOLLOW_S = 10.0  # how often those who do not keep up try to
LOOK_S = 2.0  # between two slices of verification
ROUND_S = 60.0  # between two beginnings of a round: a small index is not compared all the time
OWED_S = 5.0  # of work, at most, that is made up for after a pause
SLICE_ITEMS = 100  # at a time: a worker in the same process waits for no more than these
TIDY_S = 60.0  # between two times of clearing away
TRIM_ROWS, TRIMS = 5_000, 20  # old rows deleted by one statement; statements each time, per table
PAUSE_S, PAUSE_MAX_S = 1.0, 60.0  # after an error, doubled each time in a row


class Trim(Protocol):
    """At most `limit` rows older than `kept_s` seconds are gone; returns how many."""

    def __call__(self, engine: sa.Engine, *, kept_s: float, limit: int) -> int: ...


class Upkeep(Leading):
    """Keeps up, or waits to, from `start` until `stop`. `services` are asked for in the thread,
    when first needed; `own` ones are closed by it."""

    def __init__(self, settings: Settings, services: Services, *, own: bool = False) -> None:
        super().__init__(
            name="upkeep",
            key=UPKEEP_LOCK,
            silent_s=SILENT_S,
            follow_s=FOLLOW_S,
            pause_s=PAUSE_S,
            pause_max_s=PAUSE_MAX_S,
        )
        self._settings = settings
        self._services = services
        self._own = own

    def _database(self) -> sa.Engine:
        return self._services.engine

    def _ended(self) -> None:
        if self._own and isinstance(self._services, LazyServices):
            self._services.close()

    def _lead(self, lock: Lock) -> None:
        engine, store = self._services.engine, self._services.store
        rounds = Rounds(engine, store, self._settings)
        tidied_at = time.monotonic() - TIDY_S
        while not self._stop.is_set():
            lock.look()  # it is still ours
            if time.monotonic() - tidied_at >= TIDY_S:
                self._tidy(engine, store)
                tidied_at = time.monotonic()
            rounds.go_on(LOOK_S)
            self._stop.wait(LOOK_S)

    def _tidy(self, engine: sa.Engine, store: VectorStore) -> None:
        """Roll-outs are finished, standbys that had their time retired, old records gone."""
        tidying.tidy(engine, store, self._settings)
        records.trim(engine)
        for trim in (history.trim, shadow_reads.trim):
            self._trim(engine, trim)

    def _trim(self, engine: sa.Engine, trim: Trim) -> None:
        """In small steps, and no more of them than leave time for the rest: what is left goes the
        next time."""
        for _ in range(TRIMS):
            gone = trim(engine, kept_s=self._settings.history_s, limit=TRIM_ROWS)
            if gone < TRIM_ROWS or self._stop.is_set():
                return


@dataclass(kw_only=True)
class _Round:
    index: Index
    steps: Iterator[Record]
    looked: int


class Rounds:
    """Verifications of all active indexes in turn, each begun anew when it has finished. Where a
    round was interrupted, also by the end of the process, the next one goes on."""

    def __init__(self, engine: sa.Engine, store: VectorStore, settings: Settings) -> None:
        self._engine = engine
        self._store = store
        self._settings = settings
        self._rounds: dict[int, _Round] = {}
        self._rests_until: dict[int, float] = {}  # index id -> time.monotonic()
        self._owed = 0.0  # items

    def go_on(self, seconds: float) -> None:
        """As many items more are compared as the rate allows in that time, of indexes in turn."""
        rate = self._settings.verify_items_per_s
        self._owed = min(self._owed + rate * seconds, rate * OWED_S)
        active = {index.id: index for index in indexes.active(self._engine)}
        self._rounds = {id_: one for id_, one in self._rounds.items() if id_ in active}
        while self._owed >= 1 and (awake := self._awake(list(active.values()))):
            for index in awake:
                self._owed -= max(1, self._step(index))

    def _awake(self, active: Sequence[Index]) -> list[Index]:
        """Those whose round is under way, or may begin."""
        now = time.monotonic()
        return [
            index
            for index in active
            if index.id in self._rounds or self._rests_until.get(index.id, 0.0) <= now
        ]

    def _step(self, index: Index) -> int:
        """One step of the index's round; returns how many items were looked at."""
        one = self._rounds.get(index.id) or self._begun(index)
        try:
            record = next(one.steps, None)
        except BaseException:
            del self._rounds[index.id]  # it goes on from where it was saved
            raise
        if record is None:
            del self._rounds[index.id]
            return 0
        looked, one.looked = record.place.looked - one.looked, record.place.looked
        return looked

    def _begun(self, index: Index) -> _Round:
        options = Options(
            share=0.0, repair=self._settings.verify_repair, chunk_items=self._slice_items()
        )
        record = records.latest(
            self._engine, index.id, mode="continuous", unfinished=True
        ) or records.begin(self._engine, index.id, mode="continuous", options=options)
        record.options = options
        self._rests_until[index.id] = time.monotonic() + ROUND_S
        steps = running.run(self._engine, self._store, index, record, tower=None)
        self._rounds[index.id] = _Round(index=index, steps=steps, looked=record.place.looked)
        return self._rounds[index.id]

    def _slice_items(self) -> int:
        return max(1, min(SLICE_ITEMS, int(self._settings.verify_items_per_s)))
