"""What docs/filters.md says, once more and by other means: the oracle for generated filters.

`meaning` goes straight from the mapping as it was written to a function of a payload; it shares no
code with `indexer.filters`, so that a filter that is taken but misread is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from indexer.filters import FieldKind

BOUNDS = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}
LISTS = (list, tuple, set, frozenset)
Test = Callable[[Mapping[str, Any]], bool]


class Invalid(Exception):
    """Must be refused."""


def meaning(where: Any, fields: Mapping[str, FieldKind], depth: int = 1) -> Test:
    """Whether a payload passes. Raises Invalid for what must be refused."""
    need(isinstance(where, Mapping) and depth <= 16)
    tests = [entry(key, value, fields, depth) for key, value in where.items()]
    return lambda payload: all(test(payload) for test in tests)


def entry(key: Any, value: Any, fields: Mapping[str, FieldKind], depth: int) -> Test:
    mappings = isinstance(value, LISTS) and all(isinstance(one, Mapping) for one in value)
    if isinstance(key, str) and key in ("all", "any", "none") and (key not in fields or mappings):
        need(mappings and value and all(value))
        parts = [meaning(one, fields, depth + 1) for one in value]
        if key == "all":
            return lambda payload: all(part(payload) for part in parts)
        wanted = key == "any"
        return lambda payload: any(part(payload) for part in parts) is wanted
    need(isinstance(key, str) and key in fields)
    holds = condition(value, fields[key], depth)
    return lambda payload: holds(elements(payload.get(key)))


Values = list[Any]


def condition(said: Any, kind: FieldKind, depth: int) -> Callable[[Values], bool]:
    """Of a field's values: a list of one where it is no list; empty where it is missing."""
    if isinstance(said, Mapping):
        return operators(said, kind, depth)
    if said is None:
        return lambda values: not values
    if isinstance(said, LISTS):
        need(0 < len(said) <= 10_000)
        each = [
            condition(one, kind, depth) for one in said if not isinstance(one, (Mapping, *LISTS))
        ]
        need(len(each) == len(said))
        return lambda values: any(one(values) for one in each)
    wanted = asked(said, kind)
    return lambda values: any(found(value, kind) == wanted for value in values)


def operators(said: Mapping[Any, Any], kind: FieldKind, depth: int) -> Callable[[Values], bool]:
    need(said and set(map(str, said)) <= {*BOUNDS, "not", "exists", "near", "within_m"})
    tests: list[Callable[[Values], bool]] = []
    bounds = [(name, bound(said[name], kind)) for name in BOUNDS if name in said]
    if bounds:
        need(possible(bounds, kind))
        tests.append(lambda values: any(within(found(value, kind), bounds) for value in values))
    if "near" in said or "within_m" in said:
        tests.append(close_to(said, kind))
    if "exists" in said:
        need(isinstance(said["exists"], bool))
        tests.append(lambda values: bool(values) is said["exists"])
    if "not" in said:
        need(depth < 16)
        inner = condition(said["not"], kind, depth + 1)
        tests.append(lambda values: not inner(values))
    return lambda values: all(test(values) for test in tests)


def within(value: Any, bounds: list[tuple[str, Any]]) -> bool:
    return value is not None and all(BOUNDS[name](value, bound) for name, bound in bounds)


def possible(bounds: list[tuple[str, Any]], kind: FieldKind) -> bool:
    """Whether any value of the kind lies within: tried at and beside every bound."""
    near = [bound for _, bound in bounds]
    if kind == "integer":
        near = [math.floor(one) + step for one in near for step in (-1, 0, 1)]
    if kind != "integer" and len(near) > 1:  # dense: between two different bounds lies something
        low = [one for name, one in bounds if name in ("gt", "gte")]
        high = [one for name, one in bounds if name in ("lt", "lte")]
        if low and high and max(low) != min(high):
            return max(low) < min(high)
    if len({name[0] for name, _ in bounds}) == 1:
        return True
    return any(within(one, bounds) for one in near)


def bound(said: Any, kind: FieldKind) -> Any:
    need(kind in ("integer", "float", "datetime") and said is not None)
    if kind == "integer" and isinstance(said, float):
        need(math.isfinite(said))
        value: Any = said
    else:
        value = asked(said, kind)
    need(kind != "integer" or abs(value) < 2**53)
    return value


def asked(said: Any, kind: FieldKind) -> Any:
    """One value of a filter, comparable with those of `found`."""
    if kind == "bool":
        need(isinstance(said, bool))
        return said
    need(not isinstance(said, bool))
    if kind == "keyword":
        need(isinstance(said, str) and not any("\ud800" <= one <= "\udfff" for one in said))
        return said
    if kind == "datetime":
        need(isinstance(said, str | date))
        return moment(said)
    need(kind in ("integer", "float") and isinstance(said, int | float))
    need(abs(said) < 2**1024 - 2**970 if isinstance(said, int) else math.isfinite(said))
    if kind == "float":
        return float(said)
    need(said == int(said) and -(2**63) <= said < 2**63)
    return int(said)


def moment(said: str | date) -> datetime:
    try:
        read = datetime.fromisoformat(said) if isinstance(said, str) else said
        if not isinstance(read, datetime):
            read = datetime(read.year, read.month, read.day)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid from None


def found(value: Any, kind: FieldKind) -> Any:
    """A value of a payload, as its kind has it; None for one of another kind."""
    try:
        return asked(value, kind) if kind != "datetime" or isinstance(value, str) else None
    except Invalid:
        return None


def elements(value: Any) -> Values:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def close_to(said: Mapping[Any, Any], kind: FieldKind) -> Callable[[Values], bool]:
    need(kind == "geo" and "near" in said and "within_m" in said)
    centre = said["near"]
    need(isinstance(centre, Mapping) and set(centre) == {"lat", "lon"})
    lat, lon = coordinate(centre["lat"], 90), coordinate(centre["lon"], 180)
    radius = coordinate(said["within_m"], 20_040_000)
    need(radius >= 0)
    return lambda values: any(
        metres(lat, lon, value["lat"], value["lon"]) <= radius
        for value in values
        if isinstance(value, Mapping)
    )


def coordinate(said: Any, most: float) -> float:
    need(isinstance(said, int | float) and not isinstance(said, bool) and abs(said) <= most)
    return float(said)


def metres(lat_1: float, lon_1: float, lat_2: float, lon_2: float) -> float:
    """By the angle between two directions, not by the haversine."""
    a, b = direction(lat_1, lon_1), direction(lat_2, lon_2)
    cross = math.dist(a, b)
    return 6_371_008.8 * 2 * math.asin(min(1.0, cross / 2))


def direction(lat: float, lon: float) -> tuple[float, float, float]:
    phi, theta = math.radians(lat), math.radians(lon)
    return math.cos(phi) * math.cos(theta), math.cos(phi) * math.sin(theta), math.sin(phi)


def need(holds: Any) -> None:
    if not holds:
        raise Invalid
