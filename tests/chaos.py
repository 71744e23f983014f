"""Chaos with real processes: everything dies while everybody writes; afterwards all agrees.

    python tests/chaos.py [--broker redis|rabbitmq|both] [--minutes 10] [--seed N] [--json FILE]
                          [--keep FOLDER]

Four Celery workers over a broker of their own, a PostgreSQL from the wheel, a vector store in a
process of its own behind a cable (the stand-in for the server), two catalogs, three sessions that
write, one that observes. Every few seconds something dies (see `chaos_storm`). At the end the
writes stop and the storm with them, the workers get the time that they need, and every item is
compared, here and by `twinspan verify`. Exit status 1 when anything is amiss. `--keep` leaves the
logs and the cluster of each run in a folder, to be looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import chaos_servers
import chaos_storm
import live
import numpy as np
import sqlalchemy as sa
from cable import Cable
from chaos_observer import Observer
from chaos_servers import Broker, Crew
from chaos_storm import Scene, Storm
from chaos_writers import SHELF, SHELF_TABLE, Session
from live_world import World, make

from indexer import database, rollout, schema
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.settings import Settings
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Towers

LEASE_S, STORE_S = 3.0, 1.0
SESSIONS = 3
POOLS = (
    ("--pool=solo",),
    ("--pool=solo",),
    ("--pool=prefork", "--concurrency=1"),
    ("--pool=prefork", "--concurrency=1"),
)
QUIET_S = 120.0  # patience with the workers after the storm
BUGS = ("raised unexpected", "met a bug")  # what a log says of an error that nobody foresaw
SETTINGS = {
    "TWINSPAN_LEASE_S": str(LEASE_S),
    "TWINSPAN_STORE_TIMEOUT_S": str(STORE_S),
    "TWINSPAN_BATCH_ITEMS": "128",
    "TWINSPAN_BACKOFF_S": "0.1",
    "TWINSPAN_FAULTS_ENCODE_S": "0.02",
}
VERIFY = "import faults, indexer.cli; indexer.cli.main()"  # knows the encoder for tests


@dataclass(kw_only=True)
class Report:
    """What happened, in figures. Seconds of staleness are from a commit until the store shows it,
    as an observer sees it during the storm."""

    broker: str
    minutes: float
    seed: int
    commit: str
    began_at: str
    machine: str
    faults: dict[str, int] = field(default_factory=dict[str, int])
    worker_starts: int = 0
    transactions: dict[str, int] = field(default_factory=dict[str, int])
    changes: int = 0  # rows, as the sessions counted them
    broken_off: int = 0  # transactions that PostgreSQL's end broke off
    observed: int = 0
    staleness_s: dict[str, float] = field(default_factory=dict[str, float])
    encoded: int = 0
    encoded_in_vain: int = 0  # the same item with the same features, again
    quiet_s: float = 0.0  # from the end of the storm until nothing was dirty
    items: dict[str, int] = field(default_factory=dict[str, int])
    verify: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    amiss: list[str] = field(default_factory=list[str])


def run(
    broker: str,
    folder: Path,
    *,
    seconds: float,
    seed: int,
    every_s: tuple[float, float] = chaos_storm.SELDOM_S,
    tell: Callable[[str], None] = print,
) -> Report:
    """One storm over one broker. What was found amiss is in the report."""
    report = _begin_report(broker, seconds, seed)
    with _stage(broker, folder) as stage:
        rng = random.Random(seed)
        sessions = [
            Session(number=n, url=stage.scene.database_url, rng=random.Random(rng.random()))
            for n in range(SESSIONS)
        ]
        observer = Observer(
            url=stage.scene.database_url, store=stage.store, index=stage.worlds[0].index
        )
        storm = Storm(scene=stage.scene, rng=rng, every_s=every_s, tell=tell)
        _blow(storm, sessions, observer, seconds)
        tell("the storm is over")
        report.quiet_s = round(_wait_until_quiet(stage), 1)
        observer.finish()
        tell("nothing is dirty: comparing")
        _fill_in(report, stage, storm, sessions, observer)
        _compare(report, stage)
    return report


@dataclass(frozen=True, kw_only=True)
class _Stage:
    folder: Path
    scene: Scene
    store: QdrantStore  # past the cable
    worlds: tuple[World, World]
    engine: sa.Engine
    encoded: Path

    def is_clean(self) -> bool:
        return self.worlds[0].is_clean()  # of both


@contextmanager
def _stage(broker_name: str, folder: Path) -> Generator[_Stage]:
    """Two live indexes without an item, and workers that are ready."""
    with ExitStack() as closing:
        broker = closing.enter_context(chaos_servers.broker(broker_name, folder / "broker"))
        port = closing.enter_context(chaos_servers.store(folder))
        cable = closing.enter_context(Cable(port))
        server = closing.enter_context(postgres.start(folder / "postgres", fsync=False))
        engine = database.engine(server.url)
        closing.callback(engine.dispose)
        store = QdrantStore(url=f"http://127.0.0.1:{port}")
        closing.callback(store.close)
        queue = live.unique("chaos")
        worlds = _worlds(folder, engine, store, queue)
        crew = _crew(folder, queue, server.url, broker, cable)
        closing.callback(crew.kill)
        live.wait_until(
            lambda: live.answers(broker.url), within_s=chaos_servers.START_S, what="the broker"
        )
        crew.start()
        crew.workers[0].wait_ready()  # the others come when they come
        scene = Scene(
            crew=crew,
            broker=broker,
            cable=cable,
            postgres=folder / "postgres",
            database_url=server.url,
            orders=folder / "orders",
            lease_s=LEASE_S,
        )
        yield _Stage(
            folder=folder,
            scene=scene,
            store=store,
            worlds=worlds,
            engine=engine,
            encoded=folder / "encoded",
        )


def _worlds(folder: Path, engine: sa.Engine, store: QdrantStore, queue: str) -> tuple[World, World]:
    schema.migrate(engine)
    with database.begin(engine) as connection:
        connection.execute(sa.text(SHELF_TABLE))
    items, shelf = (
        make(engine, store, queue=queue, described=one) for one in (spec.BUILTIN, SHELF)
    )
    settings = Settings(data_dir=folder)
    towers = Towers(settings)
    towers.add(items.tower.id, items.tower.encoder)
    for world in (items, shelf):
        rollout.promote(engine, store, towers, settings, world.index.id)
    return items, shelf


def _crew(folder: Path, queue: str, url: str, broker: Broker, cable: Cable) -> Crew:
    (folder / "orders").mkdir()
    (folder / "encoded").touch()
    environment = {
        **SETTINGS,
        "TWINSPAN_DATABASE_URL": url,
        "TWINSPAN_BROKER_URL": broker.url,
        "TWINSPAN_QDRANT_URL": cable.url,
        "TWINSPAN_FAULTS": str(folder / "orders"),
        "TWINSPAN_FAULTS_ENCODED": str(folder / "encoded"),
    }
    return Crew(folder=folder, environment=environment, queue=queue, pools=POOLS)


def _blow(storm: Storm, sessions: Sequence[Session], observer: Observer, seconds: float) -> None:
    users = [*sessions, observer]
    for one in users:
        one.start()
    try:
        storm.run(seconds)
    finally:
        for one in sessions:
            one.finish()
        observer.stop_writing()


def _wait_until_quiet(stage: _Stage) -> float:
    """Nothing has been dirty for longer than a lease, so nobody is left who could still act.
    Returns the seconds until that began."""
    began = clean_since = time.monotonic()
    while (now := time.monotonic()) < clean_since + LEASE_S + STORE_S:
        stage.scene.crew.revive()
        if not stage.is_clean():
            clean_since = time.monotonic()
        if now - began > QUIET_S:
            raise AssertionError(f"dirty for {QUIET_S:.0f} s:\n{stage.scene.crew.logs()[-4_000:]}")
        time.sleep(live.POLL_S)
    return clean_since - began


# -- the report -----------------------------------------------------------------------------------


def _begin_report(broker: str, seconds: float, seed: int) -> Report:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=live.REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Report(
        broker=broker,
        minutes=round(seconds / 60, 2),
        seed=seed,
        commit=commit.stdout.strip() or "unknown",
        began_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        machine=f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}",
    )


def _fill_in(
    report: Report, stage: _Stage, storm: Storm, sessions: Sequence[Session], observer: Observer
) -> None:
    report.faults = dict(sorted(storm.done.items()))
    report.worker_starts = stage.scene.crew.starts
    transactions = sum((one.transactions for one in sessions), Counter[str]())
    report.transactions = dict(sorted(transactions.items()))
    report.changes = sum(one.changes.total() for one in sessions) + len(observer.seconds)
    report.broken_off = sum(one.broken_off for one in sessions)
    report.observed = len(observer.seconds)
    report.staleness_s = _spread(observer.seconds)
    encoded = stage.encoded.read_text().split()
    report.encoded, report.encoded_in_vain = len(encoded), len(encoded) - len(set(encoded))
    report.amiss += [f"a user met: {error}" for one in sessions for error in one.errors]
    report.amiss += [f"never shown: {key}" for key in observer.unseen]
    lines = stage.scene.crew.logs().splitlines()
    report.amiss += [line for line in lines if any(words in line for words in BUGS)][:10]


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p90, p99 = (float(value) for value in np.percentile(seconds, [50, 90, 99]))
    spread = {"p50": p50, "p90": p90, "p99": p99, "max": max(seconds)}
    return {name: round(value, 2) for name, value in spread.items()}


def _compare(report: Report, stage: _Stage) -> None:
    for world in stage.worlds:
        try:
            report.items[world.table] = world.assert_agrees()
        except AssertionError as error:
            report.amiss.append(f"{world.table}: {error}"[:2_000])
    done = subprocess.run(
        [sys.executable, "-c", VERIFY, "verify", "--vectors", "--json"],
        env={
            **os.environ,
            "PYTHONPATH": f"{live.REPOSITORY}{os.pathsep}{live.TESTS}",
            "TWINSPAN_DATA_DIR": str(stage.folder / "data"),
            "TWINSPAN_DATABASE_URL": stage.scene.database_url,
            "TWINSPAN_QDRANT_URL": stage.scene.cable.url,
            **SETTINGS,
        },
        cwd=stage.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        report.amiss.append(f"verify: exit status {done.returncode}: {done.stdout}{done.stderr}")
        return
    report.verify = json.loads(done.stdout)


def main() -> int:
    options = _options()
    brokers = tuple(chaos_servers.BROKERS) if options.broker == "both" else (options.broker,)
    reports: list[Report] = []
    for broker in brokers:
        if problem := chaos_servers.missing(broker):
            print(f"chaos: {problem}", file=sys.stderr)
            return 2
        with _folder(options.keep, broker) as folder:
            began = time.monotonic()

            def tell(what: str, began: float = began) -> None:
                print(f"{time.monotonic() - began:7.1f} s  {what}", file=sys.stderr, flush=True)

            print(f"{broker}, seed {options.seed}", file=sys.stderr)
            seconds = 60 * options.minutes
            report = run(broker, folder, seconds=seconds, seed=options.seed, tell=tell)
        reports.append(report)
        print(json.dumps(asdict(report), indent=2), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([asdict(one) for one in reports], indent=2))
    return 1 if any(one.amiss for one in reports) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Let everything die while everybody writes.")
    parser.add_argument("--broker", choices=[*chaos_servers.BROKERS, "both"], default="both")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--json", type=Path, default=Path("build/chaos.json"))
    parser.add_argument("--keep", type=Path)
    return parser.parse_args()


@contextmanager
def _folder(keep: Path | None, broker: str) -> Generator[Path]:
    if keep is not None:
        (folder := keep.absolute() / broker).mkdir(parents=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="twinspan-chaos-") as name:
        yield Path(name)


if __name__ == "__main__":
    raise SystemExit(main())
