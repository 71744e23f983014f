"""What is judged: one index, with everything that a check may look at."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from indexer import ledger
from indexer.catalog import Catalog
from indexer.changes import Watermark
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Tower, Towers

LOOK_S = 0.2  # between two looks at what is still on its way

Pause = Callable[[], None]


def sleep() -> None:
    """Some other process does the work."""
    time.sleep(LOOK_S)


@dataclass(kw_only=True)
class Subject:
    """`mark` is the moment at which the gate began, `live` the live index of the alias at that
    moment: None where there is none, or where it is the one that is judged. `pause` is called
    between two looks at what is on its way, for somebody to do it."""

    engine: sa.Engine
    store: VectorStore
    towers: Towers
    settings: Settings
    index: Index
    catalog: Catalog
    live: Index | None
    mark: Watermark
    seed: int
    pause: Pause
    _sample: list[str] | None = field(default=None, init=False)

    @property
    def tower(self) -> Tower:
        """The one that built the index."""
        return self.towers.get(self.index.encoder_id, self.index.encoder_uri)

    @property
    def sample(self) -> list[str]:
        """Keys of items that the store should hold, drawn by the seed when first asked for: then
        the index is complete. (Python 3.11's cached_property would lock all gates of a process.)"""
        if self._sample is None:
            limit = self.settings.gate_samples
            self._sample = ledger.sample(self.engine, self.index.id, limit=limit, seed=self.seed)
        return self._sample

    def deadline(self) -> float:
        """time.monotonic() at which waiting ends, counted from now."""
        return time.monotonic() + self.settings.gate_wait_s
