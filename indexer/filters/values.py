"""What a value in a filter must be for the kind of its field."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import cast

from indexer import wording
from indexer.errors import FilterError
from indexer.filters.tree import Bound, FieldKind, Range, Scalar

WANTED: dict[FieldKind, str] = {
    "keyword": "text",
    "integer": "a whole number",
    "float": "a finite number",
    "bool": "true or false",
    "datetime": "a date or time (ISO 8601 text, date or datetime)",
    "geo": '{"near": {"lat": …, "lon": …}, "within_m": …}',
}
RANGED: tuple[FieldKind, ...] = ("integer", "float", "datetime")
INT64 = 2**63
EXACT_IN_DOUBLE = 2**53 - 1  # stores compare ranges in double precision


def kind_of(field: object, fields: Mapping[str, FieldKind]) -> tuple[str, FieldKind]:
    """The field's name and kind, or FilterError with the names that come near."""
    if isinstance(field, str) and field in fields:
        return field, fields[field]
    if not fields:
        raise FilterError(
            f"no field {wording.short(field)} to filter by: this catalog has no filterable fields."
        )
    near = difflib.get_close_matches(wording.short(field).strip("'"), fields, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise FilterError(
        f"no field {wording.short(field)} to filter by.{hint} "
        f"Filterable: {wording.listed(sorted(fields))}."
    )


def scalar(value: object, field: str, kind: FieldKind) -> Scalar:
    """The value as the field's kind has it, datetimes in UTC."""
    if isinstance(value, bool) or kind == "bool":
        return _bool(value, field, kind)
    if kind == "keyword" and isinstance(value, str):
        return _text(value, field)
    if kind == "integer" and _is_whole(value):
        return _integer(value, field)
    if kind == "float" and isinstance(value, int | float):
        return _finite(value, field, kind)
    if kind == "datetime" and isinstance(value, str | date):
        return _utc(value, field)
    raise wrong(value, field, kind)


def between(bounds: Mapping[str, object], field: str, kind: FieldKind) -> Range:
    """The range that these bounds (gt, gte, lt, lte) mean; refused when nothing can lie in it."""
    if kind not in RANGED:
        raise FilterError(
            f"field {field!r} is a {kind} field and has no order: "
            f"gt, gte, lt and lte are for {', '.join(RANGED)} fields."
        )
    checked = {name: _bound(value, f"{field}: {name}", kind) for name, value in bounds.items()}
    found = Range(field=field, kind=kind, **checked)
    found = _whole_bounds(found) if kind == "integer" else _tightest(found)
    _refuse_reversed(found, bounds)
    return found


def number(value: object, name: str, *, low: float, high: float) -> float:
    """A finite number within low and high."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FilterError(f"{name} must be a number, not {wording.typed(value)}.")
    found = _finite(value, name, "float")
    if not low <= found <= high:
        raise FilterError(
            f"{name} must lie between {low:g} and {high:g}, not {wording.typed(value)}."
        )
    return found


def wrong(value: object, field: str, kind: FieldKind) -> FilterError:
    return FilterError(
        f"field {field!r} takes {kind} values: give {WANTED[kind]}, not {wording.typed(value)}."
    )


def as_mapping(value: object) -> Mapping[object, object] | None:
    return cast("Mapping[object, object]", value) if isinstance(value, Mapping) else None


def as_list(value: object) -> list[object] | None:
    if isinstance(value, list | tuple | set | frozenset):
        return list(cast("list[object]", value))
    return None


def _bool(value: object, field: str, kind: FieldKind) -> bool:
    if isinstance(value, bool) and kind == "bool":
        return value
    raise wrong(value, field, kind)


def _text(value: str, field: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FilterError(
            f"field {field!r}: {wording.typed(value)} is not valid Unicode text."
        ) from None
    return value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _integer(value: object, field: str) -> int:
    whole = int(value) if isinstance(value, int | float) else 0
    if not -INT64 <= whole < INT64:
        raise FilterError(f"field {field!r}: {wording.typed(value)} does not fit into 64 bits.")
    return whole


def _finite(value: float, field: str, kind: FieldKind) -> float:
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise FilterError(f"field {field!r}: give {WANTED[kind]}, not {wording.typed(value)}.")
    return found


def _utc(value: str | date, field: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise wrong(value, field, "datetime") from None


def _bound(value: object, field: str, kind: FieldKind) -> Bound:
    if kind == "integer" and isinstance(value, float):
        found: Scalar = _finite(value, field, kind)
    else:
        found = scalar(value, field, kind)
    if isinstance(found, bool | str):
        raise wrong(value, field, kind)
    if kind == "integer" and not isinstance(found, datetime) and abs(found) > EXACT_IN_DOUBLE:
        raise FilterError(
            f"field {field!r}: bounds of a range must lie within ±(2^53 - 1), where double "
            f"precision is exact; {wording.typed(value)} doesn't. Match such numbers by equality."
        )
    return found


def _whole_bounds(found: Range) -> Range:
    """The same set of integers with inclusive whole bounds: stores disagree about gte 3.5."""
    lows = [math.floor(_plain(v)) + 1 for v in (found.gt,) if v is not None]
    lows += [math.ceil(_plain(v)) for v in (found.gte,) if v is not None]
    highs = [math.ceil(_plain(v)) - 1 for v in (found.lt,) if v is not None]
    highs += [math.floor(_plain(v)) for v in (found.lte,) if v is not None]
    return Range(
        field=found.field,
        kind=found.kind,
        gte=max(lows, default=None),
        lte=min(highs, default=None),
    )


def _tightest(found: Range) -> Range:
    """The same range with one bound at each end: engines look at one only."""
    if found.gt is not None and found.gte is not None:
        strict = _not_above(found.gte, found.gt)
        found = replace(found, gte=None) if strict else replace(found, gt=None)
    if found.lt is not None and found.lte is not None:
        strict = _not_above(found.lt, found.lte)
        found = replace(found, lte=None) if strict else replace(found, lt=None)
    return found


def _not_above(one: Bound, other: Bound) -> bool:
    return cast("float", one) <= cast("float", other)  # or both are datetimes


def _plain(value: Bound) -> int | float:
    assert not isinstance(value, datetime), value
    return value


def _refuse_reversed(found: Range, bounds: Mapping[str, object]) -> None:
    low = found.gt if found.gt is not None else found.gte
    high = found.lt if found.lt is not None else found.lte
    if low is None or high is None:
        return
    open_end = found.gt is not None or found.lt is not None
    if not _not_above(low, high) or (low == high and open_end):
        said = ", ".join(f"{name} {wording.short(value)}" for name, value in bounds.items())
        raise FilterError(f"field {found.field!r}: nothing lies in the range {said}.")
