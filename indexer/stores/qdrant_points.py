"""Points and vectors as a Qdrant server takes and gives them, and requests of a bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar, cast

import numpy as np
from qdrant_client import models

from encoders.types import SparseVector
from indexer.stores import Point, ScoredPoint, StoredPoint, Vector, points

NUMBER_BYTES = 22  # of one float in JSON, comma included
OVERHEAD_BYTES = 100  # of one point: its id and the names around it

T = TypeVar("T")


def built(id_: str, point: Point, fence: int, specs: points.Specs) -> models.PointStruct:
    """The client's point; raises StoreRejected, naming the item, where it is not whole."""
    points.check(point, specs)
    vectors = {name: vector(values) for name, values in point.vectors.items()}
    return models.PointStruct(
        id=id_,
        vector=cast("models.VectorStruct", vectors),
        payload=points.stamped(point.key, point.payload, fence),
    )


def vector(values: Vector) -> list[float] | models.SparseVector:
    if isinstance(values, SparseVector):
        return models.SparseVector(indices=values.indices.tolist(), values=values.values.tolist())
    return values.tolist()


def size(point: Point) -> int:
    """About how many bytes the point takes in a request; more rather than less."""
    numbers = sum(
        2 * len(values.values) if isinstance(values, SparseVector) else values.size
        for values in point.vectors.values()
    )
    return numbers * NUMBER_BYTES + points.payload_bytes(point.payload) + OVERHEAD_BYTES


def batches(
    things: Iterable[tuple[T, int]], *, max_items: int, max_bytes: int
) -> Iterator[list[T]]:
    """The things, each given with its size, in lists within both bounds; a huge one goes alone."""
    batch: list[T] = []
    filled = 0
    for thing, thing_bytes in things:
        if batch and (len(batch) >= max_items or filled + thing_bytes > max_bytes):
            yield batch
            batch, filled = [], 0
        batch.append(thing)
        filled += thing_bytes
    if batch:
        yield batch


def scored(found: models.ScoredPoint, wanted: bool | Sequence[str]) -> ScoredPoint:
    key, payload = points.split(found.payload, wanted)
    return ScoredPoint(key=key, score=found.score, payload=payload)


def tombstone(id_: str, fence: int) -> models.PointStruct:
    return models.PointStruct(id=id_, vector={}, payload=points.tombstone(fence))


def all_stored(records: Iterable[models.Record], wanted: bool | Sequence[str]) -> list[StoredPoint]:
    """Our points of the records, in their order; tombstones are none."""
    return [_stored(one, wanted) for one in records if not points.is_tombstone(one.payload)]


def _stored(record: models.Record, wanted: bool | Sequence[str]) -> StoredPoint:
    key, payload = points.split(record.payload, wanted)
    found = cast("Mapping[str, object]", record.vector or {})
    vectors = {name: _ours(values) for name, values in found.items()}
    return StoredPoint(key=key, vectors=vectors, payload=payload)


def _ours(values: object) -> Vector:
    if isinstance(values, models.SparseVector):
        return SparseVector(
            indices=np.asarray(values.indices, dtype=np.uint32),
            values=np.asarray(values.values, dtype=np.float32),
        )
    return np.asarray(values, dtype=np.float32)
