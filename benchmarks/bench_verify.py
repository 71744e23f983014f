"""A million rows compared with ledger and store: rate, memory, and what the standing check costs.

    python -m benchmarks.bench_verify [--items 1000000] [--encoded 100000] [--watch-s 60]

PostgreSQL from the wheel, Qdrant Edge, an encoder of sixteen numbers made from a hash, so that the
comparison and not the tower is measured. Rows, points and ledger are filled in bulk, with the
hashes that a drain would have left. A child process that did not fill them compares, twice: over a
socket with a process that holds the store, as where a server does, and with Edge in itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from encoders.types import (
    EncodedItems,
    EncoderInfo,
    Feature,
    HistoryNeeds,
    ItemRecord,
    UserQuery,
    UserState,
    VectorSpec,
)
from indexer import catalog, collection, database, indexes, plan, schema, verify
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import CONTENT_FIELD, KEY_FIELD, VERSION_FIELD, Point, VectorStore
from indexer.stores.edge import EdgeStore
from indexer.towers import Tower
from workers import upkeep

MEMORY_MB = 500  # target
WATCH_SHARE = 0.02  # target, of one core
WIDTH = 16
FILL_ITEMS = 5_000
LOOK_S = 0.05
TESTS = Path(__file__).parent.parent / "tests"
_ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}

Figures = dict[str, float]

_ROWS = sa.text("""
    INSERT INTO public.items (id, title, attributes)
    SELECT 'item-' || n, 'Product number ' || n,
           jsonb_build_object('genres', ARRAY['genre ' || n % 40], 'year', 1950 + n % 70)
    FROM generate_series(1, :items) AS n
""")
_ENTRIES = sa.text("""
    INSERT INTO indexer.entries (index_id, item_key, wanted, written, lane, changed_at, fence,
                                 present, content_hash, payload_hash)
    SELECT :index_id, r.key, 1, 1, 2, now(), :fence, true, r.content, r.payload
    FROM unnest(CAST(:keys AS text[]), CAST(:content AS bytea[]), CAST(:payload AS bytea[]))
         AS r (key, content, payload)
