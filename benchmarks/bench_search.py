"""Recall and latency of searches under filters in Qdrant Edge, before and after `optimize()`.

    python -m benchmarks.bench_search [--items 100000] [--queries 200] [--json FILE]

Clustered 64-d vectors, 20 hits with their payload, one thread, against an exact scan in numpy. The
last columns show what the graph would give if the store did not scan exactly what passes
(`policy.EXACT_POINTS`), which is what happens under filters that more points pass than that.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders.types import VectorSpec
from indexer import filters
from indexer.filters import FieldKind
from indexer.stores import Collection, CollectionSpec, Point, Search, policy
from indexer.stores.edge import EdgeStore

TARGET_RECALL = 0.98
DIMENSION, CLUSTERS, TOP = 64, 1_000, 20
BATCH = 1_000
PAUSE_S = 0.02  # between searches while optimize() runs
COLLECTION = Collection(name="bench-search", catalog="bench")
FIELDS: dict[str, FieldKind] = {
    "of_2": "integer",
    "of_10": "integer",
    "of_100": "integer",
    "of_1000": "integer",
    "price": "float",
    "kind": "keyword",  # goes with the cluster, as genres do
}
FILTERS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "50%": {"of_2": 1},
    "10%": {"of_10": 3},
    "10%, of a kind": {"kind": "kind 3"},
    "1%": {"of_100": 42},
    "0.1%": {"of_1000": 420},
    "two combined (5%)": {"of_10": 3, "price": {"lt": 50}},
    "two combined (20%)": {"of_10": {"lt": 4}, "of_2": 0},
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    recall: float
    p50_ms: float
    p95_ms: float


def main() -> int:
    options = _options()
    rng = np.random.default_rng(options.seed)
    vectors, payloads = _world(options.items, rng)
    queries = _queries(vectors, options.queries, rng)
    truths = {name: _exact(vectors, payloads, where, queries) for name, where in FILTERS.items()}
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as folder:
        store = EdgeStore(Path(folder) / "edge")
        try:
            written_s = _fill(store, vectors, payloads)
            _say("searching before optimize()")
            before = _measure_all(store, queries, truths)
            _say("optimize(), searching meanwhile")
            optimize_s, waits_ms = _optimize(store, queries)
            _say("searching after optimize()")
            after = _measure_all(store, queries, truths)
            graph = _by_graph(store, queries, truths)
        finally:
            store.close()
    passing = {name: len(_mask(payloads, where)) for name, where in FILTERS.items()}
    facts = {
        "items": options.items,
        "queries": options.queries,
        "upserts_per_s": options.items / written_s,
        "optimize_s": optimize_s,
        "search_during_optimize_p50_ms": float(np.median(waits_ms)),
        "search_during_optimize_max_ms": max(waits_ms),
    }
    _print(facts, passing, before, after, graph)
    if options.json:
        report = {"facts": facts, "before": _plain(before), "after": _plain(after)}
        options.json.write_text(json.dumps({**report, "graph": _plain(graph)}, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _world(count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    centres = rng.normal(size=(CLUSTERS, DIMENSION))
    cluster = rng.integers(CLUSTERS, size=count)
    vectors = _normal(centres[cluster] + 0.5 * rng.normal(size=(count, DIMENSION)))
    drawn = {f"of_{n}": rng.integers(n, size=count) for n in (2, 10, 100, 1_000)}
    prices = rng.uniform(0, 100, size=count).round(2)
    payloads = [
        {
            **{name: int(values[i]) for name, values in drawn.items()},
            "price": float(prices[i]),
            "kind": f"kind {cluster[i] % 10}",
        }
        for i in range(count)
    ]
    return vectors, payloads


def _queries(vectors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    near = vectors[rng.integers(len(vectors), size=count)]
    return _normal(near + 0.05 * rng.normal(size=(count, DIMENSION)))


def _normal(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _fill(store: EdgeStore, vectors: np.ndarray, payloads: Sequence[Mapping[str, Any]]) -> float:
    spec = CollectionSpec(
        collection=COLLECTION,
        vectors=(VectorSpec(name="item", dimension=DIMENSION),),
        fields=FIELDS,
        metadata={},
    )
    store.ensure_collection(spec)
    started = time.perf_counter()
    for start in range(0, len(vectors), BATCH):
        points = [
            Point(key=str(i), vectors={"item": vectors[i]}, payload=payloads[i])
            for i in range(start, min(start + BATCH, len(vectors)))
        ]
        store.write_if_newer(COLLECTION, points, fence=1, mode="upsert")
        store.flush(COLLECTION)
        _say(f"written {start + len(points):,} of {len(vectors):,}", end="\r")
    return time.perf_counter() - started


def _mask(payloads: Sequence[Mapping[str, Any]], where: Mapping[str, Any] | None) -> np.ndarray:
    parsed = filters.parse(where, FIELDS)
    return np.flatnonzero([filters.matches(parsed, payload) for payload in payloads])


def _exact(
    vectors: np.ndarray,
    payloads: Sequence[Mapping[str, Any]],
    where: Mapping[str, Any] | None,
    queries: np.ndarray,
) -> list[set[str]]:
    passing = _mask(payloads, where)
    scores = queries @ vectors[passing].T  # (Q, passing)
    best = np.argsort(-scores, axis=1)[:, :TOP]
    return [{str(key) for key in passing[row]} for row in best]


def _measure_all(
    store: EdgeStore, queries: np.ndarray, truths: Mapping[str, Sequence[set[str]]]
) -> dict[str, Figures]:
    return {name: _measure(store, FILTERS[name], queries, truths[name]) for name in FILTERS}


def _measure(
    store: EdgeStore,
    where: Mapping[str, Any] | None,
    queries: np.ndarray,
    truth: Sequence[set[str]],
) -> Figures:
    found: list[set[str]] = []
    seconds: list[float] = []
    for query in queries:
        started = time.perf_counter()
        found.append(_search(store, where, query))
        seconds.append(time.perf_counter() - started)
    recalls = [len(keys & best) / len(best) for keys, best in zip(found, truth, strict=True)]
    p50, p95 = np.percentile(seconds, [50, 95])
    return Figures(recall=float(np.mean(recalls)), p50_ms=p50 * 1_000, p95_ms=p95 * 1_000)


def _search(store: EdgeStore, where: Mapping[str, Any] | None, query: np.ndarray) -> set[str]:
    parsed = filters.parse(where, FIELDS)
    search = Search(vector="item", values=query, limit=TOP, where=parsed)
    return {hit.key for hit in store.search(COLLECTION, [search])[0]}


def _by_graph(
    store: EdgeStore, queries: np.ndarray, truths: Mapping[str, Sequence[set[str]]]
) -> dict[str, Figures]:
    """As if every filter let too many points pass for a scan."""
    kept, policy.EXACT_POINTS = policy.EXACT_POINTS, 0
    try:
        return _measure_all(store, queries, truths)
    finally:
        policy.EXACT_POINTS = kept


def _optimize(store: EdgeStore, queries: np.ndarray) -> tuple[float, list[float]]:
    """Seconds that optimize() takes, and what searches wait for meanwhile."""
    started = time.perf_counter()
    optimizing = threading.Thread(target=store.optimize, args=(COLLECTION,))
    optimizing.start()
    waits_ms: list[float] = []
    while optimizing.is_alive():
        asked = time.perf_counter()
        _search(store, FILTERS["10%"], queries[len(waits_ms) % len(queries)])
        waits_ms.append((time.perf_counter() - asked) * 1_000)
        time.sleep(PAUSE_S)
    optimizing.join()
    return time.perf_counter() - started, waits_ms


def _print(
    facts: Mapping[str, float],
    passing: Mapping[str, int],
    before: Mapping[str, Figures],
    after: Mapping[str, Figures],
    graph: Mapping[str, Figures],
) -> None:
    print(
        f"Qdrant Edge, {facts['items']:,} items x {DIMENSION} numbers in {CLUSTERS:,} clusters, "
        f"{facts['queries']} queries, top {TOP} with payload, one thread. "
        f"Target: recall ≥ {TARGET_RECALL} each.\n"
    )
    print("| filter | passing | recall | p50 | p95 | optimised: recall | p50 | p95 | graph alone |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in FILTERS:
        one, two, three = before[name], after[name], graph[name]
        met = "" if min(one.recall, two.recall) >= TARGET_RECALL else " **missed**"
        print(
            f"| {name} | {passing[name]:,} "
            f"| {one.recall:.3f} | {one.p50_ms:.2f} ms | {one.p95_ms:.2f} ms "
            f"| {two.recall:.3f}{met} | {two.p50_ms:.2f} ms | {two.p95_ms:.2f} ms "
            f"| {three.recall:.3f}, {three.p50_ms:.2f} ms |"
        )
    print(
        f"\nWritten at {facts['upserts_per_s']:,.0f} items/s with a flush each {BATCH:,}; "
        f"`optimize()` {facts['optimize_s']:.1f} s in a child process; searches meanwhile "
        f"p50 {facts['search_during_optimize_p50_ms']:.1f} ms, "
        f"longest {facts['search_during_optimize_max_ms']:.0f} ms."
    )


def _plain(figures: Mapping[str, Figures]) -> dict[str, Any]:
    return {name: asdict(one) for name, one in figures.items()}


def _say(text: str, *, end: str = "\n") -> None:
    print(text, file=sys.stderr, end=end, flush=True)


if __name__ == "__main__":
    sys.exit(main())
