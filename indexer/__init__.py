"""Keep a vector index in step with a PostgreSQL catalog. Importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from indexer.query import Hits, Retriever

__all__ = ["Hits", "Retriever"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from indexer import query

        return getattr(query, name)
    raise AttributeError(f"module 'indexer' has no attribute {name!r}")
