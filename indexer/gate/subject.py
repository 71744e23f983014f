"""What is judged: one index, with everything that a check may look at."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import sqlalchemy as sa

from indexer import catalog, entries, indexes
from indexer.catalog import Catalog
from indexer.changes import Watermark
from indexer.errors import IndexStateError
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Tower, Towers

LOOK_S = 0.2  # between two looks at what is still on its way

Pause = Callable[[], None]


def sleep() -> None:
    """Some other process does the work."""
    time.sleep(LOOK_S)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """`mark` is the moment at which the gate began; `pause` is called between two looks at what is
    on its way, for somebody to do it. The live index of the alias is None where there is none, or
    where it is the one that is judged."""

    engine: sa.Engine
    store: VectorStore
    towers: Towers
    settings: Settings
    index: Index
    mark: Watermark
    seed: int
    pause: Pause

    @cached_property
    def catalog(self) -> Catalog:
        return catalog.get_by_id(self.engine, self.index.catalog_id)

    @cached_property
    def live(self) -> Index | None:
        try:
            found = indexes.live(self.engine, self.index.alias)
        except IndexStateError:
            return None
        return None if found.id == self.index.id else found

    @property
    def tower(self) -> Tower:
        """The one that built the index."""
        return self.towers.get(self.index.encoder_id, self.index.encoder_uri)

    @cached_property
    def sample(self) -> list[str]:
        """Keys of items that the store should hold, drawn by the seed."""
        return entries.sample(
            self.engine, self.index.id, limit=self.settings.gate_samples, seed=self.seed
        )

    def deadline(self) -> float:
        """time.monotonic() at which waiting ends, counted from now."""
        return time.monotonic() + self.settings.gate_wait_s
