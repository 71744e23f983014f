"""Writing a plan to the store: deletes, new points, known points, payloads, then durable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from indexer.encoding import Encoding
from indexer.entries import Batch, Claim
from indexer.errors import StoreError, StoreRejected
from indexer.plan import Plan, Task
from indexer.stores import (
    CONTENT_FIELD,
    FENCE_FIELD,
    KEY_FIELD,
    VERSION_FIELD,
    Collection,
    Point,
    VectorStore,
    WriteMode,
)

T = TypeVar("T")


class Unsettled(StoreError):
    """The store failed in the middle: some of the batch is written, and some may still arrive."""


def write(
    store: VectorStore,
    collection: Collection,
    batch: Batch,
    plan: Plan,
    encoded: Mapping[str, Encoding],
) -> dict[str, str]:
    """The store holds all of the plan, durably, under the batch's fence. Tasks to encode that are
    not in `encoded` are left out; those that change the payload alone find there the encoder's own
    fields, if it has any. Returns errors by key for what the store refused. Raises Unsettled for an
    outage."""
    writer = _Writer(store=store, collection=collection, fence=batch.fence)
    try:
        writer.write(plan, encoded)
    except StoreError as cause:
        raise Unsettled(str(cause)) from cause
    return writer.rejected


@dataclass(kw_only=True)
class _Writer:
    store: VectorStore
    collection: Collection
    fence: int
    rejected: dict[str, str] = field(default_factory=dict[str, str])

    def write(self, plan: Plan, encoded: Mapping[str, Encoding]) -> None:
        self.delete(plan.delete)
        ready = [task for task in plan.encode if task.claim.key in encoded]
        for mode in ("upsert", "update_only"):
            self.put([task for task in ready if _mode(task.claim) == mode], encoded, mode)
        self.set_payload(plan.payload, encoded)
        if plan.delete or ready or plan.payload:
            self.store.flush(self.collection)

    def delete(self, claims: Sequence[Claim]) -> None:
        """Gone; with a tombstone where a vanished writer's first insert may still arrive."""
        for doubtful, verb in (
            (False, self.store.delete_if_newer),
            (True, self.store.bury_if_newer),
        ):
            if keys := [claim.key for claim in claims if claim.doubtful == doubtful]:
                verb(self.collection, keys, fence=self.fence)

    def put(self, tasks: Sequence[Task], encoded: Mapping[str, Encoding], mode: WriteMode) -> None:
        points = [self._point(task, encoded[task.claim.key]) for task in tasks]

        def write(some: Sequence[Point]) -> None:
            self.store.write_if_newer(self.collection, some, fence=self.fence, mode=mode)

        _or_halve(points, write, lambda point: point.key, self.rejected)

    def set_payload(self, tasks: Sequence[Task], encoded: Mapping[str, Encoding]) -> None:
        nothing = Encoding(vectors={})

        def write(some: Sequence[Task]) -> None:
            payloads = {
                task.claim.key: self._payload(task, encoded.get(task.claim.key, nothing))
                for task in some
            }
            self.store.set_payload_if_newer(self.collection, payloads, fence=self.fence)

        _or_halve(tasks, write, lambda task: task.claim.key, self.rejected)

    def _point(self, task: Task, encoding: Encoding) -> Point:
        payload = self._payload(task, encoding)
        return Point(key=task.claim.key, vectors=encoding.vectors, payload=payload)

    def _payload(self, task: Task, encoding: Encoding) -> dict[str, object]:
        return {
            **task.item.payload,
            **encoding.payload,
            KEY_FIELD: task.claim.key,
            VERSION_FIELD: task.claim.wanted,
            FENCE_FIELD: self.fence,
            CONTENT_FIELD: task.content_hash.hex(),
        }


def _mode(claim: Claim) -> WriteMode:
    """A point that the ledger is sure of is only updated, so that no late writer brings it back. A
    doubtful one may be gone: a vanished holder may have deleted it."""
    return "update_only" if claim.present and not claim.doubtful else "upsert"


def _or_halve(
    some: Sequence[T],
    write: Callable[[Sequence[T]], None],
    key_of: Callable[[T], str],
    rejected: dict[str, str],
) -> None:
    """Written, or in `rejected` with the store's reason: a refused batch is halved until the
    culprits stand alone."""
    if not some:
        return
    try:
        write(some)
    except StoreRejected as cause:
        if len(some) == 1:
            rejected[key_of(some[0])] = f"the store refused it: {cause}"
            return
        middle = len(some) // 2
        _or_halve(some[:middle], write, key_of, rejected)
        _or_halve(some[middle:], write, key_of, rejected)