""")


class Hashed:
    """Sixteen numbers from a hash of the features."""

    family = "hashed"
    vectors = (VectorSpec(name="hashed", dimension=WIDTH),)
    item_features = (Feature(name="title", kind="text"),)
    user_features: tuple[Feature, ...] = ()
    history = HistoryNeeds(vectors=("hashed",))
    similar_vector = "hashed"
    payload_fields: tuple[str, ...] = ()

    def encode_items(self, records: Sequence[ItemRecord]) -> EncodedItems:
        digests = b"".join(
            hashlib.blake2b(repr(sorted(one.features.items())).encode(), digest_size=WIDTH).digest()
            for one in records
        )
        rows = np.frombuffer(digests, np.uint8).reshape(-1, WIDTH).astype(np.float32)
        return EncodedItems(vectors={"hashed": rows / np.float32(128) - np.float32(1)})

    def encode_users(self, states: Sequence[UserState]) -> list[UserQuery]:
        return [UserQuery(vector="hashed", values=np.ones(WIDTH, np.float32)) for _ in states]


def main() -> int:
    options = _options()
    if options.child:
        return _compare(options)
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as folder:
        print(_page(*_measure(Path(folder), options), options))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare a large index with its catalog.")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--encoded", type=int, default=100_000)
    parser.add_argument("--watch-s", type=float, default=60)
    parser.add_argument("--child", metavar="DATABASE")
    store = parser.add_mutually_exclusive_group()
    store.add_argument("--edge", type=Path)
    store.add_argument("--port", type=int)
    return parser.parse_args()


def _measure(folder: Path, options: argparse.Namespace) -> tuple[Figures, Figures]:
    """With the store in another process, and in the one that compares."""
    with postgres.start(folder / "postgres") as server:
        with database.opened(server.url) as engine:
            schema.migrate(engine)
            _fill(engine, folder / "edge", options.items)
        asked = ["--child", server.url, "--items", str(options.items)]
        asked += ["--encoded", str(options.encoded), "--watch-s", str(options.watch_s)]
        with _edge_process(folder / "edge") as port:
            remote = _child([*asked, "--port", str(port)])
        return remote, _child([*asked, "--edge", str(folder / "edge")])


def _child(arguments: Sequence[str]) -> Figures:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_verify", *arguments],
        env=_ENVIRONMENT,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@contextmanager
def _edge_process(folder: Path) -> Generator[int]:
    """The port of a process that holds the store and serves others."""
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "edge_server.py"), str(folder)],
        env=_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate()


def _fill(engine: sa.Engine, edge: Path, items: int) -> None:
    """Rows, points and ledger agree."""
    _say(f"filling {items:,} rows")
    with database.begin(engine) as connection:
        connection.execute(_ROWS, {"items": items})
    attached = catalog.attach(engine, spec.BUILTIN)
    index = indexes.register(
        engine, catalog_id=attached.id, alias="items", encoder=_info(), queue="bench"
    )
    store, encoder = EdgeStore(edge), Hashed()
    try:
        store.ensure_collection(collection.spec_of(index, attached, encoder.vectors))
        after: str | None = None
        while found := catalog.scan_items(engine, attached, after=after, limit=FILL_ITEMS):
            _fill_some(engine, store, index, encoder, found)
            after = found[-1].key
        with database.begin(engine) as connection:
            indexes.advance(connection, index.id, after, done=True)
            connection.execute(sa.text("SELECT nextval('indexer.fences')"))
        store.flush(index.ref)
    finally:
        store.close()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))


def _fill_some(
    engine: sa.Engine,
    store: EdgeStore,
    index: Index,
    encoder: Hashed,
    items: Sequence[catalog.Item],
) -> None:
    records = [ItemRecord(key=one.key, features=one.features) for one in items]
    vectors = encoder.encode_items(records).vectors["hashed"]
    hashes = [plan.hashes(one) for one in items]
    points = [
        Point(
            key=one.key,
            vectors={"hashed": vector},
            payload={
                **one.payload,
                KEY_FIELD: one.key,
                VERSION_FIELD: 1,
                CONTENT_FIELD: content.hex(),
            },
        )
        for one, vector, (content, _) in zip(items, vectors, hashes, strict=True)
    ]
    store.write_if_newer(index.ref, points, fence=1, mode="upsert")
    with database.begin(engine) as connection:
        connection.execute(
            _ENTRIES,
            {
                "index_id": index.id,
                "fence": 1,
                "keys": [one.key for one in items],
                "content": [content for content, _ in hashes],
                "payload": [payload for _, payload in hashes],
            },
        )


def _info() -> EncoderInfo:
    return EncoderInfo(
        id="hashed",
        family="hashed",
        uri="memory://hashed",
        vectors=Hashed.vectors,
        item_features=Hashed.item_features,
        user_features=(),
        history=Hashed.history,
        facts={},
        metrics={},
        created_at=datetime.now(UTC),
    )


# -- in the child ----------------------------------------------------------------------------------


def _compare(options: argparse.Namespace) -> int:
    """Prints the figures of this process as JSON."""
    from edge_server import SharedEdge

    with database.opened(options.child) as engine:
        shared: Any = SharedEdge  # it passes the verbs on, and has none by name
        store: VectorStore = shared(options.port) if options.port else EdgeStore(options.edge)
        try:
            [index] = indexes.active(engine)
            store.count(index.ref)
            found: Figures = {"held_mb": _memory_mb()}
            with _Peak() as peak:
                found |= _timed(engine, store, index)
            found["peak_mb"] = peak.mb
            found["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
            found["encoded_per_s"] = _encoded_per_s(engine, store, index, options.encoded)
            found |= _watched(engine, store, options.watch_s)
        finally:
            store.close()
    print(json.dumps(found))
    return 0


def _timed(engine: sa.Engine, store: VectorStore, index: Index) -> Figures:
    seen, looked = verify.Comparison(), 0
    began, busy = time.perf_counter(), time.process_time()
    for looked in verify.compare_steps(engine, store, index, seen):
        if looked % 100_000 < 1_000:
            _say(f"{looked:,} looked at in {time.perf_counter() - began:.0f} s")
    assert seen.drift == 0, seen
    assert seen.agree == seen.items, seen
    return {
        "items": seen.items,
        "looked": looked,
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - busy,
    }


def _encoded_per_s(engine: sa.Engine, store: VectorStore, index: Index, items: int) -> float:
    """As far as `items` rows, with their vectors."""
    seen, tower = verify.Comparison(), Tower("hashed", Hashed())
    began = time.perf_counter()
    for _ in verify.compare_steps(engine, store, index, seen, tower=tower):
        if seen.items >= items:
            break
    assert seen.vectors == seen.items, seen
    return seen.items / (time.perf_counter() - began)


def _watched(engine: sa.Engine, store: VectorStore, seconds: float) -> Figures:
    """The share of one core that the standing check takes, here and in PostgreSQL's processes."""
    rounds = upkeep.Rounds(engine, store, Settings())
    with engine.connect() as connection:
        [server] = Path(connection.scalar(sa.text("SHOW data_directory")) or "").glob("*.pid")
    pid = int(server.read_text(encoding="utf-8").splitlines()[0])
    began, ours, theirs = time.perf_counter(), time.process_time(), _tree_cpu_s(pid)
    while (took_s := time.perf_counter() - began) < seconds:
        rounds.go_on(upkeep.LOOK_S)
        time.sleep(upkeep.LOOK_S)
    return {
        "watch_share": (time.process_time() - ours) / took_s,
        "watch_server_share": (_tree_cpu_s(pid) - theirs) / took_s,
    }


