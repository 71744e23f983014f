"""Our filter tree as Qdrant Edge's own filters."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import numpy as np
import qdrant_edge as edge

from indexer import filters
from indexer.stores.paths import json_path


def build(where: filters.Filter | None, *, without_ids: Iterable[str] = ()) -> edge.Filter | None:
    """The filter that passes where `where` does, except for these points; None passes all."""
    must = [] if where is None else [_condition(where)]
    excluded = set(without_ids)
    if not must and not excluded:
        return None
    return edge.Filter(
        must=must, must_not=[edge.HasIdCondition(set(excluded))] if excluded else None
    )


def present(where: filters.Filter | None, gone: str) -> edge.Filter:
    """Points that pass `where` and are no tombstones, which have `gone`."""
    tombstone = edge.FieldCondition(gone, match=edge.MatchValue(np.bool_(True)))  # pyright: ignore[reportArgumentType]
    return edge.Filter(must=[] if where is None else [_condition(where)], must_not=[tombstone])


def older_than(fence: int, field: str) -> edge.Filter:
    """Points whose `field` is lower than `fence`, or that have none."""
    return edge.Filter(must_not=[edge.FieldCondition(field, range=edge.RangeFloat(gte=fence))])


def older_among(ids: Iterable[str], fence: int, field: str) -> edge.Filter:
    """The same, of these points only."""
    return edge.Filter(must=[edge.HasIdCondition(set(ids)), older_than(fence, field)])


def _condition(where: filters.Filter) -> edge.ConditionType:  # noqa: PLR0911  # a case per node
    match where:
        case filters.All(of=of):
            return edge.Filter(must=[_condition(each) for each in of])
        case filters.Any(of=of):
            return edge.Filter(should=[_condition(each) for each in of])
        case filters.Not(of=of):
            return edge.Filter(must_not=[_condition(of)])
        case filters.Missing(field=field):
            return edge.IsEmptyCondition(json_path(field))
        case filters.Equals():
            return _equals(where)
        case filters.Range():
            return edge.FieldCondition(json_path(where.field), range=_range(where))
        case filters.Near():
            centre = edge.GeoPoint(lon=where.lon, lat=where.lat)
            circle = edge.GeoRadius(center=centre, radius=where.within_m)
            return edge.FieldCondition(json_path(where.field), geo_radius=circle)


def _equals(where: filters.Equals) -> edge.ConditionType:
    """A match where the engine has one; it has none for floats, datetimes and lists of bools."""
    path = json_path(where.field)
    if where.kind in {"keyword", "integer"}:
        return edge.FieldCondition(path, match=_match(where.values))
    either = [_exactly(path, value) for value in where.values]
    return either[0] if len(either) == 1 else edge.Filter(should=[*either])


def _match(values: tuple[filters.Scalar, ...]) -> edge.MatchType:
    if len(values) == 1:
        return edge.MatchValue(values[0])  # pyright: ignore[reportArgumentType]  # str or int here
    return edge.MatchAny(list(values))  # pyright: ignore[reportArgumentType]  # str or int here


def _exactly(path: str, value: filters.Scalar) -> edge.ConditionType:
    if isinstance(value, bool):  # a Python bool is taken for 1 or 0, numpy's is not
        match = edge.MatchValue(np.bool_(value))  # pyright: ignore[reportArgumentType]
        return edge.FieldCondition(path, match=match)
    if isinstance(value, datetime):
        moment = value.isoformat()
        return edge.FieldCondition(path, range=edge.RangeDateTime(gte=moment, lte=moment))
    assert isinstance(value, int | float), value
    return edge.FieldCondition(path, range=edge.RangeFloat(gte=value, lte=value))


def _range(where: filters.Range) -> edge.RangeType:
    bounds = {"gt": where.gt, "gte": where.gte, "lt": where.lt, "lte": where.lte}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    if where.kind == "datetime":
        return edge.RangeDateTime(**{name: _iso(bound) for name, bound in given.items()})
    return edge.RangeFloat(**given)  # pyright: ignore[reportArgumentType]  # numbers of one kind


def _iso(bound: object) -> str:
    assert isinstance(bound, datetime), bound
    return bound.isoformat()
