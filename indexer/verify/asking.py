"""A verification as a person asks for it, from the command line or over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from indexer.indexes import Index
from indexer.stores import VectorStore
from indexer.towers import Towers
from indexer.verify import running
from indexer.verify.comparison import Options
from indexer.verify.records import Record

SAMPLE = 64  # items whose vectors are encoded again unless one says otherwise
PATIENCE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Wish:
    """`vectors`: encode every item again; else about `sample` of them, spread over the catalog.
    `resume`: go on with the verification that was interrupted last."""

    vectors: bool = False
    sample: int = SAMPLE
    repair: bool = False
    resume: bool = False
    items_per_s: float | None = None
    patience_s: float = PATIENCE_S


def verified(
    engine: sa.Engine, store: VectorStore, towers: Towers, index: Index, wish: Wish
) -> Iterator[Record]:
    """The verification, yielded after each step until it has finished. Raises UsageError when there
    is none to resume, and EncoderError when vectors are to be compared and the tower is gone."""
    share = 1.0 if wish.vectors else running.share_of(engine, index, wish.sample)
    options = Options(
        share=share,
        repair=wish.repair,
        items_per_s=wish.items_per_s,
        patience_s=wish.patience_s,
    )
    begin = running.resumed if wish.resume else running.started
    record = begin(engine, index, options=options)
    encodes = record.options.share > 0
    tower = towers.get(index.encoder_id, index.encoder_uri) if encodes else None
    yield from running.run(engine, store, index, record, tower=tower)
