"""From COMMIT to searchable, at a steady rate of changes.

    python -m benchmarks.bench_freshness [--per-second 20] [--seconds 60] [--json FILE]

Embedded: `twinspan up` as its own process, asked over HTTP. Servers: a Celery worker as
its own process, woken over Redis, writing to the REST stand-in of tests/qdrant_rest.py through the
real adapter, since a Qdrant server is not part of this repository. New items are inserted one per
transaction; a clock runs from each commit until the store holds the item.
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
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import numpy as np
import sqlalchemy as sa

from benchmarks import shop
from indexer import catalog, database, embedded, ledger, rollout, schema, sync
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Towers

TARGET_P50_MS, TARGET_P99_MS = 150, 500
ITEMS = 10_000
LOOK_S = 0.005
START_S = 90.0
REDIS = os.environ.get("TWINSPAN_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")

T = TypeVar("T")
Present = Callable[[Sequence[str]], set[str]]  # which of these keys the store holds


def main() -> int:
    options = _options()
    found: dict[str, list[float]] = {}
    for name, mode in (("embedded", _embedded), ("worker over Redis", _servers)):
        with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as folder:
            print(f"{name}: preparing", file=sys.stderr, flush=True)
            with mode(Path(folder)) as (engine, present):
                found[name] = _measure(engine, present, options)
    print(_page(found, options))
    if options.json:
        options.json.write_text(json.dumps(found), encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Milliseconds from COMMIT to searchable.")
    parser.add_argument("--per-second", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


@contextmanager
def _embedded(folder: Path) -> Generator[tuple[sa.Engine, Present]]:
    """`twinspan up` with an index that is live and a tower that is warm."""
    settings = Settings(data_dir=folder)
    with embedded.opened(settings) as services:
        _prepare(services.engine, services.store, folder, queue="twinspan")
    environment = {"TWINSPAN_DATA_DIR": str(folder), "TWINSPAN_HTTP_PORT": "0"}
    command = [sys.executable, "-m", "indexer.cli", "up"]
    with ExitStack() as closing:
        closing.enter_context(_process(command, environment, folder))
        server = _wait(lambda: embedded.find_server(folder), "`twinspan up`")
        url = closing.enter_context(embedded.database_url(settings))
        engine = closing.enter_context(database.opened(url))
        client = closing.enter_context(httpx.Client(base_url=server.base_url, timeout=30))

        def present(keys: Sequence[str]) -> set[str]:
            asked = {"alias": spec.BUILTIN.name, "history": list(keys), "k": 1}
            said = client.post("/recommend", json=asked).raise_for_status().json()
            return set(keys) - set(said["unknown"])

        yield engine, present


@contextmanager
def _servers(folder: Path) -> Generator[tuple[sa.Engine, Present]]:
    """A worker process over Redis, PostgreSQL as a server, a store over the network."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from qdrant_rest import QdrantRest

    queue = f"bench-{uuid.uuid4().hex[:8]}"
    with ExitStack() as closing:
        url = closing.enter_context(postgres.start(folder / "postgres")).url
        engine = closing.enter_context(database.opened(url))
        stand_in = closing.enter_context(QdrantRest())
        store = QdrantStore(url=stand_in.url)
        closing.callback(store.close)
        schema.migrate(engine)
        index = _prepare(engine, store, folder, queue=queue)
        environment = {
            "TWINSPAN_DATA_DIR": str(folder / "data"),
            "TWINSPAN_DATABASE_URL": url,
            "TWINSPAN_QDRANT_URL": stand_in.url,
            "TWINSPAN_BROKER_URL": REDIS,
        }
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker"]
        command += ["--pool=solo", f"--queues={queue}", f"--hostname={queue}@bench"]
        closing.enter_context(_process(command, environment, folder))
        yield engine, lambda keys: set(store.fetch(index.ref, keys, payload=False))


def _prepare(engine: sa.Engine, store: VectorStore, folder: Path, *, queue: str) -> Index:
    """ITEMS items indexed and live."""
    catalog.attach(engine, spec.BUILTIN)
    shop.insert(engine, 0, ITEMS)
    encoder = shop.train(engine, folder / "encoders", config=shop.TITLES_AS_WORDS)
    index = shop.build(engine, store, encoder, queue=queue)
    settings = Settings(data_dir=folder / "prepare")
    towers = Towers(settings)
    while ledger.summary(engine)[index.id].dirty:
        sync.drain(engine, store, towers, settings)
    return rollout.promote(engine, store, towers, settings, index.id)


@contextmanager
def _process(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> Generator[subprocess.Popen[bytes]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TWINSPAN_")}
    with (folder / "process.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=clean | dict(environment), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def _wait(look: Callable[[], T | None], what: str) -> T:
    deadline = time.monotonic() + START_S
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} was not there within {START_S:.0f} s")
        time.sleep(0.05)
    return found


def _measure(engine: sa.Engine, present: Present, options: argparse.Namespace) -> list[float]:
    """Milliseconds from each commit until the store holds its item."""
    _warm_up(engine, present)
    committed: dict[str, float] = {}
    stop = threading.Event()
    writer = threading.Thread(target=_write, args=(engine, committed, stop, options))
    writer.start()
    waits: dict[str, float] = {}
    try:
        while writer.is_alive() or len(waits) < len(committed):
            pending = [key for key in list(committed) if key not in waits]
            if pending:
                here = present(pending[:50])
                now = time.perf_counter()
                waits.update({key: 1_000 * (now - committed[key]) for key in here})
            time.sleep(LOOK_S)
    finally:
        stop.set()
        writer.join()
    return [waits[key] for key in committed]


def _warm_up(engine: sa.Engine, present: Present) -> None:
    _commit(engine, ITEMS)
    _wait(lambda: present([f"item-{ITEMS}"]) or None, "the first change")


def _write(
    engine: sa.Engine,
    committed: dict[str, float],
    stop: threading.Event,
    options: argparse.Namespace,
) -> None:
    """One item a transaction, evenly paced."""
    began = time.perf_counter()
    for number in range(int(options.per_second * options.seconds)):
        due = began + number / options.per_second
        if stop.wait(max(0.0, due - time.perf_counter())):
            return
        key = _commit(engine, ITEMS + 1 + number)
        committed[key] = time.perf_counter()


def _commit(engine: sa.Engine, number: int) -> str:
    (row,) = shop.rows(number, 1)
    with database.begin(engine) as connection:
        statement = "INSERT INTO public.items (id, title, attributes) VALUES (:a, :b, :c)"
        connection.execute(sa.text(statement), dict(zip("abc", row, strict=True)))
    return row[0]


def _page(found: Mapping[str, Sequence[float]], options: argparse.Namespace) -> str:
    lines = [
        f"{options.per_second:g} inserts a second for {options.seconds:g} s into a catalog of "
        f"{ITEMS:,} items with a live index (retrievalformer); the outbox is polled every "
        f"{Settings().poll_s * 1_000:.0f} ms. Seen by asking the store every few milliseconds.",
        "",
        "| | changes | p50 ms | p95 ms | p99 ms | longest ms | target |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, waits in found.items():
        p50, p95, p99 = np.percentile(waits, [50, 95, 99])
        met = p50 <= TARGET_P50_MS and p99 <= TARGET_P99_MS
        lines.append(
            f"| {name} | {len(waits):,} | {p50:.0f} | {p95:.0f} | {p99:.0f} | {max(waits):.0f} "
            f"| p50 ≤ {TARGET_P50_MS}, p99 ≤ {TARGET_P99_MS}: {'met' if met else 'missed'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
