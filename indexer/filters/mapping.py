"""Our own filter syntax: plain mappings, as JSON has them. `docs/filters.md` describes it."""

from __future__ import annotations

from collections.abc import Mapping

from indexer import wording
from indexer.errors import FilterError
from indexer.filters import values
from indexer.filters.tree import (
    All,
    Any,
    Equals,
    FieldKind,
    Filter,
    Missing,
    Near,
    Not,
    Scalar,
)

MAX_DEPTH = 16
MAX_CONDITIONS = 1_000
MAX_VALUES = 10_000  # of one any-of

BOUNDS = ("gt", "gte", "lt", "lte")
GROUPS = ("all", "any", "none")
OPERATORS = (*BOUNDS, "not", "exists", "near", "within_m")
MAX_RADIUS_M = 20_040_000.0  # half way round the Earth: everything

Fields = Mapping[str, FieldKind]


def parse(where: Mapping[object, object], fields: Fields) -> Filter | None:
    """The filter that the mapping means; None when it is empty. Raises FilterError."""
    if not where:
        return None
    parser = _Parser(fields)
    return parser.mapping(where, depth=1)


class _Parser:
    """Walks one `where`, counting its conditions."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._conditions = 0

    def mapping(self, where: object, *, depth: int) -> Filter:
        entries = values.as_mapping(where)
        if not entries:
            raise FilterError(
                f"a group's elements are non-empty mappings of fields, not {wording.typed(where)}."
            )
        return joined([self._entry(key, value, depth) for key, value in entries.items()])

    def _entry(self, key: object, value: object, depth: int) -> Filter:
        if key in GROUPS and (key not in self._fields or _is_group(value)):
            return self._group(str(key), value, depth)
        field, kind = values.kind_of(key, self._fields)
        return self._field(field, kind, value, depth)

    def _group(self, name: str, of: object, depth: int) -> Filter:
        listed = values.as_list(of)
        if not listed:
            raise FilterError(
                f"the group {name!r} takes a non-empty list of mappings, not {wording.typed(of)}."
            )
        elements = [self.mapping(each, depth=_deeper(depth)) for each in listed]
        if name == "all":
            return joined(elements)
        either = elements[0] if len(elements) == 1 else Any(of=tuple(elements))
        return Not(of=either) if name == "none" else either

    def _field(self, field: str, kind: FieldKind, value: object, depth: int) -> Filter:
        self._count()
        if (said := values.as_mapping(value)) is not None:
            return self._operators(field, kind, said, depth)
        return equality(value, field, kind)

    def _operators(
        self, field: str, kind: FieldKind, said: Mapping[object, object], depth: int
    ) -> Filter:
        """A mapping under a field: each of its operators must hold."""
        unknown = [key for key in said if key not in OPERATORS]
        if unknown or not said:
            problem = (
                f"{wording.short(unknown[0])} is not an operator"
                if unknown
                else "the condition is empty"
            )
            raise FilterError(f"field {field!r}: {problem}. Operators: {', '.join(OPERATORS)}.")
        found: list[Filter] = []
        if bounds := {name: said[name] for name in BOUNDS if name in said}:
            found.append(values.between(bounds, field, kind))
        if "near" in said or "within_m" in said:
            found.append(near(said, field, kind))
        if "exists" in said:
            found.append(_exists(said["exists"], field))
        if "not" in said:
            found.append(Not(of=self._field(field, kind, said["not"], _deeper(depth))))
        return joined(found)

    def _count(self) -> None:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise FilterError(f"the filter has more than {MAX_CONDITIONS:,} conditions.")


def equality(value: object, field: str, kind: FieldKind) -> Filter:
    """Equality with one value, any one of a list, or (None) the field's absence."""
    choices = values.as_list(value)
    if choices is None:
        return Missing(field=field) if value is None else _equals([value], field, kind)
    if not choices:
        raise FilterError(f"field {field!r}: the list of values is empty, so nothing can match.")
    if len(choices) > MAX_VALUES:
        raise FilterError(f"field {field!r}: more than {MAX_VALUES:,} values in one list.")
    given = [choice for choice in choices if choice is not None]
    if len(given) == len(choices):
        return _equals(given, field, kind)
    missing = Missing(field=field)
    return Any(of=(_equals(given, field, kind), missing)) if given else missing


def near(said: Mapping[object, object], field: str, kind: FieldKind) -> Near:
    """{"near": {"lat": …, "lon": …}, "within_m": …}"""
    if kind != "geo":
        raise FilterError(f"field {field!r} is a {kind} field: near is for geo fields.")
    point = values.as_mapping(said.get("near"))
    if point is None or "within_m" not in said:
        raise values.wrong(dict(said), field, "geo")
    if set(point) != {"lat", "lon"}:
        raise FilterError(f'field {field!r}: near takes {{"lat": …, "lon": …}}, nothing else.')
    return Near(
        field=field,
        lat=values.number(point["lat"], f"{field}: near.lat", low=-90, high=90),
        lon=values.number(point["lon"], f"{field}: near.lon", low=-180, high=180),
        within_m=values.number(said["within_m"], f"{field}: within_m", low=0, high=MAX_RADIUS_M),
    )


def joined(conditions: list[Filter]) -> Filter:
    """All of them, as flat as can be."""
    flat: list[Filter] = []
    for each in conditions:
        flat.extend(each.of if isinstance(each, All) else (each,))
    return flat[0] if len(flat) == 1 else All(of=tuple(flat))


def _equals(given: list[object], field: str, kind: FieldKind) -> Filter:
    if kind == "geo":
        raise values.wrong(given[0], field, kind)
    checked: list[Scalar] = [values.scalar(value, field, kind) for value in given]
    return Equals(field=field, kind=kind, values=tuple(dict.fromkeys(checked)))


def _exists(value: object, field: str) -> Filter:
    if not isinstance(value, bool):
        raise FilterError(
            f"field {field!r}: exists takes true or false, not {wording.typed(value)}."
        )
    return Not(of=Missing(field=field)) if value else Missing(field=field)


def _deeper(depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise FilterError(f"the filter is nested deeper than {MAX_DEPTH} levels.")
    return depth + 1


def _is_group(value: object) -> bool:
    listed = values.as_list(value)
    return listed is not None and all(isinstance(each, Mapping) for each in listed)
