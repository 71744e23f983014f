"""A row of the catalog, as JSON, made into what towers and stores take: checked value by value.

PostgreSQL writes each row as one JSON text, so that no odd value (a timestamp `infinity`, a number
of 5,000 digits) can break the reading of its neighbours. A value that its declared kind cannot hold
makes its own item unusable, with a message, and no other.

Missing are NULL, JSON's null, and numbers and times that are not finite (NaN, Infinity).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, cast

from indexer import wording
from indexer.catalog.spec import CatalogSpec, Source

INT64 = 2**63
DIGITS_MAX = 4_000  # of a whole number
TEXT_MAX = 100_000  # characters of a text feature that go to a tower, which reads fewer still

_NOT_FINITE = ("nan", "inf", "-inf", "infinity", "-infinity")
UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # NUL, and halves of surrogate pairs: not UTF-8
_ESCAPED = re.compile(r"\\u(0000|[dD][89a-fA-F])")
_TRUE, _FALSE = ("true", "t", "yes", "on", "1"), ("false", "f", "no", "off", "0")

Value = object
Fields = dict[str, object]


class WrongValue(ValueError):
    """A value that its kind cannot hold; the message says which and why."""


class Field(NamedTuple):
    """Where one feature or field stands in a row, and how its value is read. `lon` is for a place
    in two columns."""

    name: str
    at: int
    lon: int | None
    read: Callable[[Value], Value | None]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a row is made into. `places` are the distinct (column, path) to read, in this order."""

    places: tuple[tuple[str, tuple[str, ...]], ...]
    features: tuple[Field, ...]
    returned: tuple[tuple[str, int], ...]
    filters: tuple[Field, ...]


def shape(spec: CatalogSpec) -> Shape:
    """How rows of this description are read; made once per batch."""
    places = tuple(dict.fromkeys(_place(source) for source in spec.sources.values()))
    at = {place: number for number, place in enumerate(places)}
    return Shape(
        places=places,
        features=tuple(
            Field(name, at[_place(source)], None, _FEATURES[source.kind])
            for name, source in spec.features.items()
        ),
        returned=tuple(
            (name, at[_place(source)])
            for name, source in spec.returned.items()
            if name not in spec.filters
        ),
        filters=tuple(
            Field(
                name,
                at[_place(source)],
                None if source.lon is None else at[_place(source.lon)],
                _each(_FIELDS[source.kind]),
            )
            for name, source in spec.filters.items()
        ),
    )


def fields(shape: Shape, documents: Sequence[str | None]) -> tuple[Fields, Fields]:
    """Features and payload of one row, from the JSON arrays of its values. Raises WrongValue."""
    try:
        row = _values(documents)
    except RecursionError as cause:
        raise WrongValue("the row has JSON that is nested too deeply to be read") from cause
    features = _typed(row, shape.features, "features")
    payload: Fields = {name: row[at] for name, at in shape.returned if row[at] is not None}
    payload.update(_typed(row, shape.filters, "filters"))
    return features, payload


def _typed(row: Sequence[Value], wanted: Sequence[Field], part: str) -> Fields:
    """The values as their kinds have them, missing ones left out."""
    typed: Fields = {}
    for name, at, lon, read in wanted:
        value = row[at] if lon is None else _both(row[at], row[lon])
        if value is None:
            continue
        try:
            found = read(value)
        except WrongValue as cause:
            raise WrongValue(f"{part}.{name}: {wording.short(value)} is not {cause}") from None
        if found is not None:
            typed[name] = found
    return typed


def _both(lat: Value, lon: Value) -> Value:
    return None if lat is None or lon is None else {"lat": lat, "lon": lon}


def _values(documents: Sequence[str | None]) -> list[Value]:
    try:
        parsed = [json.loads(document or "[]", parse_int=_digits) for document in documents]
    except WrongValue:
        raise
    except ValueError as cause:
        raise WrongValue(f"the row cannot be read as JSON: {cause}") from cause
    values = [value for document in parsed for value in document]
    if any(document and "\\u" in document and _ESCAPED.search(document) for document in documents):
        values = [_storable(value) for value in values]
    return values


