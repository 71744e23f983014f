"""Points on their way into a store and out of it: what every adapter checks and adds.

Checked here, because engines differ in what they swallow: a batch with one bad point must not
reach an engine that logs an operation before it applies it, and no value may change on its way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from encoders.types import SparseVector, VectorSpec
from indexer.errors import StoreRejected
from indexer.stores import FENCE_FIELD, GONE_FIELD, KEY_FIELD, Point, Search, Vector, mismatch
from indexer.stores.paths import json_path

MAX_DEPTH = 64  # JSON readers of the engines give up at 128
INT_LOW, INT_HIGH = -(2**63), 2**64

Specs = Mapping[str, VectorSpec]


def check(point: Point, specs: Specs) -> None:
    """Raises StoreRejected, naming the item, unless the point is whole and fits these vectors."""
    if point.vectors.keys() != specs.keys():
        raise StoreRejected(
            f"item {point.key!r} has vectors {sorted(point.vectors)}, "
            f"this collection takes {sorted(specs)}."
        )
    for name, values in point.vectors.items():
        check_vector(values, specs[name], f"item {point.key!r}")
    check_payload(point.key, point.payload)


def check_vector(values: Vector, spec: VectorSpec, whose: str) -> None:
    """Raises StoreRejected unless the vector has the kind and dimension that the collection has."""
    if isinstance(values, SparseVector):
        fits = spec.sparse and len(values.indices) == len(values.values)
        found = f"a sparse vector of {len(values.indices)} indices, {len(values.values)} values"
    else:
        fits = not spec.sparse and values.shape == (spec.dimension,)
        found = f"an array of shape {values.shape}"
    if not fits:
        wanted = "a sparse vector" if spec.sparse else f"{spec.dimension} numbers"
        raise StoreRejected(f"{whose}: vector {spec.name!r} takes {wanted}, not {found}.")


def check_search(search: Search, specs: Specs, collection: str) -> None:
    """Raises StoreRejected unless the collection has the vector, of that kind and dimension."""
    check_names([search.vector], specs, collection)
    check_vector(search.values, specs[search.vector], "the query")


def check_names(names: Sequence[str], specs: Specs, collection: str) -> None:
    """Raises StoreRejected for a vector that the collection does not have."""
    for name in names:
        if name not in specs:
            raise StoreRejected(
                f"collection {collection!r} has no vector {name!r}, "
                f"only {mismatch.shown(list(specs.values()))}."
            )


def check_payload(key: str, payload: Mapping[str, object]) -> None:
    """Raises StoreRejected unless every store would give this payload back as it is."""
    if problem := _text_problem(key) or _mapping_problem(payload, 1):
        raise StoreRejected(f"item {key!r} cannot be stored: its payload has {problem}.")


def stamped(key: str, payload: Mapping[str, object], fence: int) -> dict[str, object]:
    """The payload as it is stored: with the key and the fence of this write."""
    return {**payload, KEY_FIELD: key, FENCE_FIELD: fence}


def tombstone(fence: int) -> dict[str, object]:
    """The payload of a point that is no item any more."""
    return {GONE_FIELD: True, FENCE_FIELD: fence}


def is_tombstone(found: Mapping[str, object] | None) -> bool:
    return found is not None and GONE_FIELD in found


def payload_bytes(payload: Mapping[str, object]) -> int:
    return len(json.dumps(payload, ensure_ascii=False).encode())


def selection(wanted: bool | Sequence[str]) -> bool | list[str]:
    """What payload to ask the engine for: the key, or that there is none, always comes along."""
    if wanted is True:
        return True
    return [KEY_FIELD, GONE_FIELD, *(() if wanted is False else map(json_path, wanted))]


def split(
    found: Mapping[str, object] | None, wanted: bool | Sequence[str]
) -> tuple[str, dict[str, object]]:
    """The item's key, and of its payload what was asked for."""
    payload = dict(found or {})
    if KEY_FIELD not in payload:
        raise StoreRejected(
            f"the collection holds a point without {KEY_FIELD!r}, so it isn't one of ours. "
            "Drop the collection and reindex."
        )
    key = str(payload[KEY_FIELD])
    if wanted is not True and (wanted is False or KEY_FIELD not in wanted):
        del payload[KEY_FIELD]
    return key, payload


def _problem(value: object, depth: int) -> str | None:
    """What makes a value no JSON that survives, or None."""
    if value is None or isinstance(value, str | bool | int | float):
        return _scalar_problem(value)
    if not isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__}, which is not JSON"
    if depth > MAX_DEPTH:
        return f"values nested deeper than {MAX_DEPTH} levels"
    if isinstance(value, dict):
        return _mapping_problem(cast("dict[object, object]", value), depth)
    problems = (_problem(each, depth + 1) for each in cast("list[object]", value))
    return next(filter(None, problems), None)


def _scalar_problem(value: str | float | None) -> str | None:
    if isinstance(value, str):
        return _text_problem(value)
    if isinstance(value, float):
        return None if math.isfinite(value) else f"a number that is {value}"
    if value is None or INT_LOW <= value < INT_HIGH:
        return None
    return "an integer of more than 64 bits"


def _mapping_problem(value: Mapping[Any, object], depth: int) -> str | None:
    for name, each in value.items():
        if not isinstance(name, str):
            return f"a {type(name).__name__} as a field's name"
        if problem := _text_problem(name) or _problem(each, depth + 1):
            return problem
    return None


def _text_problem(value: str) -> str | None:
    if value.isascii():
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return "text that is not valid Unicode"
    return None
