"""The life of a change: route, claim, read, plan, encode, write, ack.

`drain` is the one way from the ledger to the store: Celery's task, the embedded mode and the tests
all call it. No model, store or network call happens inside a transaction. Whatever dies between
two steps costs a lease: the next holder finds the entry dirty, reads the row as it is then, and
writes with a higher fence.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime

import sqlalchemy as sa

from encoders.errors import EncoderError
from encoders.types import ItemRecord
from indexer import (
    adoption,
    catalog,
    changes,
    collection,
    encoding,
    entries,
    indexes,
    logs,
    metrics,
    tracing,
    writing,
)
from indexer import plan as planning
from indexer.encoding import TowerFailed
from indexer.entries import Batch, Written
from indexer.errors import StoreError
from indexer.fences import Fences
from indexer.indexes import Index
from indexer.pace import Pace
from indexer.plan import Plan, Task
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Tower, Towers
from indexer.writing import Unsettled

log = logging.getLogger(__name__)

FIRST_BATCH = 64  # items of the first batch, until the tower's speed is known
GROWTH = 4  # how much larger a batch may be than the one before
WRITTEN = ("encoded", "payload_only", "deleted", "skipped")  # outcomes that the store has
OUTAGE_PAUSE_S = 1.0  # until an entry given back because of an outage is due again


@dataclass(kw_only=True)
class Report:
    """What a drain did: items by outcome, seconds by stage (summed over batches)."""

    routed: int = 0
    batches: int = 0
    encoded: int = 0
    adopted: int = 0  # vectors taken over instead of encoded
    payload_only: int = 0
    skipped: int = 0
    deleted: int = 0
    failed: int = 0
    quarantined: int = 0
    lost: int = 0  # written, but somebody else held the lease by then
    released: int = 0  # given back untouched: an outage, or a stop
    fences: list[int] = field(default_factory=list[int])  # of its claims, in order
    aliases: dict[int, str] = field(default_factory=dict[int, str])  # of the indexes, by id
    outages: list[str] = field(default_factory=list[str])
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def items(self) -> int:
        return self.encoded + self.adopted + self.payload_only + self.skipped + self.deleted

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        started = time.perf_counter()
        try:
            with tracing.span(name):
                yield
        finally:
            took_s = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + took_s
            metrics.staged(name, took_s)

    def counts(self) -> dict[str, int]:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, int)}

    def outcomes(self) -> dict[str, int]:
        """Items by what became of them."""
        return {name: n for name, n in self.counts().items() if name not in {"routed", "batches"}}


def drain(
    engine: sa.Engine,
    store: VectorStore,
    towers: Towers,
    settings: Settings,
    *,
    index_id: int | None = None,
    slice_s: float | None = None,
    stop: threading.Event | None = None,
    fences: Fences | None = None,
) -> Report:
    """Route what is committed and work until no entry of the index (None: of any active index) is
    due, or no batch more once `slice_s` seconds have passed, or until `stop` is set, which gives
    the current batch back. Indexes take turns, a batch each; a building index comes after the live
    ones of its queue, whichever was asked for. An index whose store, collection or encoder is not
    available is left alone, its leases given back, and named in `report.outages`. `fences`
    remembers, from one call to the next, that the store is not ahead of the database. Raises
    DatabaseError only."""
    drain = _Drain(
        engine=engine,
        store=store,
        towers=towers,
        settings=settings,
        stop=stop or threading.Event(),
        fences=fences or Fences(),
        pace=Pace(engine),
        until=time.monotonic() + slice_s if slice_s is not None else math.inf,
    )
    drain.run(index_id)
    drain.pace.note()
    return drain.report


@dataclass(kw_only=True)
class _Drain:
    """One call of `drain`. `limits` is how many items a batch of each index may have."""

    engine: sa.Engine
    store: VectorStore
    towers: Towers
    settings: Settings
    stop: threading.Event
    fences: Fences
    until: float  # time.monotonic(): no turn begins later
    pace: Pace
    report: Report = field(default_factory=Report)
    limits: dict[int, int] = field(default_factory=dict[int, int])
    left_alone: set[int] = field(default_factory=set[int])

    def run(self, index_id: int | None) -> None:
        while not self.stop.is_set() and time.monotonic() < self.until:
            with self.report.stage("route"):
                moved = changes.route(self.engine, limit=self.settings.route_items)
            self.report.routed += moved
            due = [one for one in indexes.due(self.engine) if one.id not in self.left_alone]
            asked = [one for one in due if index_id in {None, one.id}]
            if not asked and not moved:
                return
            for index in (*_before(asked, due), *asked):
                self.counted_turn(index)

    def counted_turn(self, index: Index) -> None:
        before = self.report.outcomes()
        self.report.aliases[index.id] = index.alias
        with tracing.span("batch", index=index.id, alias=index.alias) as span:
            try:
                self.turn(index)
            finally:
                after = self.report.outcomes()
                new = {name: count - before[name] for name, count in after.items()}
                metrics.counted(alias=index.alias, state=index.state, outcomes=new)
                if span is not None:
                    span.set_attributes({f"items.{name}": n for name, n in new.items() if n})
                    span.set_attribute("fence", self.report.fences[-1] if any(new.values()) else 0)
        if any(new[name] for name in WRITTEN):
            indexes.note_write(self.engine, index)

    def turn(self, index: Index) -> None:
        """One batch of one index."""
        tower = self.tower(index)
        if tower is None:
            return
        limit = min(self.limits.get(index.id, FIRST_BATCH), self.settings.batch_items)
        with self.report.stage("claim"):
            batch = entries.claim(
                self.engine,
                index.id,
                limit=limit,
                whole=self.settings.batch_items,
                lease_s=self.settings.lease_s,
                tombstone_s=self.settings.tombstone_s,
            )
        if batch is None or not batch.claims:
            return
        self.report.fences.append(batch.fence)
        started = time.monotonic()
        try:
            self.fences.check(self.engine, self.store, index, fence=batch.fence)
            self.work(index, tower, batch)
        except (StoreError, TowerFailed) as cause:
            self.leave_alone(index, str(cause))
            doubtful = isinstance(cause, Unsettled)
            self.release(batch, pause_s=OUTAGE_PAUSE_S, doubtful=doubtful)
        except _Stopped:
            self.release(batch, pause_s=0)
        else:
            self.set_pace(index, limit, len(batch.claims), time.monotonic() - started)
            self.pace.add(index, len(batch.claims))

    def tower(self, index: Index) -> Tower | None:
        """The very encoder that the index names, or None: then the work is left to others."""
        try:
            with self.report.stage("load"):
                return self.towers.get(index.encoder_id, index.encoder_uri)
        except EncoderError as cause:
            self.leave_alone(index, str(cause))
            return None

    def set_pace(self, index: Index, limit: int, items: int, seconds: float) -> None:
        """Batches take about `batch_s` seconds: a fresh change then waits for little behind a
        backfill, and a slow tower's lease is never in danger. One that was in time makes the next
        no smaller: it may have been a few items, whose time says nothing about that of many."""
        fitting = int(items * self.settings.batch_s / max(seconds, 1e-3))
        least = limit if seconds <= self.settings.batch_s else 1
        self.limits[index.id] = max(least, min(fitting, limit * GROWTH))

    def leave_alone(self, index: Index, why: str) -> None:
        if not indexes.is_active(self.engine, index.id):
            log.info("index %d was cancelled or retired in the middle of a batch", index.id)
            return
        log.warning("index %d is left alone for now: %s", index.id, why)
        metrics.left_alone(alias=index.alias, state=index.state)
        self.report.outages.append(f"index {index.id}: {why}")
        self.left_alone.add(index.id)

    def release(self, batch: Batch, *, pause_s: float, doubtful: bool = False) -> None:
        keys = [claim.key for claim in batch.claims]
        self.report.released += entries.release_if_held(
            self.engine, batch, keys, pause_s=pause_s, doubtful=doubtful
        )

    def work(self, index: Index, tower: Tower, batch: Batch) -> None:
        """Read, plan, encode, write and ack one batch."""
        stage, keys = self.report.stage, [claim.key for claim in batch.claims]
        read_at = datetime.now(UTC)
        with stage("read"):
            attached = self.described(index, tower)
            items = catalog.read(self.engine, attached, keys)
        with stage("plan"):
            plan = planning.plan(batch.claims, items, payload_limit=self.settings.payload_limit)
        with stage("encode"):
            kept = adoption.keep(self.store, index, tower.encoder, plan)
            adopted = adoption.take_over(self.store, index, tower.encoder, plan.encode)
            left = [task for task in plan.encode if task.claim.key not in adopted]
            encoded = encoding.encode(tower, [_record(task) for task in left])
        if self.stop.is_set():
            raise _Stopped
        self.check_lease(batch, tower_s=encoded.tower_s)
        with stage("write"):
            made = {**kept, **adopted, **encoded.done}
            rejected = writing.write(self.store, index.ref, batch, plan, made)
        with stage("ack"):
            classes = {"refused": plan.refused, "tower": encoded.failed, "store": rejected}
            for kind, some in classes.items():
                self.tell(batch, kind, some)
            errors = {**plan.refused, **encoded.failed, **rejected}
            self.settle(index, batch, plan, errors, read_at=read_at)
        taken_over = sum(key not in errors for key in adopted)
        self.report.adopted += taken_over
        self.report.encoded -= taken_over  # as which `settle` counted them
        self.report.batches += 1

    def described(self, index: Index, tower: Tower) -> catalog.Catalog:
        """The catalog as it is described now, which the collection follows."""
        attached = catalog.get_by_id(self.engine, index.catalog_id)
        vectors = tower.encoder.vectors
        collection.adapt_if_described_anew(self.engine, self.store, index, attached, vectors)
        return attached

    def check_lease(self, batch: Batch, *, tower_s: float) -> None:
        """No write starts with less lease left than the store's timeout: a write that lands after
        the lease could bring back an item that its next holder deletes. A batch that was too slow
        is given back. A single item is charged if the tower needed the time, and not if this
        process stood still: then the item would be quarantined for what befell its workers."""
        margin_s = self.settings.store_timeout_s
        if batch.left_s() > margin_s:
            return
        took_s = self.settings.lease_s - batch.left_s()
        if len(batch.claims) == 1 and tower_s > self.settings.lease_s - margin_s:
            problem = f"the tower took {tower_s:.0f} s, too long for lease_s"
            charged = {batch.claims[0].key: f"{problem}: raise it, or shorten the row"}
            self.tell(batch, "slow", charged)
            self.fail(batch, charged)
        raise TowerFailed(f"{len(batch.claims)} items took {took_s:.0f} s, too long for lease_s")

    def settle(
        self,
        index: Index,
        batch: Batch,
        plan: Plan,
        errors: Mapping[str, str],
        *,
        read_at: datetime,
    ) -> None:
        """The ledger says what the store holds; failures are charged to their items."""
        encoded, payloads = _without(plan.encode, errors), _without(plan.payload, errors)
        written = [Written(claim=claim, present=False) for claim in plan.delete]
        written += [_stored(task) for task in (*encoded, *payloads, *plan.skip)]
        held = entries.ack_if_held(self.engine, batch, written, read_at=read_at)
        if held == len(written):  # a lost batch says nothing about when its items arrive
            ages = [(one.claim.lane, batch.age_s(one.claim)) for one in written]
            metrics.served(alias=index.alias, state=index.state, ages=ages)
        self.report.lost += len(written) - held
        self.report.encoded += len(encoded)
        self.report.payload_only += len(payloads)
        self.report.skipped += len(plan.skip)
        self.report.deleted += len(plan.delete)
        self.fail(batch, errors)

    def tell(self, batch: Batch, kind: str, errors: Mapping[str, str]) -> None:
        """One line per failure. Its class is who refused the item: the plan, the tower, the store,
        or the clock."""
        for key, error in errors.items():
            said = logs.facts(
                index=batch.index_id,
                alias=self.report.aliases.get(batch.index_id),
                item=key,
                fence=batch.fence,
                error_class=kind,
                error=error,
            )
            log.warning("index %d, item %r: %s", batch.index_id, key, error, extra=said)

    def fail(self, batch: Batch, errors: Mapping[str, str]) -> None:
        self.report.failed += len(errors)
        self.report.quarantined += entries.fail_if_held(
            self.engine,
            batch,
            errors,
            max_attempts=self.settings.max_attempts,
            backoff_s=self.settings.backoff_s,
            backoff_max_s=self.settings.backoff_max_s,
        )


class _Stopped(Exception):
    """Give the batch back."""


def _before(asked: Sequence[Index], due: Sequence[Index]) -> list[Index]:
    """Live indexes that have a batch before these do: where all workers are at a backfill, a fresh
    change of what is being asked waits for one batch, not for a worker to be free."""
    queues = {one.queue for one in asked if one.state == "building"}
    return [one for one in due if one.state == "live" and one.queue in queues and one not in asked]


def _record(task: Task) -> ItemRecord:
    return ItemRecord(key=task.claim.key, features=task.item.features)


def _without(tasks: list[Task], errors: Mapping[str, str]) -> list[Task]:
    return [task for task in tasks if task.claim.key not in errors]


def _stored(task: Task) -> Written:
    return Written(
        claim=task.claim,
        present=True,
        content_hash=task.content_hash,
        payload_hash=task.payload_hash,
    )
