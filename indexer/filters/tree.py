"""The filter tree: frozen, checked when it is parsed, and the same for every store.

Leaves know the kind of their field, so that nobody downstream has to guess whether 1 is a number
or a bool. A list in the payload satisfies a leaf when any one of its elements does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

FieldKind = Literal["keyword", "integer", "float", "bool", "datetime", "geo"]
FIELD_KINDS: tuple[FieldKind, ...] = ("keyword", "integer", "float", "bool", "datetime", "geo")

Scalar = str | bool | int | float | datetime
Bound = int | float | datetime


@dataclass(frozen=True, kw_only=True)
class Equals:
    """The field has one of these values (never empty); datetimes are in UTC."""

    field: str
    kind: FieldKind
    values: tuple[Scalar, ...]


@dataclass(frozen=True, kw_only=True)
class Range:
    """One element of the field lies within the bounds: at least one, at most one at each end.
    Those of integer fields are inclusive (`gte`, `lte`) whole numbers."""

    field: str
    kind: FieldKind
    gt: Bound | None = None
    gte: Bound | None = None
    lt: Bound | None = None
    lte: Bound | None = None


@dataclass(frozen=True, kw_only=True)
class Near:
    """A place of the field lies within so many metres of this one, over the sphere."""

    field: str
    lat: float
    lon: float
    within_m: float


@dataclass(frozen=True, kw_only=True)
class Missing:
    """The field is absent, null or an empty list."""

    field: str


@dataclass(frozen=True, kw_only=True)
class All:
    """Each of these (at least one) holds."""

    of: tuple[Filter, ...]


@dataclass(frozen=True, kw_only=True)
class Any:
    """At least one of these holds."""

    of: tuple[Filter, ...]


@dataclass(frozen=True, kw_only=True)
class Not:
    """This doesn't hold; an item without the field passes."""

    of: Filter


Filter = Equals | Range | Near | Missing | All | Any | Not
