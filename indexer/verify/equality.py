"""Whether what a store gives back is what was written: payloads and vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import numpy as np

from encoders.types import SparseVector
from indexer.stores import Vector

DIGITS = 1e-14  # relative, between a stored number and the row's
TOLERANCE = 1e-4  # between a stored component and a freshly encoded one


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


def same_vector(stored: Vector | None, fresh: Vector) -> bool:
    """Equal up to TOLERANCE in every component; sparse ones must have the same entries. None is a
    vector that the store does not have."""
    if isinstance(stored, SparseVector) or isinstance(fresh, SparseVector):
        if not (isinstance(stored, SparseVector) and isinstance(fresh, SparseVector)):
            return False
        same = np.array_equal(stored.indices, fresh.indices)
        return same and np.allclose(stored.values, fresh.values, rtol=0, atol=TOLERANCE)
    if stored is None:
        return False
    return stored.shape == fresh.shape and np.allclose(stored, fresh, rtol=0, atol=TOLERANCE)
