"""Whether the fences that claims are given are above those that the store holds.

A store refuses a write whose fence is not above the stored one, and says nothing: that is how late
writers are kept out. A database that was restored from a backup gives out fences again that it gave
out before, and every write would be refused like that. So they are compared before a process's
first write to an index, and again when a fence is not above the one before. `reconcile` puts it
right.
"""

from __future__ import annotations

import sqlalchemy as sa

from indexer import entries
from indexer.errors import StoreAhead
from indexer.indexes import Index
from indexer.stores import VectorStore


class Fences:
    """What one process has seen: index id -> the last fence that it was given."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def check(self, engine: sa.Engine, store: VectorStore, index: Index, *, fence: int) -> None:
        """Returns when a write with this fence, just claimed, counts. Raises StoreAhead."""
        if fence <= self._last.get(index.id, fence):
            compare(engine, store, index)
        self._last[index.id] = fence


def compare(engine: sa.Engine, store: VectorStore, index: Index) -> None:
    """Raises StoreAhead when the store holds a fence that this database has not given out yet."""
    held = store.last_fence(index.ref)
    given = entries.last_fence(engine)  # after the store's, which may be of a moment ago
    if held > given:
        raise StoreAhead(
            f"index {index.id}: {store.name} holds a write with fence {held}, but this database "
            f"has given out {given} so far, so the store would refuse what we write as old. Was "
            "the database restored from a backup? Run `twinspan reconcile`."
        )