def _tree_cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and its children, those that have ended included."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text(encoding="utf-8").rpartition(") ")
        except OSError:
            continue
        fields = rest.split()
        if name.startswith(f"{pid} ") or fields[1] == str(pid):
            ticks += int(fields[11]) + int(fields[12])
        if name.startswith(f"{pid} "):
            ticks += int(fields[13]) + int(fields[14])
    return ticks / os.sysconf("SC_CLK_TCK")


class _Peak:
    """The most private memory that this process had during the block. Pages of mapped files are
    the system's to take back, so they do not count."""

    def __enter__(self) -> _Peak:
        self.mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.mb = max(self.mb, _memory_mb())


def _memory_mb() -> float:
    lines = Path(f"/proc/{os.getpid()}/status").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1_024


def _page(remote: Figures, local: Figures, options: argparse.Namespace) -> str:
    share = remote["watch_share"] + remote["watch_server_share"]
    return "\n".join(
        [
            f"{remote['items']:,.0f} rows, their ledger entries and their points in Qdrant Edge, "
            "compared by one process.",
            "",
            "| store | items/s | took | CPU an item | with vectors encoded again "
            f"(first {options.encoded:,}) | private memory before | at most |",
            "|---|---|---|---|---|---|---|",
            _row("in another process, over a socket", remote),
            _row("in the process that compares", local),
            "",
            f"Target: the process under {MEMORY_MB} MB: "
            + ("met" if remote["peak_mb"] < MEMORY_MB else "missed")
            + " where a server holds the store; "
            + (
                "met with Edge in the process too."
                if local["peak_mb"] < MEMORY_MB
                else "with Edge in the process, Edge's own memory is beyond it before anything is "
                f"compared, and the comparison adds {local['peak_mb'] - local['held_mb']:.0f} MB."
            ),
            "",
            f"The standing check at its default rate ({Settings().verify_items_per_s:g} items/s): "
            f"{remote['watch_share']:.1%} of a core in the worker and "
            f"{remote['watch_server_share']:.1%} in PostgreSQL. Target: at most {WATCH_SHARE:.0%}: "
            + ("met." if share <= WATCH_SHARE else "missed."),
        ]
    )


def _row(name: str, found: Figures) -> str:
    return (
        f"| {name} | {found['items'] / found['wall_s']:,.0f} | {found['wall_s']:.0f} s "
        f"| {found['cpu_s'] / found['items'] * 1e6:.0f} µs | {found['encoded_per_s']:,.0f} items/s "
        f"| {found['held_mb']:.0f} MB | {found['peak_mb']:.0f} MB |"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
