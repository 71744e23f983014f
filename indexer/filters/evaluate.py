"""Filters evaluated in plain Python, with Qdrant's semantics for lists, nulls and types.

This is the meaning of a filter; the contract suite holds every store to it. A list satisfies a
condition when one of its elements does; lists within lists are not looked into. Values of another
type than the field's never match: true is not 1, "1" is not 1; 3.0 is 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

from indexer.filters.tree import (
    All,
    Any,
    Bound,
    Equals,
    FieldKind,
    Filter,
    Missing,
    Near,
    Not,
    Range,
    Scalar,
)

EARTH_RADIUS_M = 6_371_008.8  # mean radius, as the stores take it


def matches(filter: Filter | None, payload: Mapping[str, object]) -> bool:  # noqa: PLR0911  # a case per node
    """Whether an item with this payload passes; None lets everything pass."""
    match filter:
        case None:
            return True
        case All(of=of):
            return all(matches(each, payload) for each in of)
        case Any(of=of):
            return any(matches(each, payload) for each in of)
        case Not(of=of):
            return not matches(of, payload)
        case Missing(field=field):
            return payload.get(field) is None or payload.get(field) == []
        case Near(field=field):
            return any(_is_near(filter, value) for value in _elements(payload, field))
        case Equals(field=field, kind=kind, values=values):
            return any(value in values for value in _typed(payload, field, kind))
        case Range(field=field, kind=kind):
            return any(_within(filter, value) for value in _typed(payload, field, kind))


def _elements(payload: Mapping[str, object], field: str) -> list[object]:
    value = payload.get(field)
    return cast("list[object]", value) if isinstance(value, list) else [value]


def _typed(payload: Mapping[str, object], field: str, kind: FieldKind) -> list[Scalar]:
    """The field's values that have its kind."""
    found = (_as_kind(value, kind) for value in _elements(payload, field))
    return [value for value in found if value is not None]


def _as_kind(value: object, kind: FieldKind) -> Scalar | None:
    if kind == "bool" or isinstance(value, bool):
        return value if kind == "bool" and isinstance(value, bool) else None
    if kind == "keyword":
        return value if isinstance(value, str) else None
    if kind == "datetime":
        return _moment(value) if isinstance(value, str) else None
    if not isinstance(value, int | float):
        return None
    if kind == "integer":
        return int(value) if isinstance(value, int) or value.is_integer() else None
    return _double(value)


def _double(value: object) -> float | None:
    """As stores keep a number: None for what is none, or is beyond a double's range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _moment(value: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _within(bounds: Range, value: Scalar) -> bool:
    at = cast("float", value)  # or datetimes: bounds and value are of one kind
    return (
        (bounds.gt is None or at > _number(bounds.gt))
        and (bounds.gte is None or at >= _number(bounds.gte))
        and (bounds.lt is None or at < _number(bounds.lt))
        and (bounds.lte is None or at <= _number(bounds.lte))
    )


def _number(bound: Bound) -> float:
    return cast("float", bound)


def _is_near(centre: Near, value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    place = cast("Mapping[str, object]", value)
    lat, lon = _double(place.get("lat")), _double(place.get("lon"))
    if lat is None or lon is None:
        return False
    return distance_m(centre.lat, centre.lon, lat, lon) <= centre.within_m


def distance_m(lat_1: float, lon_1: float, lat_2: float, lon_2: float) -> float:
    """Metres between two places over the sphere (haversine)."""
    phi_1, phi_2 = math.radians(lat_1), math.radians(lat_2)
    half_lat = math.sin((phi_2 - phi_1) / 2)
    half_lon = math.sin(math.radians(lon_2 - lon_1) / 2)
    chord = half_lat**2 + math.cos(phi_1) * math.cos(phi_2) * half_lon**2
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(1.0, chord)))
