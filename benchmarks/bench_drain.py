"""A backlog drained into Qdrant Edge by one process, and where its time goes.

    python -m benchmarks.bench_drain [--items 50000] [--rounds 3] [--json FILE]

PostgreSQL from the wheel, with fsync. Each round builds a new index of the same items with the
small tower (retrievalformer, 64 wide, titles as words), by the drain that every worker runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import shop
from indexer import catalog, database, schema, sync
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore
from indexer.sync import Report
from indexer.towers import Towers

TARGET_PER_S = 3_000
STAGES = ("claim", "read", "plan", "encode", "write", "ack", "route", "load")


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as folder:
        rounds = _measure(Path(folder), options)
    found = [
        {"items": report.encoded, "wall_s": wall_s, "seconds": report.seconds}
        for report, wall_s in rounds
    ]
    print(_page(rounds, options))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Drain a backlog into Qdrant Edge.")
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _measure(folder: Path, options: argparse.Namespace) -> list[tuple[Report, float]]:
    settings = Settings(data_dir=folder)
    with postgres.start(folder / "postgres") as server:
        engine = database.engine(server.url)
        store = EdgeStore(folder / "edge")
        try:
            schema.migrate(engine)
            catalog.attach(engine, spec.BUILTIN)
            shop.insert(engine, 0, options.items)
            encoder = shop.train(engine, folder / "encoders")
            towers = Towers(settings)
            towers.get(encoder.id, encoder.uri)  # loaded once per process, not per backlog
            rounds: list[tuple[Report, float]] = []
            for number in range(options.rounds):
                shop.build(engine, store, encoder, queue="bench")
                began = time.perf_counter()
                report = sync.drain(engine, store, towers, settings)
                rounds.append((report, time.perf_counter() - began))
                print(f"round {number}: {report.counts()}", file=sys.stderr, flush=True)
            return rounds
        finally:
            store.close()
            engine.dispose()


def _page(rounds: list[tuple[Report, float]], options: argparse.Namespace) -> str:
    rates = [report.encoded / wall_s for report, wall_s in rounds]
    median = statistics.median(rates)
    lines = [
        f"{options.items:,} items of five features, retrievalformer (titles as words), one "
        f"process, batches of up to 512; median of {len(rounds)} rounds, each into a new index.",
        "",
        "| items/s | " + " | ".join(STAGES) + " |",
        "|" + "---|" * (len(STAGES) + 1),
        f"| {median:,.0f} | "
        + " | ".join(f"{_share(rounds, stage):.0%}" for stage in STAGES)
        + " |",
        "",
        f"Fastest {max(rates):,.0f}, slowest {min(rates):,.0f} items/s. Target: at least "
        f"{TARGET_PER_S:,}: {'met' if median >= TARGET_PER_S else 'missed'}.",
    ]
    return "\n".join(lines)


def _share(rounds: list[tuple[Report, float]], stage: str) -> float:
    return statistics.median(report.seconds.get(stage, 0.0) / wall_s for report, wall_s in rounds)


if __name__ == "__main__":
    raise SystemExit(main())
