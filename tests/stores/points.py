"""Points as the contract writes them, and looks at what a collection holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings

from encoders.types import SparseVector
from indexer import filters
from indexer.stores import Collection, Point, Search, Vector, VectorStore

generated = settings(
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def empty(store: VectorStore, there: Collection) -> None:
    buried = ["never", *"abcde"]  # by some test: no verb shows tombstones
    store.delete_if_newer(there, [*keys(store, there), *buried], fence=2**50)
    assert store.count(there) == 0


def dense(*values: float) -> np.ndarray:
    return np.array([*values, 0, 0, 0, 0][:4], dtype=np.float32)


def sparse(entries: Mapping[int, float]) -> SparseVector:
    return SparseVector(
        indices=np.array(sorted(entries), dtype=np.uint32),
        values=np.array([entries[i] for i in sorted(entries)], dtype=np.float32),
    )


def point(key: str, first: float = 1.0, /, **payload: object) -> Point:
    vectors = {"tower": dense(first), "codes": sparse({3: first, 9: 1.0})}
    return Point(key=key, vectors=vectors, payload=payload)


def keys(store: VectorStore, there: Collection, where: filters.Filter | None = None) -> list[str]:
    found = [one.key for batch in store.scroll(there, where=where, batch=3) for one in batch]
    assert len(found) == len(set(found)), "scroll gave a point twice"
    return sorted(found)


def search(
    store: VectorStore,
    there: Collection,
    values: Vector,
    *,
    vector: str = "tower",
    limit: int = 10,
    **more: Any,
) -> list[str]:
    one = Search(vector=vector, values=values, limit=limit, **more)
    return [hit.key for hit in store.search(there, [one])[0]]
