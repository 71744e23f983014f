"""A verification from its beginning, or from where it was interrupted, to its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import sqlalchemy as sa

from indexer import catalog, database, history, metrics
from indexer.errors import UsageError
from indexer.indexes import Index
from indexer.stores import VectorStore
from indexer.towers import Tower
from indexer.verify import records
from indexer.verify.comparison import Options
from indexer.verify.judging import DRIFT
from indexer.verify.passing import Pass
from indexer.verify.records import Record

SAVE_S = 2.0  # how much of a look is repeated after an interruption


def started(engine: sa.Engine, index: Index, *, options: Options) -> Record:
    """A verification that a person asked for; `run` makes it."""
    return records.begin(engine, index.id, mode="once", options=options)


def resumed(engine: sa.Engine, index: Index, *, options: Options) -> Record:
    """The one that was interrupted last, at its own share of vectors and at the pace and patience
    of `options`. Raises UsageError when there is none."""
    found = records.latest(engine, index.id, mode="once", unfinished=True)
    if found is None:
        raise UsageError(
            f"no verification of index {index.id} was interrupted: leave out --resume."
        )
    found.options = replace(options, share=found.options.share)
    return found


def share_of(engine: sa.Engine, index: Index, sample: int) -> float:
    """The share of the catalog's items that is about `sample` of them."""
    total = catalog.count(engine, catalog.get_by_id(engine, index.catalog_id))
    return min(1.0, sample / max(1, total))


def run(
    engine: sa.Engine, store: VectorStore, index: Index, record: Record, *, tower: Tower | None
) -> Iterator[Record]:
    """The rest of the verification, stored every SAVE_S seconds; yields after each step. What it
    asked to have repaired is in the index's history."""
    ledger = Saver(engine, index, record)
    made = Pass(
        engine,
        store,
        index,
        seen=record.seen,
        place=record.place,
        tower=tower,
        options=record.options,
    )
    for _ in made.steps():
        ledger.save_if_due()
        yield record
    ledger.save()
    tell_repair(engine, index, record)
    yield record


class Saver:
    """Stores a verification as it goes, and counts in the metrics what is new."""

    def __init__(self, engine: sa.Engine, index: Index, record: Record) -> None:
        self._engine = engine
        self._index = index
        self._record = record
        self._saved_at = time.monotonic()
        self._told = self._counts()

    def save_if_due(self) -> None:
        if time.monotonic() - self._saved_at >= SAVE_S:
            self.save()

    def save(self) -> None:
        records.save(self._engine, self._record)
        self._saved_at = time.monotonic()
        before, self._told = self._told, self._counts()
        new = {name: max(0, count - before[name]) for name, count in self._told.items()}
        metrics.verified(
            alias=self._index.alias, state=self._index.state, items=new.pop("items"), drift=new
        )

    def _counts(self) -> dict[str, int]:
        seen = self._record.seen
        return {"items": seen.items, **{cause.value: getattr(seen, cause) for cause in DRIFT}}


def tell_repair(engine: sa.Engine, index: Index, record: Record) -> None:
    """What a verification has asked for again is in the index's history."""
    if not record.seen.repaired:
        return
    with database.begin(engine) as connection:
        history.record(
            connection,
            index_id=index.id,
            alias=index.alias,
            action="repair",
            report=record.as_dict(),
        )
