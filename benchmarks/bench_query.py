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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encoders import artifact, dataset
from encoders import train as training
from encoders.dataset import Dataset
from encoders.types import EncoderInfo, Feature, ItemRecord
from indexer.query import Hits, Query, Retriever
from indexer.settings import Settings
from indexer.stores import Collection, CollectionSpec, Point
from indexer.stores.edge import EdgeStore

TARGET_P50_MS = 10.0
GENRES = tuple(f"genre {n}" for n in range(20))
BRANDS = tuple(f"brand {n}" for n in range(500))
ITEM_FEATURES = (
    Feature(name="genres", kind="categories"),
    Feature(name="brand", kind="category"),
    Feature(name="year", kind="number"),
    Feature(name="price", kind="number"),
)
USER_FEATURES = (Feature(name="age", kind="number"), Feature(name="country", kind="category"))
FIELDS = {"genres": "keyword", "brand": "keyword", "year": "integer", "price": "float"}
COLLECTION = Collection(name="bench-1", catalog="bench")
TRAINING_ITEMS, TRAINING_USERS, EVENTS_EACH = 2_000, 400, 20
BATCH = 1_000
WARM_UP = 50
FILTER = {"genres": ["genre 1", "genre 2"], "year": {"gte": 1990}}


def main() -> int:
    options = _options()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as folder:
        items = _items(options.items, rng)
        info = _encoder(options.family, items, Path(folder), rng)
        store = EdgeStore(Path(folder) / "edge")
        try:
            _fill(store, info, items)
            retriever = Retriever(store, alias="bench", settings=Settings(data_dir=Path(folder)))
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


def _items(count: int, rng: np.random.Generator) -> list[ItemRecord]:
    return [
        ItemRecord(
            key=f"item-{number}",
            features={
                "genres": [GENRES[g] for g in rng.choice(len(GENRES), rng.integers(1, 4), False)],
                "brand": BRANDS[rng.integers(len(BRANDS))],
                "year": int(rng.integers(1950, 2025)),
                "price": round(float(rng.gamma(2.0, 20.0)), 2),
            },
        )
        for number in range(count)
    ]


def _encoder(
    family: str, items: Sequence[ItemRecord], folder: Path, rng: np.random.Generator
) -> EncoderInfo:
    """Trained for one epoch on the first items: its weights hardly matter for its speed."""
    config: dict[str, object] = {"epochs": 1} if family != "content" else {}
    _say(f"training {family} for an epoch")
    return training.train(
        family, _events(items[:TRAINING_ITEMS], rng), str(folder / "encoders"), config=config
    )


def _events(items: Sequence[ItemRecord], rng: np.random.Generator) -> Dataset:
    count = TRAINING_USERS * EVENTS_EACH
    return dataset.arrange(
        items=items,
        item_features=ITEM_FEATURES,
        user_keys=[f"user-{number}" for number in range(TRAINING_USERS)],
        user_records=[
            {"age": int(rng.integers(16, 80)), "country": f"country {rng.integers(30)}"}
            for _ in range(TRAINING_USERS)
        ],
        user_features=USER_FEATURES,
        user=np.repeat(np.arange(TRAINING_USERS), EVENTS_EACH),
        item=rng.integers(len(items), size=count),
        occurred_at=1_600_000_000_000_000 + np.arange(count) * 60_000_000,
    )


def _fill(store: EdgeStore, info: EncoderInfo, items: Sequence[ItemRecord]) -> None:
    store.ensure_collection(
        CollectionSpec(
            collection=COLLECTION,
            vectors=info.vectors,
            fields=FIELDS,  # type: ignore[arg-type]
            metadata={
                "format": 1,
                "index_id": 1,
                "encoder_id": info.id,
                "encoder_uri": info.uri,
                "catalog": COLLECTION.catalog,
                "alias": "bench",
                "returned": list(FIELDS),
            },
        )
    )
    tower = artifact.load(info.uri, expected_id=info.id)
    began = time.perf_counter()
    for start in range(0, len(items), BATCH):
        part = items[start : start + BATCH]
        encoded = tower.encode_items(part)
        points = [
            Point(
                key=item.key,
                vectors={name: rows[place] for name, rows in encoded.vectors.items()},
                payload={**item.features, "_key": item.key, "_version": 1, "_fence": 1}
                | dict(encoded.payload[place] if encoded.payload else {}),
            )
            for place, item in enumerate(part)
        ]
        store.write_if_newer(COLLECTION, points, fence=1, mode="upsert")
    store.flush(COLLECTION)
    _say(f"{len(items):,} items in {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    store.optimize(COLLECTION)
    store.point_alias("bench", COLLECTION.name)
    _say(f"optimised in {time.perf_counter() - began:.1f} s")


def _query(options: argparse.Namespace, rng: np.random.Generator, where: object = None) -> Query:
    history = [f"item-{number}" for number in rng.integers(options.items, size=options.history)]
    features = {"age": int(rng.integers(16, 80)), "country": f"country {rng.integers(30)}"}
    return Query(history=history, features=features, where=where, k=20)


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


def _summary(measured: Sequence[Timed]) -> dict[str, object]:
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


def _page(found: dict[str, dict[str, object]], options: argparse.Namespace) -> str:
    stages = list(found["one user"]["stage_share"])  # type: ignore[call-overload]
    rows = []
    for name, one in found.items():
        shares: dict[str, float] = one["stage_share"]  # type: ignore[assignment]
        label = f"batches of {options.batch}, per user" if name == "batch" else name
        rows.append(
            f"| {label} | {one['p50_ms']:.2f} | {one['p95_ms']:.2f} | {one['p99_ms']:.2f} | "
            f"{one['cpu_p50_ms']:.2f} | "
            + " | ".join(f"{100 * shares[stage]:.0f}%" for stage in stages)
            + " |"
        )
    p50 = float(found["one user"]["p50_ms"])  # type: ignore[arg-type]
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
