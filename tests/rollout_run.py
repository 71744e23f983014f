"""A new tower under load: built while everything is written, killed, promoted, taken back.

    python tests/rollout_run.py [--items 100000] [--kills 10] [--per-second 20] [--seconds 30]

Two Celery workers over a Redis of their own, a PostgreSQL from the wheel, a store that is Qdrant
Edge in a process of its own. One session writes all the time, one process asks all the time (see
`rollout_queries`). `twinspan reindex` and workers are killed in turn; the command is resumed, the
workers come back. Prints JSON; exit status 1 when anything is amiss.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import chaos_servers
import faults  # noqa: F401 - brings the encoders for tests
import live
import numpy as np
import psycopg
import sqlalchemy as sa
from chaos_servers import Crew, OwnRedis
from edge_server import SharedEdge
from hashing import info
from live_world import ENCODERS

from indexer import (
    catalog,
    database,
    indexes,
    ledger,
    reindex,
    rollout,
    schema,
    verify,
)
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.towers import Towers

LEASE_S, STORE_S = 5.0, 2.0
GATE_S = 5.0  # under steady writes the gate waits so long for a moment in which nothing changes
FIXED = 500  # items that are never written to
LOOK_S = 0.01
WITHIN_S = 900.0
SHOP = sa.text("""
    INSERT INTO public.items (id, title, attributes)
    SELECT 'item-' || n, concat_ws(' ', 'word' || n % 4999, 'word' || n % 5003, 'word' || n % 7919),
           jsonb_build_object('genres', jsonb_build_array('genre ' || n % 20), 'year', n % 75)
    FROM generate_series(0, :items - 1) AS n
""")
COMMAND = "import faults, indexer.cli; indexer.cli.main()"


@dataclass(kw_only=True)
class Figures:
    """Freshness is in milliseconds from a commit until the live index shows it."""

    items: int
    kills: dict[str, int] = field(default_factory=dict[str, int])
    freshness_ms: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    build_s: float = 0.0
    promote_s: list[float] = field(default_factory=list[float])
    rollback_s: float = 0.0
    queries: dict[str, object] = field(default_factory=dict[str, object])
    changes: int = 0
    verified: dict[str, int] = field(default_factory=dict[str, int])  # items by index that agree
    amiss: list[str] = field(default_factory=list[str])


class Writer:
    """One change a transaction, evenly paced, each looked for in the live index until it shows."""

    def __init__(self, url: str, store: SharedEdge, items: int, per_second: float) -> None:
        self._url, self._store, self._items = url, store, items
        self._pause_s = 1 / per_second
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._pending: dict[str, tuple[str, float, str]] = {}  # key -> title, at, phase
        self.seen: dict[str, list[float]] = {}
        self.index: Index | None = None  # where to look
        self.phase = ""
        self.changes = 0
        self._threads = [threading.Thread(target=one) for one in (self._write, self._look)]

    def start(self) -> None:
        for one in self._threads:
            one.start()

    def finish(self) -> None:
        self._stop.set()
        for one in self._threads:
            one.join()

    def count(self, phase: str) -> int:
        return len(self.seen.get(phase, ()))

    def _write(self) -> None:
        due = time.monotonic()
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due += self._pause_s
                self._change(connection)

    def _change(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        """Upserts in turn over new and old items; every tenth is followed by a delete elsewhere."""
        self.changes += 1
        number = FIXED + self.changes * 7 % (self._items + 1_000)
        key, title = f"item-{number}", f"word{self.changes} written{self.changes}"
        connection.execute(
            "INSERT INTO public.items (id, title) VALUES (%s, %s)"
            " ON CONFLICT (id) DO UPDATE SET title = excluded.title",
            (key, title),
        )
        with self._lock:
            self._pending[key] = (title, time.monotonic(), self.phase)
        if self.changes % 10 == 0:
            other = FIXED + (number + self._items // 2) % self._items
            connection.execute("DELETE FROM public.items WHERE id = %s", (f"item-{other}",))

    def _look(self) -> None:
        while not self._stop.wait(LOOK_S):
            with self._lock:
                pending = dict(self._pending)
            if pending and self.index is not None:
                self._see(pending, self._store.fetch(self.index.ref, list(pending)[:100]))

    def _see(
        self, pending: Mapping[str, tuple[str, float, str]], points: Mapping[str, object]
    ) -> None:
        now = time.monotonic()
        for key, (title, at, phase) in pending.items():
            if key in points and points[key].payload["title"] == title:
                self.seen.setdefault(phase, []).append(1_000 * (now - at))
                with self._lock:
                    if self._pending.get(key, ("",))[0] == title:
                        del self._pending[key]


@dataclass(kw_only=True)
class Stage:
    """Everything that runs."""

    folder: Path
    engine: sa.Engine
    store: SharedEdge
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


@contextmanager
def _stage(folder: Path, items: int) -> Generator[Stage]:
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


def run(folder: Path, options: argparse.Namespace, tell: Callable[[str], None]) -> Figures:
    figures = Figures(items=options.items)
    with _stage(folder, options.items) as stage:
        old, new = ENCODERS
        first = stage.build(old)
        for _ in reindex.fill(stage.engine, first):
            pass
        _wait(stage, lambda: stage.left(first) == 0, "the first index")
        tell("the first index is complete")
        figures.promote_s.append(stage.promote(first))
        url = stage.environment["TWINSPAN_DATABASE_URL"]
        writer = Writer(url, stage.store, options.items, options.per_second)
        writer.index = first
        with _asking(stage, figures), _writing(writer):
            _observe(stage, writer, "warm", min(3, options.seconds))
            _observe(stage, writer, "alone", options.seconds)
            tell("observed alone")
            _build(stage, stage.build(new), writer, figures, options, tell)
        figures.changes = writer.changes
        figures.freshness_ms = {phase: _spread(ms) for phase, ms in writer.seen.items()}
        _compare(stage, figures)
    return figures


def _build(
    stage: Stage,
    second: Index,
    writer: Writer,
    figures: Figures,
    options: argparse.Namespace,
    tell: Callable[[str], None],
) -> None:
    """The second index, from its first key to its second promotion."""
    began = time.monotonic()
    writer.phase = "backfill"
    command = _command(stage, second)
    half = options.items * 0.5
    _wait(stage, lambda: stage.left(second) < half, "half of the backfill")
    writer.phase = "backfill with kills"
    figures.kills = {"worker": 0, "reindex": 0}
    for kill in range(options.kills):
        left = half * (1 - kill / options.kills)
        _wait(stage, lambda left=left: stage.left(second) <= left, f"kill {kill}")
        if kill % 3 == 2:
            command.kill()
            command.wait()
            command = _command(stage, second)
            figures.kills["reindex"] += 1
        else:
            stage.crew.workers[kill % 2].kill()
            figures.kills["worker"] += 1
        tell(f"kill {kill + 1}, {stage.left(second)} left")
    _wait(stage, lambda: stage.left(second) == 0, "the backfill")
    assert command.wait(WITHIN_S) == 0, "reindex --resume failed"
    figures.build_s = round(time.monotonic() - began, 1)
    writer.phase = "afterwards"
    _turn(stage, second, writer, figures, min(3, options.seconds), tell)


def _turn(
    stage: Stage,
    second: Index,
    writer: Writer,
    figures: Figures,
    seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Promoted, rolled back, promoted again, with a moment of queries after each."""
    figures.promote_s.append(stage.promote(second))
    tell("promoted")
    _observe(stage, writer, "promoted", seconds)
    began = time.perf_counter()
    rollout.rollback(stage.engine, stage.store, second.alias)
    figures.rollback_s = time.perf_counter() - began
    tell("rolled back")
    _observe(stage, writer, "rolled back", seconds)
    figures.promote_s.append(stage.promote(second))
    tell("promoted again")
    _observe(stage, writer, "promoted again", seconds)


