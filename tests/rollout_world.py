"""A catalog with indexes that are built, promoted and taken back, on real PostgreSQL and a store
that can be interrupted: a hook before or after any of its verbs, or of our own functions, looks,
waits, or dies."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder, info

from indexer import catalog, database, history, indexes, reindex, rollout, sync, tidying, verify
from indexer.indexes import Index
from indexer.query import Retriever
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Tower, Towers


class Killed(BaseException):
    """Nothing handles it, as nothing handles a SIGKILL."""


def die(*_: object, **__: object) -> None:
    raise Killed


class KnownTowers(Towers):
    """Towers that load the encoders of the test, by id, as others load artifacts."""

    def __init__(self, settings: Settings, encoders: dict[str, HashingEncoder]) -> None:
        super().__init__(settings)
        self._encoders = encoders

    def _load(self, encoder_id: str, uri: str) -> Tower:
        return Tower(encoder_id, self._encoders[encoder_id])


@dataclass(kw_only=True)
class World:
    engine: sa.Engine
    store: VectorStore
    settings: Settings
    encoders: dict[str, HashingEncoder]
    towers: Towers

    def run(self, statement: str, **parameters: object) -> None:
        with database.begin(self.engine) as connection:
            connection.execute(sa.text(statement), parameters)

    def insert(self, *keys: str) -> None:
        self.run(
            "INSERT INTO public.items (id, title) SELECT k, 'film ' || k"
            " FROM unnest(CAST(:keys AS text[])) AS k",
            keys=list(keys),
        )

    def drain(self, **arguments: Any) -> sync.Report:
        return sync.drain(self.engine, self.store, self.towers, self.settings, **arguments)

    def start(self, encoder_id: str, **arguments: Any) -> Index:
        """An index of the encoder with that id, which is its salt, too; nothing is filled in."""
        self.encoders.setdefault(encoder_id, HashingEncoder(salt=encoder_id))
        arguments = {"catalog_name": "items", "encoder": info(encoder_id), **arguments}
        return reindex.start_with(self.engine, self.store, **arguments)

    def fill(self, index: Index) -> None:
        for _ in reindex.fill(self.engine, index):
            pass

    def build(self, encoder_id: str, **arguments: Any) -> Index:
        """A complete index."""
        index = self.start(encoder_id, **arguments)
        self.fill(index)
        self.drain()
        return indexes.get(self.engine, index.id)

    def promote(self, index: Index, **arguments: Any) -> Index:
        return rollout.promote(
            self.engine, self.store, self.towers, self.settings, index.id, **arguments
        )

    def rollback(self, **arguments: Any) -> Index:
        return rollout.rollback(self.engine, self.store, "items", **arguments)

    def retire(self, index: Index) -> Index:
        return rollout.retire(self.engine, self.store, index.id)

    def cancel(self, index: Index) -> Index:
        return rollout.cancel(self.engine, self.store, index.id)

    def tidy(self) -> tidying.Tidied:
        return tidying.tidy(self.engine, self.store, self.settings)

    def states(self) -> dict[int, str]:
        return {index.id: index.state for index in indexes.all_of(self.engine)}

    def steps(self) -> list[tuple[str, int, str]]:
        """What the history says was done, oldest first, without the gate's rows."""
        return [
            (step.action, step.index_id, step.outcome)
            for step in reversed(history.of(self.engine))
            if step.action != "gate"
        ]

    def retriever(self) -> Retriever:
        """Its towers are those of the world, loaded by id."""
        retriever = Retriever(self.store, alias="items", settings=self.settings)
        retriever._live._towers = KnownTowers(self.settings, self.encoders)
        return retriever

    def assert_answers(self, index: Index, retriever: Retriever | None = None) -> None:
        """The index answers, by alias and ledger, with its own encoder."""
        assert self.store.aliases()["items"] == index.collection
        assert indexes.live(self.engine, "items").id == index.id
        hits = (retriever or self.retriever()).similar("k1", k=3)
        assert (hits.index_id, hits.encoder_id) == (index.id, index.encoder_id)

    def assert_agrees(self, index: Index, items: int) -> None:
        tower = self.towers.get(index.encoder_id, index.encoder_uri)
        seen = verify.compare(self.engine, self.store, index, tower=tower)
        assert (seen.items, seen.agree, seen.drift) == (items, items, 0), seen

    def partitions(self) -> set[int]:
        """The indexes that have a part of the ledger."""
        names = (
            "SELECT relname FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid"
            " WHERE inhparent = 'indexer.entries'::regclass AND relkind = 'r'"
        )
        with database.begin(self.engine) as connection:
            return {int(n.removeprefix("entries_")) for n in connection.scalars(sa.text(names))}


def make(engine: sa.Engine, store: VectorStore, settings: Settings) -> World:
    """The built-in catalog is attached and holds thirty items."""
    catalog.attach(engine, catalog.spec.BUILTIN)
    quick = settings.model_copy(update={"gate_wait_s": 0.0, "backoff_s": 0.0})
    encoders: dict[str, HashingEncoder] = {}
    towers = KnownTowers(quick, encoders)
    world = World(engine=engine, store=store, settings=quick, encoders=encoders, towers=towers)
    world.insert(*(f"k{n}" for n in range(30)))
    return world


@contextmanager
def meddled(
    owner: object,
    name: str,
    *,
    before: Callable[..., object] | None = None,
    after: Callable[..., object] | None = None,
) -> Generator[None]:
    """Inside the block, the owner's function is what it was, with somebody looking on."""
    real = getattr(owner, name)

    def meddling(*arguments: Any, **named: Any) -> Any:
        if before is not None:
            before(*arguments, **named)
        result = real(*arguments, **named)
        if after is not None:
            after(*arguments, **named)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, meddling)
        yield
