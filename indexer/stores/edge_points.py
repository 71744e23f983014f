"""Points on their way into Qdrant Edge and out of it, checked before the engine sees them.

The engine writes an operation to its log before it applies it, so a batch with one bad vector
must not reach it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import qdrant_edge as edge

from encoders.types import SparseVector, VectorSpec
from indexer.errors import StoreRejected
from indexer.stores import FENCE_FIELD, KEY_FIELD, Point, ScoredPoint, StoredPoint, Vector
from indexer.stores.paths import json_path

Specs = Mapping[str, VectorSpec]


def point(id_: str, point: Point, fence: int, specs: Specs) -> edge.Point:
    """The engine's point; raises StoreRejected, naming the key, where it is not whole."""
    if point.vectors.keys() != specs.keys():
        raise StoreRejected(
            f"item {point.key!r} has vectors {sorted(point.vectors)}, "
            f"this collection takes {sorted(specs)}."
        )
    vectors = {
        name: vector(values, specs[name], f"item {point.key!r}")
        for name, values in point.vectors.items()
    }
    try:
        return edge.Point(id_, vectors, payload(point.key, point.payload, fence))  # pyright: ignore[reportArgumentType]  # arrays are taken as lists
    except (TypeError, ValueError, OverflowError) as cause:
        raise unfit(point.key, cause) from cause


def payload(key: str, given: Mapping[str, object], fence: int) -> dict[str, object]:
    """The payload as it is stored: with the key and the fence of this write."""
    return {**given, KEY_FIELD: key, FENCE_FIELD: fence}


def unfit(key: str, cause: Exception) -> StoreRejected:
    said = (str(cause).splitlines() or [""])[-1].split("caused by ")[-1]
    return StoreRejected(f"item {key!r} has a payload that is not JSON: {said}"[:600])


def vector(values: Vector, spec: VectorSpec, whose: str) -> edge.NamedVector:
    """The engine's vector, of the dimension that the collection has."""
    if isinstance(values, SparseVector):
        if not spec.sparse or len(values.indices) != len(values.values):
            raise StoreRejected(f"{whose}: vector {spec.name!r} does not take this sparse vector.")
        return edge.SparseVector(values.indices.tolist(), values.values.tolist())
    if spec.dimension is None or values.shape != (spec.dimension,):
        raise StoreRejected(
            f"{whose}: vector {spec.name!r} takes {spec.dimension or 'a sparse vector'}"
            f"{' numbers' if spec.dimension else ''}, not an array of shape {values.shape}."
        )
    return cast("list[float]", values)  # the engine reads arrays as they are


def selection(wanted: bool | Sequence[str]) -> bool | list[str]:
    """What payload to ask the engine for: the key always comes along."""
    if wanted is True:
        return True
    return [KEY_FIELD, *(() if wanted is False else map(json_path, wanted))]


def scored(found: edge.ScoredPoint, wanted: bool | Sequence[str]) -> ScoredPoint:
    key, payload = _split(found.payload, wanted)
    return ScoredPoint(key=key, score=found.score, payload=payload)


def stored(record: edge.Record, wanted: bool | Sequence[str]) -> StoredPoint:
    key, payload = _split(record.payload, wanted)
    found = cast("Mapping[str, object]", record.vector or {})
    vectors = {name: _ours(values) for name, values in found.items()}
    return StoredPoint(key=key, vectors=vectors, payload=payload)


def _split(
    found: Mapping[str, object] | None, wanted: bool | Sequence[str]
) -> tuple[str, dict[str, object]]:
    payload = dict(found or {})
    key = str(payload[KEY_FIELD])
    if wanted is not True and (wanted is False or KEY_FIELD not in wanted):
        del payload[KEY_FIELD]
    return key, payload


def _ours(values: object) -> Vector:
    if isinstance(values, edge.SparseVector):
        return SparseVector(
            indices=np.asarray(values.indices, dtype=np.uint32),
            values=np.asarray(values.values, dtype=np.float32),
        )
    return np.asarray(values, dtype=np.float32)
