"""An index whose rows, entries and points can be changed behind each other's back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder

from encoders.types import ItemRecord
from indexer import database, sync, verify
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import Point, VectorStore
from indexer.towers import Tower, Towers
from indexer.verify import Comparison, Options

ITEMS = 20

either_store = pytest.mark.parametrize("store", ["edge"], indirect=True)  # nothing hangs on which


@dataclass(kw_only=True)
class World:
    engine: sa.Engine
    store: VectorStore
    towers: Towers
    settings: Settings
    index: Index

    @property
    def tower(self) -> Tower:
        return self.towers.get(self.index.encoder_id, self.index.encoder_uri)

    def run(self, statement: str, **parameters: object) -> None:
        with database.begin(self.engine) as connection:
            connection.execute(sa.text(statement), parameters)

    def unseen(self, *statements: str) -> None:
        """Changes that no trigger sees."""
        for statement in (
            "ALTER TABLE public.items DISABLE TRIGGER ALL",
            *statements,
            "ALTER TABLE public.items ENABLE ALWAYS TRIGGER ALL",
        ):
            for one in _enabled_one_by_one(self.engine, statement):
                self.run(one)

    def drain(self) -> sync.Report:
        return sync.drain(self.engine, self.store, self.towers, self.settings)

    def compare(self, **options: Any) -> Comparison:
        return verify.compare(
            self.engine, self.store, self.index, tower=self.tower, options=Options(**options)
        )

    def point(self, key: str) -> dict[str, object]:
        return dict(self.store.fetch(self.index.ref, [key])[key].payload)

    def fence(self) -> int:
        """One that a claim could have taken."""
        with database.begin(self.engine) as connection:
            return connection.scalar(sa.text("SELECT nextval('indexer.fences')"))

    def put(self, key: str, *, payload: Mapping[str, object], salt: str = "") -> None:
        """A point as anyone could write it, with the vectors of a hashing encoder."""
        record = ItemRecord(key=key, features={"title": f"film {key[1:]}"})
        vectors = HashingEncoder(salt=salt).encode_items([record]).vectors
        point = Point(key=key, vectors={"hashing": vectors["hashing"][0]}, payload=payload)
        self.store.write_if_newer(self.index.ref, [point], fence=self.fence(), mode="upsert")


def clean(items: int) -> Comparison:
    return Comparison(items=items, agree=items, vectors=items)


def _enabled_one_by_one(engine: sa.Engine, statement: str) -> list[str]:
    if "ENABLE ALWAYS" not in statement:
        return [statement]
    with database.begin(engine) as connection:
        names = connection.scalars(
            sa.text("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'twinspan%'")
        )
        return [f"ALTER TABLE public.items ENABLE ALWAYS TRIGGER {name}" for name in names]