def _digits(text: str) -> int:
    """Python reads no integer that is longer, lest it take minutes."""
    if len(text) > DIGITS_MAX:
        raise WrongValue(
            f"the row has a number of {len(text):,} digits ({text[:20]}…); "
            f"the most that can be read is {DIGITS_MAX:,}"
        )
    return int(text)


def _storable(value: Value) -> Value:
    """The same with U+FFFD for what UTF-8 and PostgreSQL cannot hold."""
    if isinstance(value, str):
        return UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_storable(each) for each in cast("list[Value]", value)]
    if isinstance(value, dict):
        named = cast("dict[str, Value]", value)
        return {UNSTORABLE.sub("\ufffd", name): _storable(each) for name, each in named.items()}
    return value


def _place(source: Source) -> tuple[str, tuple[str, ...]]:
    return source.column, source.path


def _each(read: Callable[[Value], Value | None]) -> Callable[[Value], Value | None]:
    """A list is read element by element: any one of them answers a filter."""

    def read_all(value: Value) -> Value | None:
        if not isinstance(value, list):
            return read(value)
        found = [read(each) for each in cast("list[Value]", value) if each is not None]
        return [each for each in found if each is not None]

    return read_all


def _text(value: Value) -> str:
    if isinstance(value, list):
        words = (_word(each) for each in cast("list[Value]", value) if each is not None)
        return "\n".join(words)[:TEXT_MAX]
    return _word(value)[:TEXT_MAX]


def _word(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    raise WrongValue("text")


def _words(value: Value) -> list[str]:
    many = cast("list[Value]", value) if isinstance(value, list) else [value]
    return [_word(each) for each in many if each is not None]


def _number(value: Value) -> float | None:
    if isinstance(value, str) and value.strip().lower() in _NOT_FINITE:
        return None
    if not isinstance(value, (int, float, str)):
        raise WrongValue("a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except ValueError:
        raise WrongValue("a number") from None
    if not math.isfinite(number):  # NaN and Infinity arrive as text: this is 1e400
        raise WrongValue("a number that 64 bits can hold")
    return number


def _integer(value: Value) -> int | None:
    whole = value if isinstance(value, int) else _whole_of(value)
    if whole is not None and not -INT64 <= whole < INT64:
        raise WrongValue("a whole number of 64 bits")
    return None if whole is None else int(whole)


def _whole_of(value: Value) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,30}\s*", value):
        return int(value)
    number = _number(value)
    if number is not None and not number.is_integer():
        raise WrongValue("a whole number")
    return None if number is None else int(number)


def _bool(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise WrongValue("true or false")


def _datetime(value: Value) -> str | None:
    """RFC 3339 in UTC. A time without a zone is taken for UTC, a date for its midnight."""
    if isinstance(value, str) and value.strip().lower() in _NOT_FINITE:
        return None
    if not isinstance(value, str):
        raise WrongValue("a date or time (ISO 8601 text)")
    try:
        moment = datetime.fromisoformat(value.strip())
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError):
        raise WrongValue("a date or time (ISO 8601 text, years 1 to 9999)") from None


def _geo(value: Value) -> dict[str, float] | None:
    if not isinstance(value, dict):
        raise WrongValue('a place ({"lat": ..., "lon": ...})')
    place = cast("dict[str, Value]", value)
    lat, lon = _coordinate(place.get("lat")), _coordinate(place.get("lon"))
    if lat is None or lon is None:
        return None
    if abs(lat) > 90 or abs(lon) > 180:
        raise WrongValue("a place on Earth (lat from -90 to 90, lon from -180 to 180)")
    return {"lat": lat, "lon": lon}


def _coordinate(value: Value) -> float | None:
    return None if value is None else _number(value)


_FEATURES: dict[str, Callable[[Value], Value | None]] = {
    "text": _text,
    "category": _word,
    "categories": _words,
    "number": _number,
}
_FIELDS: dict[str, Callable[[Value], Value | None]] = {
    "keyword": _word,
    "integer": _integer,
    "float": _number,
    "bool": _bool,
    "datetime": _datetime,
    "geo": _geo,
}
