"""An index of films built as production builds it, ready to be judged, and spoilt in one way each.

The tower is `hashing`: its vectors come from the title's words, so another salt is another encoder
of the same dimension, and `slow_s` makes its user side slow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from hashing import HashingEncoder, info

from encoders.types import UserQuery, UserState
from indexer import catalog, collection, database, gate, indexes, reindex, sync
from indexer.catalog import spec
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Towers

GENRES = ("Comedy", "Drama", "Horror", "Western")
FILMS = 200
QUICK = {"gate_queries": 16, "gate_samples": 100, "gate_users": 100}


class SlowEncoder(HashingEncoder):
    """A tower whose user side takes its time."""

    def __init__(self, slow_s: float) -> None:
        super().__init__()
        self.slow_s = slow_s

    def encode_users(self, states: Sequence[UserState]) -> list[UserQuery]:
        time.sleep(self.slow_s)
        return super().encode_users(states)


@dataclass(kw_only=True)
class Judged:
    """One catalog of films in one store, and the gate over its indexes."""

    engine: sa.Engine
    store: VectorStore
    settings: Settings
    towers: Towers = field(init=False)

    def __post_init__(self) -> None:
        self.towers = Towers(self.settings)
        catalog.attach(self.engine, spec.BUILTIN)

    def run(self, statement: str, **parameters: object) -> None:
        with database.begin(self.engine) as connection:
            connection.execute(sa.text(statement), parameters)

    def insert(self, count: int = FILMS, *, first: int = 0) -> None:
        """Film n is of genre n % 4, of the year 1950 + n % 50, and one in ten is of one brand."""
        self.run(
            "INSERT INTO public.items (id, title, attributes) SELECT 'k' || n, 'film ' || n,"
            " jsonb_build_object('genres', jsonb_build_array((CAST(:genres AS text[]))[n % 4 + 1]),"
            " 'year', 1950 + n % 50, 'brand', 'brand ' || n % 10, 'price', n / 7.0)"
            " FROM generate_series(CAST(:first AS int), :last) AS n",
            genres=list(GENRES),
            first=first,
            last=first + count - 1,
        )

    def build(self, encoder_id: str, encoder: HashingEncoder, *, drained: bool = True) -> Index:
        """A new index, filled and drained, that is not live."""
        facts = info(encoder_id)
        self.towers.add(encoder_id, encoder)
        attached = catalog.get(self.engine, "items")
        index = indexes.register(
            self.engine, catalog_id=attached.id, alias="items", encoder=facts, queue="twinspan"
        )
        self.store.ensure_collection(collection.spec_of(index, attached, facts.vectors))
        for _ in reindex.fill(self.engine, index):
            pass
        if drained:
            self.drain()
        return index

    def drain(self) -> None:
        sync.drain(self.engine, self.store, self.towers, self.settings)

    def make_live(self, index: Index) -> None:
        self.store.point_alias(index.alias, index.collection)
        with database.begin(self.engine) as connection:
            indexes.make_live(connection, index.id, index.alias)

    def judge(self, index: Index, *, seed: int = 7, **changed: object) -> gate.Report:
        """The gate's report, made without waiting for anybody, of few queries."""
        settings = self.settings.model_copy(update={**QUICK, "gate_wait_s": 0.0, **changed})
        found = indexes.get(self.engine, index.id)
        return gate.run(self.engine, self.store, self.towers, settings, found, seed=seed)


def failed(report: gate.Report) -> list[str]:
    return [check.name for check in report.failed]


def check(report: gate.Report, name: str) -> gate.Check:
    [found] = [check for check in report.checks if check.name == name]
    return found
