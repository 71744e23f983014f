"""Filters over payload fields: `parse` what a caller wrote, evaluate it with `matches`.

    filters.parse({"genres": "Comedy", "year": {"gte": 1990}}, fields)

`docs/filters.md` has the syntax. The tree that `parse` returns is all that the stores see.
"""

from __future__ import annotations

from collections.abc import Mapping

from indexer.errors import FilterError
from indexer.filters.evaluate import matches
from indexer.filters.tree import (
    FIELD_KINDS,
    All,
    Any,
    Equals,
    FieldKind,
    Filter,
    Missing,
    Near,
    Not,
    Range,
    Scalar,
)

__all__ = [
    "FIELD_KINDS",
    "All",
    "Any",
    "Equals",
    "FieldKind",
    "Filter",
    "Missing",
    "Near",
    "Not",
    "Range",
    "Scalar",
    "matches",
    "parse",
]


def parse(where: object, fields: Mapping[str, FieldKind]) -> Filter | None:
    """The filter that `where` means over these fields; None for None and for an empty mapping.

    `where` is a mapping in our own syntax or a `qdrant_client.models.Filter`. Raises FilterError
    that names the field, says what is wrong with it and what it may be.
    """
    if where is None:
        return None
    if isinstance(where, Mapping):
        from indexer.filters import mapping

        return mapping.parse(where, fields)  # pyright: ignore[reportUnknownArgumentType]  # checked there
    if type(where).__module__.startswith("qdrant_client."):
        from indexer.filters import foreign

        return foreign.parse(where, fields)
    raise FilterError(
        f"a filter is a mapping of fields or a qdrant_client.models.Filter, "
        f"not {type(where).__name__}. See docs/filters.md."
    )
