"""What runs for `rollout_run`: PostgreSQL, Redis, a store in a process of its own, two workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chaos_servers
import faults  # noqa: F401 - brings the encoders for tests
import live
import sqlalchemy as sa
from chaos_servers import Crew, OwnRedis
from edge_server import SharedEdge
from hashing import info

from indexer import catalog, database, indexes, ledger, reindex, rollout, schema
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.towers import Towers

LEASE_S, STORE_S = 5.0, 2.0
GATE_S = 5.0  # under steady writes the gate waits so long for a moment in which nothing changes
WITHIN_S = 900.0
SHOP = sa.text("""
    INSERT INTO public.items (id, title, attributes)
    SELECT 'item-' || n, concat_ws(' ', 'word' || n % 4999, 'word' || n % 5003, 'word' || n % 7919),
           jsonb_build_object('genres', jsonb_build_array('genre ' || n % 20), 'year', n % 75)
    FROM generate_series(0, :items - 1) AS n
""")
COMMAND = "import faults, indexer.cli; indexer.cli.main()"


@dataclass(kw_only=True)
class Stage:
    """Everything that runs."""

    folder: Path
    engine: sa.Engine
    store: Any  # a SharedEdge: it passes on every verb of a VectorStore
    store_port: int
    settings: Settings
    towers: Towers
    crew: Crew
    environment: Mapping[str, str]

    def build(self, encoder_id: str) -> Index:
        """A new index whose collection exists; nothing is filled in yet."""
        return reindex.start_with(
            self.engine,
            self.store,
            catalog_name="items",
            encoder=info(encoder_id),
            queue=self.crew.queue,
        )

    def promote(self, index: Index) -> float:
        began = time.perf_counter()
        rollout.promote(self.engine, self.store, self.towers, self.settings, index.id)
        return time.perf_counter() - began

    def left(self, index: Index) -> int:
        """Items of the backfill that are not done."""
        index = indexes.get(self.engine, index.id)
        summary = ledger.summary(self.engine, index_id=index.id).get(index.id)
        return summary.backfill if summary and index.backfill_done else sys.maxsize

    def resume(self, index: Index) -> subprocess.Popen[bytes]:
        """`twinspan reindex --resume`, as a process of its own."""
        arguments = ["reindex", "--resume", str(index.id), "--no-promote", "--wait"]
        return chaos_servers.spawn(
            [sys.executable, "-c", COMMAND, *arguments],
            self.folder / "reindex.log",
            {**self.environment, "PYTHONPATH": f"{live.REPOSITORY}{os.pathsep}{live.TESTS}"},
        )

    def wait(self, true: Callable[[], bool], what: str) -> None:
        """Until that is true; workers that have ended meanwhile are started again."""

        def look() -> bool:
            self.crew.revive()
            return true()

        live.wait_until(look, within_s=WITHIN_S, what=what, log=self.crew.logs)

    def is_clean(self) -> bool:
        """Whether the outbox is empty and nothing in the ledger is dirty."""
        dirty = (
            "SELECT EXISTS (SELECT FROM indexer.changes) OR EXISTS"
            " (SELECT FROM indexer.entries WHERE wanted > written)"
        )
        with database.begin(self.engine) as connection:
            return not connection.scalar(sa.text(dirty))


@contextmanager
def staged(folder: Path, items: int) -> Generator[Stage]:
    """A shop of so many items, attached, without an index; two workers wait for one."""
    with ExitStack() as closing:
        (folder / "redis").mkdir()
        broker = OwnRedis(folder=folder / "redis")
        broker.begin()
        closing.callback(broker.kill)
        port = closing.enter_context(chaos_servers.store(folder, "edge_server.py", "edge"))
        server = closing.enter_context(postgres.start(folder / "postgres"))
        engine = database.engine(server.url)
        closing.callback(engine.dispose)
        schema.migrate(engine)
        with database.begin(engine) as connection:
            connection.execute(SHOP, {"items": items})
        catalog.attach(engine, spec.BUILTIN)  # afterwards: nothing of it is a live change
        environment = {
            "TWINSPAN_DATABASE_URL": server.url,
            "TWINSPAN_BROKER_URL": broker.url,
            "TWINSPAN_LEASE_S": str(LEASE_S),
            "TWINSPAN_STORE_TIMEOUT_S": str(STORE_S),
            "TWINSPAN_FAULTS_EDGE": str(port),
        }
        pools = (("--pool=solo",),) * 2
        queue = live.unique("rollout")
        crew = Crew(folder=folder, environment=environment, queue=queue, pools=pools)
        closing.callback(crew.kill)
        crew.start()
        settings = Settings(
            data_dir=folder,
            lease_s=LEASE_S,
            store_timeout_s=STORE_S,
            gate_wait_s=GATE_S,
            gate_p95_ms=10_000,  # how fast a busy machine answers is not asked here
        )
        yield Stage(
            folder=folder,
            engine=engine,
            store=SharedEdge(port),
            store_port=port,
            settings=settings,
            towers=Towers(settings),
            crew=crew,
            environment={**environment, "TWINSPAN_DATA_DIR": str(folder / "data")},
        )
