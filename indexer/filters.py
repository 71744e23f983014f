"""Filters over payload fields (in the making)."""

from __future__ import annotations

from typing import Literal

FieldKind = Literal["keyword", "integer", "float", "bool", "datetime", "geo"]
FIELD_KINDS: tuple[FieldKind, ...] = ("keyword", "integer", "float", "bool", "datetime", "geo")
type_: type = object
Filter = object
