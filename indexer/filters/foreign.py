"""A `qdrant_client.models.Filter`, translated into our tree where our fields can answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from qdrant_client import models

from indexer.errors import FilterError
from indexer.filters import mapping, values
from indexer.filters.tree import Any, FieldKind, Filter, Missing, Near, Not

Fields = Mapping[str, FieldKind]


def parse(where: object, fields: Fields) -> Filter | None:
    """The same filter as a tree; None when it has no condition. Raises FilterError."""
    if not isinstance(where, models.Filter):
        raise FilterError(
            f"a filter is a mapping or a qdrant_client.models.Filter, not models."
            f"{type(where).__name__}. Wrap a single condition: Filter(must=[…])."
        )
    if _size(where, depth=1) > mapping.MAX_CONDITIONS:
        raise FilterError(f"the filter has more than {mapping.MAX_CONDITIONS:,} conditions.")
    return _filter(where, fields)


def _size(where: models.Filter, *, depth: int) -> int:
    """How many conditions it has, refused when it is too deep."""
    if depth > mapping.MAX_DEPTH:
        raise FilterError(f"the filter is nested deeper than {mapping.MAX_DEPTH} levels.")
    least = where.min_should.conditions if where.min_should else None
    parts = (where.must, where.should, where.must_not, least)
    return sum(
        _size(each, depth=depth + 1) if isinstance(each, models.Filter) else 1
        for part in parts
        for each in _listed(part)
    )


def _filter(where: models.Filter, fields: Fields) -> Filter | None:
    found = [_condition(each, fields) for each in _listed(where.must)]
    found += [Not(of=_condition(each, fields)) for each in _listed(where.must_not)]
    if should := [_condition(each, fields) for each in _listed(where.should)]:
        found.append(_either(should))
    if where.min_should is not None:
        found.append(_at_least(where.min_should, fields))
    return mapping.joined(found) if found else None


def _at_least(wanted: models.MinShould, fields: Fields) -> Filter:
    of = [_condition(each, fields) for each in wanted.conditions]
    if of and wanted.min_count == 1:
        return _either(of)
    if of and wanted.min_count == len(of):
        return mapping.joined(of)
    raise FilterError(
        "min_should is understood where it asks for one or for all of its conditions."
    )


def _condition(each: object, fields: Fields) -> Filter:
    match each:
        case models.Filter():
            found = _filter(each, fields)
            if found is None:
                raise FilterError("a nested Filter without any condition. Leave it out.")
            return found
        case models.FieldCondition():
            return _field(each, fields)
        case models.IsEmptyCondition():
            return Missing(field=values.kind_of(each.is_empty.key, fields)[0])
        case models.HasIdCondition():
            raise _unsupported("has_id", "point ids are ours; use exclude for items to leave out")
        case models.IsNullCondition():
            raise _unsupported("is_null", "use is_empty, which also covers absent fields")
        case _:
            raise _unsupported(type(each).__name__, "see docs/filters.md for what can be asked")


def _field(said: models.FieldCondition, fields: Fields) -> Filter:
    field, kind = values.kind_of(said.key, fields)
    found: list[Filter] = []
    if said.match is not None:
        found.append(_match(said.match, field, kind))
    if said.range is not None:
        found.append(_range(said.range, field, kind))
    if said.geo_radius is not None:
        found.append(_radius(said.geo_radius, field, kind))
    if said.is_empty is not None:
        missing = Missing(field=field)
        found.append(missing if said.is_empty else Not(of=missing))
    for name in ("geo_bounding_box", "geo_polygon", "values_count", "is_null"):
        if getattr(said, name) is not None:
            raise _unsupported(name, f"field {field!r}; see docs/filters.md for what can be asked")
    if not found:
        raise FilterError(f"field {field!r}: the condition is empty.")
    return mapping.joined(found)


def _match(said: models.Match, field: str, kind: FieldKind) -> Filter:
    match said:
        case models.MatchValue():
            return mapping.equality(said.value, field, kind)
        case models.MatchAny():
            return mapping.equality(list(said.any), field, kind)
        case models.MatchExcept():
            raise _unsupported("match except", f"field {field!r}; put match any under must_not")
        case _:
            raise _unsupported(type(said).__name__, f"field {field!r} has no full-text index")


def _range(said: object, field: str, kind: FieldKind) -> Filter:
    if not isinstance(said, models.Range | models.DatetimeRange):
        raise _unsupported(type(said).__name__, f"field {field!r}")
    bounds: dict[str, object] = {
        name: getattr(said, name) for name in mapping.BOUNDS if getattr(said, name) is not None
    }
    if not bounds:
        raise FilterError(f"field {field!r}: the range has no bound.")
    return values.between(bounds, field, kind)


def _radius(said: models.GeoRadius, field: str, kind: FieldKind) -> Near:
    centre = {"lat": said.center.lat, "lon": said.center.lon}
    return mapping.near({"near": centre, "within_m": said.radius}, field, kind)


def _either(of: list[Filter]) -> Filter:
    return of[0] if len(of) == 1 else Any(of=tuple(of))


def _listed(part: object) -> Sequence[object]:
    """The client takes one condition where a list of one is meant."""
    if part is None:
        return []
    return cast("list[object]", part) if isinstance(part, list) else [part]


def _unsupported(what: str, remedy: str) -> FilterError:
    return FilterError(f"the filter uses {what}, which catalogs' fields cannot answer: {remedy}.")
