"""One recommendation after the other, as a web request asks for it, and where its time goes.

    python -m benchmarks.bench_query [--items 100000] [--queries 500] [--json FILE]

100,000 items in Qdrant Edge, histories of 50 events, 20 hits with their payload; one thread. The
towers are trained for one epoch on synthetic events: their answers mean nothing, their time does.
The histories are drawn anew for each query, and half of the queries carry a filter.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from benchmarks import shop
from indexer import catalog, database, schema, sync
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.query import Hits, Query, Retriever
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore
from indexer.towers import Towers

TARGET_P50_MS = 10.0
WARM_UP = 50
FILTER = {"genres": ["genre 1", "genre 2"], "year": {"gte": 1990}}


class Summary(TypedDict):
    """Of many calls; `stage_share` is each stage's part of the medians' sum."""

    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_p50_ms: float
    stage_ms: dict[str, float]
    stage_share: dict[str, float]


def main() -> int:
    options = _options()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as name:
        folder = Path(name)
        settings = Settings(data_dir=folder)
        store = EdgeStore(folder / "edge")
        try:
            alias = _build(store, options, settings)
            retriever = Retriever(store, alias=alias, settings=settings)
            results = {
                name: _measure(retriever, queries)
                for name, queries in _workloads(options, rng).items()
            }
            results["batch"] = _measure_batches(retriever, options, rng)
        finally:
            store.close()
    found = {name: _summary(hits) for name, hits in results.items()}
    print(_page(found, options))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Latency of recommend, by stage.")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--family", default="retrievalformer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _build(store: EdgeStore, options: argparse.Namespace, settings: Settings) -> str:
    """The items are indexed and optimised, and live under the alias returned. The database has
    ended: queries do without it."""
    with (
        postgres.start(settings.data_dir / "postgres", fsync=False) as server,
        database.opened(server.url) as engine,
    ):
        schema.migrate(engine)
        catalog.attach(engine, spec.BUILTIN)
        shop.insert(engine, 0, options.items)
        _say(f"training {options.family} for an epoch")
        encoder = shop.train(engine, settings.data_dir / "encoders", family=options.family)
        index = shop.build(engine, store, encoder, queue="bench")
        began = time.perf_counter()
        sync.drain(engine, store, Towers(settings), settings, index_id=index.id)
        _say(f"{options.items:,} items in {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    store.optimize(index.ref)
    store.point_alias(index.alias, index.collection)
    _say(f"optimised in {time.perf_counter() - began:.1f} s")
    return index.alias


def _query(options: argparse.Namespace, rng: np.random.Generator, where: object = None) -> Query:
    numbers: list[int] = rng.integers(int(options.items), size=int(options.history)).tolist()
    history = [f"item-{number}" for number in numbers]
    return Query(history=history, features={"age": int(rng.integers(16, 80))}, where=where, k=20)


def _workloads(options: argparse.Namespace, rng: np.random.Generator) -> dict[str, list[Query]]:
    count = options.queries
    return {
        "one user": [_query(options, rng) for _ in range(count)],
        "one user, filtered": [_query(options, rng, FILTER) for _ in range(count)],
    }


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One call: what it took by the clock and of the processor, per user, and its first hits."""

    wall_ms: float
    cpu_ms: float
    hits: Hits


def _measure(retriever: Retriever, queries: Sequence[Query]) -> list[Timed]:
    """Each query by itself, after some to warm up."""
    for query in queries[:WARM_UP]:
        retriever.recommend_many([query])
    return [_timed(retriever, [query]) for query in queries]


def _timed(retriever: Retriever, queries: Sequence[Query]) -> Timed:
    began, cpu_began = time.perf_counter(), time.process_time()
    answers = retriever.recommend_many(queries)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    for query, hits in zip(queries, answers, strict=True):
        assert len(hits) == query.k, f"{len(hits)} hits instead of {query.k}"
    per_user = 1_000 / len(queries)
    return Timed(wall_ms=wall * per_user, cpu_ms=cpu * per_user, hits=answers[0])


def _measure_batches(
    retriever: Retriever, options: argparse.Namespace, rng: np.random.Generator
) -> list[Timed]:
    """Many users asked about at once; times are per user."""
    calls = max(5, options.queries // options.batch)
    return [
        _timed(retriever, [_query(options, rng) for _ in range(options.batch)])
        for _ in range(calls)
    ]


def _summary(measured: Sequence[Timed]) -> Summary:
    times = np.array([one.wall_ms for one in measured])
    stages = {
        stage: float(np.median([one.hits.timings[stage] for one in measured]))
        for stage in measured[0].hits.timings
    }
    whole = sum(stages.values())
    return {
        "calls": len(measured),
        "p50_ms": float(np.percentile(times, 50)),
        "p95_ms": float(np.percentile(times, 95)),
        "p99_ms": float(np.percentile(times, 99)),
        "cpu_p50_ms": float(np.median([one.cpu_ms for one in measured])),
        "stage_ms": stages,
        "stage_share": {stage: ms / whole for stage, ms in stages.items()},
    }


def _page(found: Mapping[str, Summary], options: argparse.Namespace) -> str:
    stages = list(found["one user"]["stage_share"])
    rows: list[str] = []
    for name, one in found.items():
        label = f"batches of {options.batch}, per user" if name == "batch" else name
        rows.append(
            f"| {label} | {one['p50_ms']:.2f} | {one['p95_ms']:.2f} | {one['p99_ms']:.2f} | "
            f"{one['cpu_p50_ms']:.2f} | "
            + " | ".join(f"{100 * one['stage_share'][stage]:.0f}%" for stage in stages)
            + " |"
        )
    p50 = found["one user"]["p50_ms"]
    verdict = "met" if p50 <= TARGET_P50_MS else "missed"
    return "\n".join(
        [
            f"`recommend` with a history of {options.history} events over {options.items:,} items "
            f"in Qdrant Edge, k = 20 with payload, {options.family}, one thread. The filter is "
            "two genres of twenty and a year: it passes about 9% of the items.",
            "",
            "| query | p50 ms | p95 ms | p99 ms | processor ms | " + " | ".join(stages) + " |",
            "|---|---|---|---|---|" + "---|" * len(stages),
            *rows,
            "",
            f"Target: p50 ≤ {TARGET_P50_MS:.0f} ms for one user: {verdict} ({p50:.2f} ms). "
            "Processor time is the median over all threads; where it is far below the p50, the "
            "machine was busy. Stages are medians, as shares of their sum.",
        ]
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
