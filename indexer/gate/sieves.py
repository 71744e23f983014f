"""Filters to try: made of the catalog's own filter fields and the values that occur.

For each field, values or ranges that pass about half, a tenth and a fiftieth of the items; then
pairs of two fields. Selective filters are where a graph loses its way.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from indexer import filters
from indexer.errors import FilterError
from indexer.filters import FieldKind, Filter
from indexer.filters.evaluate import distance_m

SHARES = (0.5, 0.1, 0.02)  # of the items that should pass
SIEVES_MAX = 24
PAIRS = 6
WIDE = 0.04  # a filter to be paired passes at least that share, so that a pair passes some

Payload = Mapping[str, object]
Where = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Sieve:
    """One filter, as docs/filters.md writes it and as the stores take it. `share` of the sampled
    items pass."""

    where: Where
    filter: Filter
    share: float


def make(
    payloads: Sequence[Payload], fields: Mapping[str, FieldKind], rng: np.random.Generator
) -> list[Sieve]:
    """At most SIEVES_MAX filters, each of which some of these items pass: of every field in turn,
    so that a catalog of many fields has one of each."""
    columns = [list(_of_field(payloads, name, kind, rng)) for name, kind in sorted(fields.items())]
    turns = itertools.zip_longest(*columns)
    wheres = [where for turn in turns for where in turn if where is not None]
    single = _sieves(payloads, fields, wheres)[: SIEVES_MAX - PAIRS]
    return single + _sieves(payloads, fields, _pairs(single, rng))[:PAIRS]


def _sieves(
    payloads: Sequence[Payload], fields: Mapping[str, FieldKind], wheres: Sequence[Where]
) -> list[Sieve]:
    made: dict[str, Sieve] = {}
    for where in wheres:
        try:
            condition = filters.parse(where, fields)
        except FilterError:  # a value that may be stored, but that no filter can name
            continue
        share = sum(filters.matches(condition, one) for one in payloads) / len(payloads)
        if share and condition is not None:
            made.setdefault(repr(where), Sieve(where=where, filter=condition, share=share))
    return list(made.values())


def _pairs(single: Sequence[Sieve], rng: np.random.Generator) -> list[Where]:
    wide = [sieve.where for sieve in single if sieve.share >= WIDE]
    pairs = [{**a, **b} for a, b in itertools.combinations(wide, 2) if not a.keys() & b.keys()]
    return [pairs[int(number)] for number in rng.permutation(len(pairs))]


def _of_field(
    payloads: Sequence[Payload], name: str, kind: FieldKind, rng: np.random.Generator
) -> Iterator[Where]:
    lists = [_listed(payload.get(name)) for payload in payloads]
    if not any(lists):
        return
    if kind == "geo":
        yield from _circles(name, [value for values in lists for value in values], rng)
        return
    common = Counter(value for values in lists for value in set(values))
    if kind in {"keyword", "bool"}:
        yield from _values(name, common, len(payloads))
    else:
        ordered = cast("list[float]", [value for values in lists for value in values])
        yield from _ranges(name, sorted(ordered), rng)


def _values(name: str, common: Counter[object], items: int) -> Iterator[Where]:
    """The value whose share is nearest to each of SHARES."""
    for wanted in SHARES:
        value = min(common, key=lambda one: (abs(common[one] / items - wanted), str(one)))
        yield {name: value}


def _ranges(name: str, values: Sequence[object], rng: np.random.Generator) -> Iterator[Where]:
    """Of each share a range that begins somewhere."""
    for wanted in SHARES:
        width = max(1, round(wanted * len(values)))
        first = int(rng.integers(0, len(values) - width + 1))
        yield {name: {"gte": values[first], "lte": values[first + width - 1]}}


def _circles(name: str, places: Sequence[object], rng: np.random.Generator) -> Iterator[Where]:
    """Of each share a circle around a place that occurs."""
    points = [cast("Mapping[str, float]", place) for place in places]
    for wanted in SHARES:
        centre = points[int(rng.integers(0, len(points)))]
        away = sorted(
            distance_m(centre["lat"], centre["lon"], one["lat"], one["lon"]) for one in points
        )
        within = 1.0 + away[max(1, round(wanted * len(points))) - 1]
        near = {"lat": centre["lat"], "lon": centre["lon"]}
        yield {name: {"near": near, "within_m": within}}


def _listed(value: object) -> list[object]:
    """The values of a field, which may hold one, several or none."""
    if value is None:
        return []
    return list(cast("list[object]", value)) if isinstance(value, list) else [value]
