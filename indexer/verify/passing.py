"""One pass over catalog, ledger and store, in steps, from a place that can be stored.

The rows are read in catalog order with their entries and points; then the ledger is read for
entries, and the store for points, that have no row. Items whose change was under way are looked at
once more at the end. Memory is bounded by a chunk and by WAITING keys.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from indexer import catalog, entries, indexes
from indexer.indexes import Index
from indexer.stores import KEY_FIELD, VectorStore
from indexer.tables import LANE_BACKFILL
from indexer.towers import Tower
from indexer.verify.comparison import Comparison, Options
from indexer.verify.judging import DRIFT, Cause
from indexer.verify.looking import Eyes, Judged

log = logging.getLogger(__name__)

PHASES = ("collection", "rows", "ledger", "points", "again")
DONE = "done"
WAITING = 10_000  # keys in flight that are looked at again; more are counted as they are
LOOK_AGAIN_S = 0.2
LOGGED = 5  # keys of a step that the log names


@dataclass(kw_only=True)
class Place:
    """How far a pass is: the phase, the last key of it that is done, and the keys that were in
    flight when they were met."""

    phase: str = PHASES[0]
    cursor: str | None = None
    waiting: dict[str, None] = field(default_factory=dict[str, None])
    looked: int = 0  # rows, entries and points


class Pass:
    """`seen` and `place` are up to date whenever `steps` yields: stored together, they are where
    another pass goes on."""

    def __init__(
        self,
        engine: sa.Engine,
        store: VectorStore,
        index: Index,
        *,
        seen: Comparison,
        place: Place,
        tower: Tower | None,
        options: Options,
    ) -> None:
        self.seen = seen
        self.place = place
        self._engine = engine
        self._store = store
        self._index = indexes.get(engine, index.id)
        self._options = options
        self._eyes = Eyes(engine, store, self._index, tower=tower, share=options.share)
        self._pace = _Pace(options.items_per_s)

    def steps(self) -> Iterator[int]:
        """The rest of the pass; yields the items and points looked at so far."""
        phases = {
            "collection": self._collection,
            "rows": self._rows,
            "ledger": self._ledger,
            "points": self._points,
            "again": self._again,
        }
        for phase in (*PHASES, DONE)[(*PHASES, DONE).index(self.place.phase) : -1]:
            self.place.phase = phase
            for items in phases[phase]():
                self.place.looked += items
                yield self.place.looked
                self._pace.keep(items)
            self.place.cursor = None
        self.place.phase = DONE

    def _collection(self) -> Iterator[int]:
        """The collection says that it belongs to this index's encoder."""
        metadata = self._store.status(self._index.collection).spec.metadata
        if metadata.get("encoder_id") != self._index.encoder_id:
            said = f"collection {self._index.collection} names {metadata.get('encoder_id')}"
            self.seen.add(Cause.WRONG_ENCODER, said)
        yield 0

    def _rows(self) -> Iterator[int]:
        """Every row, against its point and its entry."""
        while keys := self._next_rows():
            self._take([one for one in self._eyes.judge(keys) if one.sides.item is not None])
            self.place.cursor = keys[-1]
            yield len(keys)

    def _next_rows(self) -> list[str]:
        return catalog.scan_keys(
            self._engine,
            self._eyes.attached,
            after=self.place.cursor,
            limit=self._options.chunk_items,
        )

    def _ledger(self) -> Iterator[int]:
        """Every entry that believes in a point, against a row; those with a point come next."""
        while keys := entries.scan_present(
            self._engine,
            self._index.id,
            after=self.place.cursor,
            limit=self._options.chunk_items,
        ):
            self._take([one for one in self._without_row(keys) if one.sides.point is None])
            self.place.cursor = keys[-1]
            yield len(keys)

    def _points(self) -> Iterator[int]:
        """Every point, against a row."""
        for points in self._store.scroll(
            self._index.ref,
            payload=(KEY_FIELD,),
            batch=self._options.chunk_items,
            after=self.place.cursor,
        ):
            keys = [point.key for point in points]
            self._take([one for one in self._without_row(keys) if one.sides.point is not None])
            self.place.cursor = keys[-1]
            yield len(keys)

    def _without_row(self, keys: Sequence[str]) -> list[Judged]:
        there = catalog.existing(self._engine, self._eyes.attached, keys)
        gone = [key for key in keys if key not in there]
        judged = self._eyes.judge(gone) if gone else []
        return [one for one in judged if one.sides.item is None]

    def _again(self) -> Iterator[int]:
        """What was in flight, once more, until it has arrived or patience ends."""
        until = time.monotonic() + self._options.patience_s
        while self.place.waiting:
            waiting, self.place.waiting = self.place.waiting, {}
            for start in range(0, len(waiting), self._options.chunk_items):
                keys = list(waiting)[start : start + self._options.chunk_items]
                self._take(self._eyes.judge(keys))
            if not self.place.waiting or time.monotonic() >= until:
                break
            yield 0
            time.sleep(LOOK_AGAIN_S)
        for key in self.place.waiting:
            self.seen.add(Cause.IN_FLIGHT, key)
        self.place.waiting = {}
        self.seen.blame_the_encoder()
        yield 0

    def _take(self, judged: Sequence[Judged]) -> None:
        """Counted, or put off; drift is logged and, where asked for, repaired."""
        wrong: list[Judged] = []
        for one in judged:
            key, cause = one.sides.key, one.cause
            if cause is Cause.IN_FLIGHT and len(self.place.waiting) < WAITING:
                self.place.waiting[key] = None
                continue
            self.seen.items += one.sides.item is not None
            if cause is not Cause.AGREE or one.sides.item is not None:
                self.seen.add(cause, key)
            if one.same_vectors is not None:
                self.seen.vectors += 1
                self.seen.vectors_differ += not one.same_vectors
            if cause in DRIFT:
                wrong.append(one)
        if wrong:
            _tell(self._index, wrong)
            if self._options.repair:
                self.seen.repaired += _repair(self._engine, self._index, wrong)


class _Pace:
    """Keeps to a rate, on average since the start; None is no limit."""

    def __init__(self, items_per_s: float | None) -> None:
        self._items_per_s = items_per_s
        self._started = time.monotonic()
        self._items = 0

    def keep(self, items: int) -> None:
        if self._items_per_s is None:
            return
        self._items += items
        ahead_s = self._items / self._items_per_s - (time.monotonic() - self._started)
        if ahead_s > 0:
            time.sleep(ahead_s)


def _repair(engine: sa.Engine, index: Index, wrong: Sequence[Judged]) -> int:
    """These items are wanted again, behind live changes. The ledger's own protocol does the rest:
    it writes in full, or deletes what has no row. Returns how many were still as they were seen."""
    entries.raise_fences(engine, max(one.sides.fence for one in wrong))
    found = {one.sides.key: (one.sides.entry, one.sides.point is not None) for one in wrong}
    return entries.repair_if_unchanged(engine, index.id, found, lane=LANE_BACKFILL)


def _tell(index: Index, wrong: Sequence[Judged]) -> None:
    named = ", ".join(f"{one.sides.key!r}: {one.cause}" for one in wrong[:LOGGED])
    more = f" and {len(wrong) - LOGGED:,} more" if len(wrong) > LOGGED else ""
    log.warning("index %d has drifted: %s%s", index.id, named, more)
