"""Our filter tree as a Qdrant server's filters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from qdrant_client import models

from indexer import filters
from indexer.stores import FENCE_FIELD, GONE_FIELD
from indexer.stores.paths import json_path


def build(where: filters.Filter | None, *, without_ids: Sequence[str] = ()) -> models.Filter | None:
    """The filter that passes where `where` does, except for these points; None passes all."""
    if where is None and not without_ids:
        return None
    return models.Filter(
        must=None if where is None else [_condition(where)],
        must_not=[models.HasIdCondition(has_id=list(without_ids))] if without_ids else None,
    )


def present(where: filters.Filter | None) -> models.Filter:
    """Points that pass `where` and are no tombstones."""
    tombstone = models.FieldCondition(key=GONE_FIELD, match=models.MatchValue(value=True))
    return models.Filter(must=None if where is None else [_condition(where)], must_not=[tombstone])


def older_than(fence: int) -> models.Filter:
    """Points whose stored fence is lower, or that have none."""
    at_least = models.FieldCondition(key=FENCE_FIELD, range=models.Range(gte=fence))
    return models.Filter(must_not=[at_least])


def older_among(ids: Sequence[str], fence: int) -> models.Filter:
    """The same, of these points only."""
    return models.Filter(must=[models.HasIdCondition(has_id=list(ids)), older_than(fence)])


def _condition(where: filters.Filter) -> models.Condition:  # noqa: PLR0911  # a case per node
    match where:
        case filters.All(of=of):
            return models.Filter(must=[_condition(each) for each in of])
        case filters.Any(of=of):
            return models.Filter(should=[_condition(each) for each in of])
        case filters.Not(of=of):
            return models.Filter(must_not=[_condition(of)])
        case filters.Missing(field=field):
            return models.IsEmptyCondition(is_empty=models.PayloadField(key=json_path(field)))
        case filters.Equals():
            return _equals(where)
        case filters.Range():
            return models.FieldCondition(key=json_path(where.field), range=_range(where))
        case filters.Near():
            centre = models.GeoPoint(lat=where.lat, lon=where.lon)
            circle = models.GeoRadius(center=centre, radius=where.within_m)
            return models.FieldCondition(key=json_path(where.field), geo_radius=circle)


def _equals(where: filters.Equals) -> models.Condition:
    """A match where the server has one; it has none for floats, datetimes and lists of bools."""
    path = json_path(where.field)
    if where.kind in {"keyword", "integer"}:
        return models.FieldCondition(key=path, match=_match(where.values))
    either: list[models.Condition] = [_exactly(path, value) for value in where.values]
    return either[0] if len(either) == 1 else models.Filter(should=either)


def _match(values: tuple[filters.Scalar, ...]) -> models.Match:
    given = cast("tuple[str, ...]", values)  # or whole numbers
    if len(given) == 1:
        return models.MatchValue(value=given[0])
    return models.MatchAny(any=list(given))


def _exactly(path: str, value: filters.Scalar) -> models.FieldCondition:
    if isinstance(value, bool):
        return models.FieldCondition(key=path, match=models.MatchValue(value=value))
    if isinstance(value, datetime):
        moment = models.DatetimeRange(gte=value, lte=value)
        return models.FieldCondition(key=path, range=moment)
    assert isinstance(value, int | float), value
    return models.FieldCondition(key=path, range=models.Range(gte=value, lte=value))


def _range(where: filters.Range) -> models.Range | models.DatetimeRange:
    bounds = {"gt": where.gt, "gte": where.gte, "lt": where.lt, "lte": where.lte}
    kind = models.DatetimeRange if where.kind == "datetime" else models.Range
    return kind.model_validate(bounds)
