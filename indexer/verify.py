"""Does the index say what the catalog says? Read from both, never from the ledger alone.

Items are compared in chunks of catalog order, then the store is read for points that have no row,
so memory stays bounded. A change that is still on its way counts as a difference: compare when the
queue is empty, or look again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import sqlalchemy as sa

from encoders.types import ItemRecord, SparseVector
from indexer import catalog, encoding
from indexer.catalog import Item
from indexer.indexes import Index
from indexer.stores import KEY_FIELD, StoredPoint, Vector, VectorStore
from indexer.towers import Tower

CHUNK = 1_000  # items compared at a time
DIGITS = 1e-14  # relative, between a stored number and the row's
TOLERANCE = 1e-4  # between a stored component and a freshly encoded one
EXAMPLES = 10  # keys kept per kind of difference


@dataclass(kw_only=True)
class Comparison:
    """What one pass saw. `items` is the number of rows, `agree` of them have the right payload and,
    where a tower was given, the right vectors."""

    items: int = 0
    agree: int = 0
    missing: int = 0  # a row without a point
    stale_payload: int = 0
    stale_vector: int = 0
    extra: int = 0  # a point without a row
    unusable: int = 0  # a row that cannot be indexed, and rightly is not
    vectors_checked: bool = False
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @property
    def drift(self) -> int:
        return self.missing + self.stale_payload + self.stale_vector + self.extra

    def add(self, kind: str, key: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        if kind != "agree":
            examples = self.examples.setdefault(kind, [])
            if len(examples) < EXAMPLES:
                examples.append(key)


def compare(
    engine: sa.Engine, store: VectorStore, index: Index, *, tower: Tower | None = None
) -> Comparison:
    """Every row against its point, and every point against its row. With `tower` (the one that
    built the index) each row is encoded again and its vectors compared."""
    seen = Comparison(vectors_checked=tower is not None)
    for _ in compare_steps(engine, store, index, seen, tower=tower):
        pass
    return seen


def compare_steps(
    engine: sa.Engine,
    store: VectorStore,
    index: Index,
    seen: Comparison,
    *,
    tower: Tower | None = None,
) -> Iterator[int]:
    """As `compare`, adding to `seen` and yielding the number of items and points looked at."""
    attached = catalog.get_by_id(engine, index.catalog_id)
    looked = 0
    for items in _chunks(engine, attached):
        _compare_rows(store, index, items, seen, tower)
        looked += len(items)
        yield looked
    for points in store.scroll(index.ref, payload=(KEY_FIELD,), batch=CHUNK):
        keys = [point.key for point in points]
        rows = catalog.read(engine, attached, keys)
        for key in keys:
            if key not in rows:
                seen.add("extra", key)
        looked += len(keys)
        yield looked


def _chunks(engine: sa.Engine, attached: catalog.Catalog) -> Iterator[list[Item]]:
    after: str | None = None
    while items := catalog.scan_items(engine, attached, after=after, limit=CHUNK):
        yield items
        after = items[-1].key


def _compare_rows(
    store: VectorStore, index: Index, items: Sequence[Item], seen: Comparison, tower: Tower | None
) -> None:
    names = [spec.name for spec in tower.encoder.vectors] if tower else []
    points = store.fetch(index.ref, [item.key for item in items], vectors=names)
    usable = [item for item in items if not item.error]
    fresh = _encode(tower, usable) if tower else {}
    for item in items:
        seen.items += 1
        seen.add(_verdict(item, points.get(item.key), fresh.get(item.key, {})), item.key)


def _verdict(item: Item, point: StoredPoint | None, fresh: Mapping[str, Vector]) -> str:
    if item.error:
        return "unusable"
    if point is None:
        return "missing"
    shown = {name: value for name, value in point.payload.items() if not name.startswith("_")}
    if not same_payload(shown, item.payload):
        return "stale_payload"
    if any(not same_vector(point.vectors[name], vector) for name, vector in fresh.items()):
        return "stale_vector"
    return "agree"


def same_payload(stored: object, fresh: object) -> bool:
    """Equal, floats up to DIGITS: stores keep payloads as JSON text."""
    if isinstance(stored, Mapping) and isinstance(fresh, Mapping):
        left = cast("Mapping[str, object]", stored)
        right = cast("Mapping[str, object]", fresh)
        return left.keys() == right.keys() and all(
            same_payload(value, right[name]) for name, value in left.items()
        )
    if isinstance(stored, list) and isinstance(fresh, list):
        pairs = list(zip(cast("list[object]", stored), cast("list[object]", fresh), strict=False))
        return len(pairs) == max(len(stored), len(fresh)) and all(same_payload(*p) for p in pairs)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(stored, bool) or isinstance(fresh, bool):
        return stored is fresh
    if isinstance(stored, float) and isinstance(fresh, float | int):
        return math.isclose(stored, fresh, rel_tol=DIGITS)
    return stored == fresh


def same_vector(stored: Vector, fresh: Vector) -> bool:
    """Equal up to TOLERANCE in every component; sparse ones must have the same entries."""
    if isinstance(stored, SparseVector) or isinstance(fresh, SparseVector):
        if not (isinstance(stored, SparseVector) and isinstance(fresh, SparseVector)):
            return False
        same = np.array_equal(stored.indices, fresh.indices)
        return same and np.allclose(stored.values, fresh.values, rtol=0, atol=TOLERANCE)
    return stored.shape == fresh.shape and np.allclose(stored, fresh, rtol=0, atol=TOLERANCE)


def _encode(tower: Tower, items: Sequence[Item]) -> dict[str, dict[str, Vector]]:
    records = [ItemRecord(key=item.key, features=item.features) for item in items]
    encoded, _ = encoding.encode(tower, records)
    return {key: dict(one.vectors) for key, one in encoded.items()}
