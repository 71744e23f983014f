"""Payloads and filters drawn evenly from a seed: hypothesis by itself prefers the simplest ones,
and hardly ever draws a range with a value on its very edge."""

from __future__ import annotations

import itertools
import random
from typing import Any

from indexer import filters
from indexer.errors import FilterError
from indexer.filters import FieldKind, evaluate

FIELDS: dict[str, FieldKind] = {
    "word": "keyword",
    "odd name.x": "keyword",
    "whole": "integer",
    "real": "float",
    "flag": "bool",
    "moment": "datetime",
    "place": "geo",
}
POOLS: dict[FieldKind, list[Any]] = {
    "keyword": ["a", "b", "", "Ünï", "a.b", "true", "1", "x" * 40],
    "integer": [-3, -1, 0, 1, 2, 3, 10, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)],
    "float": [-1.5, -0.5, 0.0, 0.1, 0.5, 1.0, 3.0, 1e-9, 1e300, -1, 2],
    "bool": [True, False],
    "datetime": [
        "2020-01-01", "2020-01-01T00:00:00Z", "2020-01-01T02:00:00+02:00",
        "2020-01-01T00:00:00.000001Z", "1999-12-31T23:59:59", "2038-01-19T03:14:07.5+00:00",
        "1969-07-20 20:17:40",
    ],
    "geo": [
        {"lat": 52.52, "lon": 13.405}, {"lat": 48.86, "lon": 2.35}, {"lat": 0, "lon": 0},
        {"lat": -89.9, "lon": 179.9}, {"lat": 52.52, "lon": -179.9}, {"lat": 52.53, "lon": 13.41},
    ],
}  # fmt: skip
RADII = [  # just short of each distance and just beyond
    factor * evaluate.distance_m(a["lat"], a["lon"], b["lat"], b["lon"]) + 0.001
    for a, b in itertools.combinations_with_replacement(POOLS["geo"], 2)
    for factor in (0.999, 1.001)
]
INTEGER_BOUNDS = [-3, -2.5, -1, 0, 0.5, 1, 2, 2.5, 3, 10, 2**53 - 1, -(2**53) + 1]


def payload(rng: random.Random) -> dict[str, Any]:
    """What a catalog may write: each field absent, null, one value, or a list with any of them."""
    return {
        field: _field_value(rng, POOLS[kind])
        for field, kind in FIELDS.items()
        if rng.random() < 0.8
    }


def filter_(rng: random.Random) -> filters.Filter:
    """A filter that parses: ranges that nothing can lie in are drawn again."""
    while True:
        try:
            parsed = filters.parse(where(rng, depth=rng.choice([0, 0, 1, 2])), FIELDS)
        except FilterError:
            continue
        assert parsed is not None
        return parsed


def where(rng: random.Random, *, depth: int) -> dict[str, Any]:
    if depth > 0:
        group = rng.choice(["all", "any", "none"])
        inner = [where(rng, depth=depth - rng.choice([1, 2])) for _ in range(rng.randint(1, 3))]
        found: dict[str, Any] = {group: inner}
        return found if rng.random() < 0.6 else {**found, **where(rng, depth=0)}
    some = rng.sample(list(FIELDS), k=rng.choice([1, 1, 2]))
    return {field: _condition(rng, FIELDS[field]) for field in some}


def _field_value(rng: random.Random, pool: list[Any]) -> Any:
    shape = rng.random()
    if shape < 0.55:
        return rng.choice(pool)
    if shape < 0.65:
        return None
    nulls = [None] if shape > 0.9 else []
    return [rng.choice(pool + nulls) for _ in range(rng.randint(0, 3))]


def _condition(rng: random.Random, kind: FieldKind) -> Any:
    shape = rng.random()
    if shape < 0.06:
        return None
    if shape < 0.12:
        return {"exists": rng.random() < 0.5}
    if shape < 0.27:
        return {"not": _condition(rng, kind)}
    return _plain(rng, kind)


def _plain(rng: random.Random, kind: FieldKind) -> Any:
    if kind == "geo":
        return {"near": rng.choice(POOLS["geo"]), "within_m": rng.choice(RADII)}
    if kind in {"integer", "float", "datetime"} and rng.random() < 0.6:
        bounds = INTEGER_BOUNDS if kind == "integer" else POOLS[kind]
        names = rng.sample(["gt", "gte", "lt", "lte"], k=rng.choice([1, 2, 2, 3]))
        return {name: rng.choice(bounds) for name in names}
    if rng.random() < 0.5:
        return rng.choice(POOLS[kind])
    nulls = [None] if rng.random() < 0.2 else []
    return [rng.choice(POOLS[kind] + nulls) for _ in range(rng.randint(1, 4))]
