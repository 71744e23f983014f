"""What a feature's value may look like, and what it means.

Catalogs deliver strings, numbers, dates, lists, None, and now and then something absurd. Here each
becomes a float, a text or a tuple of values, or it is refused with the name of whoever has it: the
caller then sets that one record aside. None, "", NaN and an empty list all mean missing.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID

import numpy as np

from encoders import text
from encoders.errors import EncodeFailed
from encoders.types import Feature

VALUE_CHARACTERS = 200  # of a category's value are read
WORDS = 64  # of a text are read, the first ones
LARGEST = 1e30  # numbers beyond it are taken as it, far within float32

Record = tuple[str, Mapping[str, object]]  # who it is, for messages, and its features

_WORD = re.compile(r"\w+")


def column(feature: Feature, records: Sequence[Record]) -> list[Any]:
    """Per record what the feature says: a float (NaN if missing), a text ("" if missing), or a
    tuple of values (empty if missing). Raises EncodeFailed naming record and feature."""
    name, read = feature.name, _READERS[feature.kind]
    cells: list[Any] = []
    for who, features in records:
        value = features.get(name)
        try:
            cells.append(read(value))
        except (TypeError, ValueError, ArithmeticError) as cause:
            raise EncodeFailed(
                f"{who}: {feature.kind} feature {name!r} cannot be {_shown(value)}; correct it at "
                "its source or give the feature another kind"
            ) from cause
    return cells


def readable(
    features: Sequence[Feature], records: Sequence[Record]
) -> tuple[list[Record], list[EncodeFailed]]:
    """The records without the values that are of no use, and why each of those is."""
    kept: list[Record] = []
    problems: list[EncodeFailed] = []
    for who, values in records:
        left = dict(values)
        for feature in features:
            try:
                column(feature, [(who, values)])
            except EncodeFailed as problem:
                problems.append(problem)
                del left[feature.name]
        kept.append((who, values if len(left) == len(values) else left))
    return kept, problems


def words(value: str) -> list[str]:
    """The text's first distinct words, in lower case."""
    if not value.isascii():
        value = unicodedata.normalize("NFKC", value)
    return list(dict.fromkeys(_WORD.findall(value.casefold())))[:WORDS]


def _category(value: object) -> tuple[str, ...]:
    plain = _plain(value)
    return (plain,) if plain else ()


def _categories(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset | np.ndarray):
        return _category(value)
    parts = (_plain(part) for part in cast("Iterable[object]", value))
    return tuple(dict.fromkeys(part for part in parts if part))


def _number(value: object) -> float:
    value = _scalar(value)
    if value is None or value == "":
        return math.nan
    if isinstance(value, date):
        return _days(value)
    if not isinstance(value, int | float | Decimal | str):
        raise TypeError(type(value))
    number = float(value)
    return number if math.isnan(number) else max(-LARGEST, min(LARGEST, number))


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        value = " ".join(_plain(part) for part in cast("Iterable[object]", value))
    return text.clean(value if isinstance(value, str) else _plain(value)).strip()


def _plain(value: object) -> str:
    """One value as text, "" if missing; the same for 1, 1.0 and Decimal("1.00")."""
    if type(value) is str:  # most are, and this runs for every value of every item
        return value[:VALUE_CHARACTERS].strip()
    value = _scalar(value)
    if isinstance(value, Enum):
        value = value.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | Decimal):
        return _plain_number(float(value))
    if isinstance(value, str | int | UUID | date):
        return str(value)[:VALUE_CHARACTERS].strip()
    raise TypeError(type(value))


def _scalar(value: object) -> object:
    return cast(Any, value).item() if isinstance(value, np.generic) else value


def _plain_number(value: float) -> str:
    if math.isnan(value):
        return ""
    return (str(int(value)) if value.is_integer() else str(value))[:VALUE_CHARACTERS]


def _days(value: date) -> float:
    """Days since 1970; a time without a zone is taken as UTC."""
    whole = value.toordinal() - 719_163
    if not isinstance(value, datetime):
        return float(whole)
    offset = value.utcoffset()
    seconds = value.hour * 3600 + value.minute * 60 + value.second
    return whole + (seconds - (offset.total_seconds() if offset else 0)) / 86_400


_READERS: Mapping[str, Callable[[object], Any]] = {
    "category": _category,
    "categories": _categories,
    "number": _number,
    "text": _text,
}


def _shown(value: object) -> str:
    if not isinstance(value, str | float):  # an int may be too long for repr
        return f"a value of type {type(value).__name__}"
    shown = repr(value[:60] if isinstance(value, str) else value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
