"""Points and vectors as Qdrant Edge takes and gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np
import qdrant_edge as edge

from encoders.types import SparseVector
from indexer.stores import Point, ScoredPoint, StoredPoint, Vector, points


def built(id_: str, point: Point, fence: int, specs: points.Specs) -> edge.Point:
    """The engine's point; raises StoreRejected, naming the item, where it is not whole."""
    points.check(point, specs)
    vectors = {name: vector(values) for name, values in point.vectors.items()}
    return edge.Point(id_, vectors, points.stamped(point.key, point.payload, fence))


def vector(values: Vector) -> edge.NamedVector:
    if isinstance(values, SparseVector):
        return edge.SparseVector(values.indices.tolist(), values.values.tolist())
    return cast("list[float]", values)  # the engine reads arrays as they are


def scored(found: edge.ScoredPoint, wanted: bool | Sequence[str]) -> ScoredPoint:
    key, payload = points.split(found.payload, wanted)
    return ScoredPoint(key=key, score=found.score, payload=payload)


def all_stored(records: Iterable[edge.Record], wanted: bool | Sequence[str]) -> list[StoredPoint]:
    """Our points of the records, in their order; tombstones are none."""
    return [_stored(one, wanted) for one in records if not points.is_tombstone(one.payload)]


def _stored(record: edge.Record, wanted: bool | Sequence[str]) -> StoredPoint:
    key, payload = points.split(record.payload, wanted)
    found = cast("Mapping[str, object]", record.vector or {})
    vectors = {name: _ours(values) for name, values in found.items()}
    return StoredPoint(key=key, vectors=vectors, payload=payload)


def _ours(values: object) -> Vector:
    if isinstance(values, edge.SparseVector):
        return SparseVector(
            indices=np.asarray(values.indices, dtype=np.uint32),
            values=np.asarray(values.values, dtype=np.float32),
        )
    return np.asarray(values, dtype=np.float32)