def _command(stage: Stage, index: Index) -> subprocess.Popen[bytes]:
    """`twinspan reindex --resume`, as a process of its own."""
    arguments = ["reindex", "--resume", str(index.id), "--no-promote", "--wait"]
    return chaos_servers.spawn(
        [sys.executable, "-c", COMMAND, *arguments],
        stage.folder / "reindex.log",
        {**stage.environment, "PYTHONPATH": f"{live.REPOSITORY}{os.pathsep}{live.TESTS}"},
    )


def _wait(stage: Stage, true: Callable[[], bool], what: str) -> None:
    def look() -> bool:
        stage.crew.revive()
        return true()

    live.wait_until(look, within_s=WITHIN_S, what=what, log=stage.crew.logs)


def _observe(stage: Stage, writer: Writer, phase: str, seconds: float) -> None:
    writer.phase = phase
    until = time.monotonic() + seconds
    _wait(stage, lambda: time.monotonic() > until and writer.count(phase) > 0, phase)


@contextmanager
def _writing(writer: Writer) -> Generator[None]:
    writer.start()
    try:
        yield
    finally:
        writer.finish()


@contextmanager
def _asking(stage: Stage, figures: Figures) -> Generator[None]:
    """A process that asks, from the first answer to the end of the block."""
    script = live.TESTS / "rollout_queries.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(stage.store_port), "items", str(FIXED)],
        env={**os.environ, "PYTHONPATH": f"{live.REPOSITORY}{os.pathsep}{live.TESTS}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=live.die_with_the_tests,  # noqa: PLW1509 - one system call, no lock
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "asking"
        yield
        said, _ = process.communicate(timeout=60)
        figures.queries = json.loads(said)
    finally:
        process.kill()
        process.wait()


def _compare(stage: Stage, figures: Figures) -> None:
    """Both indexes hold what the catalog says, and every answer was right."""
    _wait(stage, lambda: _clean(stage), "nothing dirty")
    for index in indexes.active(stage.engine):
        tower = stage.towers.get(index.encoder_id, index.encoder_uri)
        seen = verify.compare(stage.engine, stage.store, index, tower=tower)
        figures.verified[f"{index.state} {index.id}"] = seen.agree
        if seen.agree != seen.items or seen.drift:
            figures.amiss.append(f"index {index.id}: {seen}")
    if figures.queries["failed"] or figures.queries["mixed"]:
        figures.amiss.append(f"queries: {figures.queries}")


def _clean(stage: Stage) -> bool:
    dirty = (
        "SELECT EXISTS (SELECT FROM indexer.changes) OR EXISTS"
        " (SELECT FROM indexer.entries WHERE wanted > written)"
    )
    with database.begin(stage.engine) as connection:
        return not connection.scalar(sa.text(dirty))


def _spread(values: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {"n": len(values), "p50": round(p50), "p99": round(p99), "max": round(max(values))}


def main() -> int:
    options = _options()
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="twinspan-rollout-") as folder:
        figures = run(Path(folder), options, tell)
    print(json.dumps(asdict(figures), indent=2))
    return 1 if figures.amiss else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build, promote and take back under load.")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--per-second", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
