"""Everything that a history happens to: users, processes, the ledger, a store, and the oracle."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import sqlalchemy as sa
from hashing import HashingEncoder

from indexer import catalog, collection, database, entries, reindex, sync
from indexer.catalog import spec
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Towers
from proof import seams
from proof.baton import Process
from proof.clock import Clock
from proof.oracle import Oracle
from proof.users import CATALOG, CREATE, User

ALIAS = "films"
KEYS = ("a", "b", "c")
SALTS = {"one": "", "two": "other ", "three": "third "}  # encoders, and what tells them apart
LEASE_S, STORE_TIMEOUT_S = 3_600, 600  # real time never matters
FILL_KEYS = 1  # keys of one backfill transaction


class Parts:
    """One database and one store, used by one history after another."""

    def __init__(self, url: str, folder: Path, store: EdgeStore | QdrantStore) -> None:
        self.engine = database.engine(url)
        self.store = seams.GatedStore(store, volatile=isinstance(store, EdgeStore))
        self.clock = Clock()
        self.settings = Settings.model_validate(
            {
                "data_dir": folder,
                "database_url": url,
                "lease_s": LEASE_S,
                "store_timeout_s": STORE_TIMEOUT_S,
                "batch_s": 60,
                "max_attempts": 2,
                "backoff_s": 0,
                "gate_wait_s": 0,
                "gate_samples": 10,
            }
        )
        self.towers = Towers(self.settings)
        for name, salt in SALTS.items():
            self.towers.add(name, HashingEncoder(salt=salt))
        with psycopg.connect(url) as connection:
            connection.execute(CREATE)
        self.users = [User(connection=psycopg.connect(url)) for _ in range(2)]
        catalog.attach(self.engine, spec.parse(CATALOG, name="films"))
        self.oracle = Oracle()
        self.processes: dict[str, Process] = {}
        self.meddled = False

    def close(self) -> None:
        self.stop()
        for user in self.users:
            user.connection.close()
        self.engine.dispose()

    @contextmanager
    def instrumented(self) -> Generator[None]:
        """The seams are open, time stands under control, backfills have small chunks."""
        with ExitStack() as stack:
            stack.enter_context(seams.installed(self.engine))
            stack.enter_context(mock.patch.object(entries, "time", self.clock))
            stack.enter_context(mock.patch.object(entries, "DEATHS_TO_QUARANTINE", 10_000))
            stack.enter_context(mock.patch.object(sync, "OUTAGE_PAUSE_S", LEASE_S / 20))
            stack.enter_context(mock.patch.object(reindex, "FILL_KEYS", FILL_KEYS))
            yield

    def stop(self) -> None:
        """No process is left, no transaction open, no request under way."""
        for process in self.processes.values():
            process.kill()
        self.processes.clear()
        for user in self.users:
            user.rollback()
        self.store.lose_unflushed()
        self.store.late.clear()
        self.store.refusals = 0

    def _forget(self, index: Index) -> None:
        if self.store.aliases().get(ALIAS) == index.collection:
            self.store.drop_alias(ALIAS)
        self.sql("UPDATE indexer.indexes SET state = 'retired' WHERE id = :id", id=index.id)
        collection.remove(self.engine, self.store, index)  # pyright: ignore[reportArgumentType]

    def _empty(self, index: Index, *keys: str) -> None:
        """None of these points is left (no keys: none at all), not even a tombstone: with the
        engine's own verbs."""
        self.store.apply()
        ids = [index.ref.point_id(key) for key in keys or KEYS]
        real: Any = self.store.real
        if isinstance(real, EdgeStore):
            import qdrant_edge

            real._shard(index.collection).update(qdrant_edge.UpdateOperation.delete_points(ids), [])
        else:
            with real._server.calling() as client:
                client.delete(index.collection, ids)

    def collections(self) -> list[str]:
        return self.store.collections()

    def sql(self, statement: str, **parameters: object) -> None:
        with database.begin(self.engine) as connection:
            connection.execute(sa.text(statement), parameters)
