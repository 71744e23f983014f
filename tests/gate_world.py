"""An index of films built as production builds it, ready to be judged, and spoilt in one way each.

The tower is `hashing`: its vectors come from the title's words, so another salt is another encoder
of the same dimension, and `slow_s` makes its user side slow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from hashing import HashingEncoder, info

from encoders.dataset import Dataset
from encoders.types import ItemRecord, UserQuery, UserState
from indexer import catalog, collection, database, gate, indexes, interactions, reindex, sync
from indexer.catalog import spec
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Towers

GENRES = ("Comedy", "Drama", "Horror", "Western")
FILMS = 200
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
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

    def insert_world(self, data: Dataset) -> None:
        """The world's items as rows, and what its users did as interactions."""
        self.insert_items(data.items)
        self.insert_events(data)

    def insert_items(self, items: Sequence[ItemRecord]) -> None:
        """Rows with the items' titles, genres and years."""
        with database.begin(self.engine) as connection:
            connection.execute(
                sa.text(
                    "INSERT INTO public.items (id, title, attributes)"
                    " VALUES (:id, :title, CAST(:attributes AS jsonb))"
                ),
                [
                    {
                        "id": item.key,
                        "title": item.features["title"],
                        "attributes": json.dumps(
                            {name: item.features[name] for name in ("genres", "year")}
                        ),
                    }
                    for item in items
                ],
            )

    def insert_events(self, data: Dataset) -> None:
        events = [
            interactions.Interaction(
                user_key=data.user_keys[int(user)],
                item_key=data.items[int(item)].key,
                occurred_at=EPOCH + timedelta(microseconds=int(at)),
            )
            for user, item, at in zip(data.user, data.item, data.occurred_at, strict=True)
        ]
        interactions.add(self.engine, events)

    def insert_clusters(self, count: int) -> None:
        """Films in 20 tight clusters, two to a brand: what a brand has lies far from most films."""
        self.run(
            "INSERT INTO public.items (id, title, attributes) SELECT 'k' || n,"
            " repeat('cluster' || n % 20 || ' ', 5) || n,"
            " jsonb_build_object('brand', 'brand ' || n % 20 / 2)"
            " FROM generate_series(1, CAST(:count AS int)) AS n",
            count=count,
        )

    def start(self, encoder_uri: str) -> Index:
        """A new index by an encoder on disk, filled and drained, that is not live."""
        index = reindex.start(
            self.engine, self.store, catalog_name="items", encoder_uri=encoder_uri
        )
        for _ in reindex.fill(self.engine, index):
            pass
        self.drain()
        return index

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
