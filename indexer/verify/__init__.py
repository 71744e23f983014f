"""Does the index say what the catalog says? Catalog, ledger and store are read, and compared.

A difference counts only where nothing is under way: a change that has committed and not arrived is
`in_flight`, not drift. The causes of drift are told apart, see `judging`.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from indexer.indexes import Index
from indexer.stores import VectorStore
from indexer.towers import Tower
from indexer.verify.comparison import Comparison, Options
from indexer.verify.equality import same_payload, same_vector
from indexer.verify.judging import DRIFT, Cause
from indexer.verify.passing import Pass, Place

__all__ = [
    "DRIFT",
    "Cause",
    "Comparison",
    "Options",
    "Pass",
    "Place",
    "compare",
    "compare_steps",
    "same_payload",
    "same_vector",
]


def compare(
    engine: sa.Engine,
    store: VectorStore,
    index: Index,
    *,
    tower: Tower | None = None,
    options: Options | None = None,
) -> Comparison:
    """Every row against its point and its entry in the ledger, every entry and point against its
    row. With `tower` (the one that built the index) rows are encoded again, too."""
    seen = Comparison()
    for _ in compare_steps(engine, store, index, seen, tower=tower, options=options):
        pass
    return seen


def compare_steps(
    engine: sa.Engine,
    store: VectorStore,
    index: Index,
    seen: Comparison,
    *,
    tower: Tower | None = None,
    options: Options | None = None,
) -> Iterator[int]:
    """As `compare`, adding to `seen` and yielding the number of items and points looked at."""
    yield from Pass(
        engine, store, index, seen=seen, place=Place(), tower=tower, options=options or Options()
    ).steps()
