"""A query against ever larger catalogues: scoring every item, or asking the index.

    python -m benchmarks.bench_growth [--items 10000 100000 1000000] [--queries 200] [--json FILE]

Clustered vectors, as wide as the default tower's, in Qdrant Edge after `optimize()`, top 20, one
thread, one query at a time; a user is encoded by that tower.
Scoring every item is the product of the user's vector with the matrix of all items and the choice
of the best, which is what the paper's factor of 288 at ten million items is against. Ten million
items do not fit here: the figures for them follow the growth measured over the sizes that do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import shop
from encoders import artifact
from encoders.types import Encoder, HistoryItem, UserState, VectorSpec
from indexer import catalog, database, schema
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.stores import Collection, CollectionSpec, Point, Search
from indexer.stores.edge import EdgeStore

CLUSTERS, TOP, HISTORY = 1_000, 20, 50
BATCH = 5_000
BEYOND = 10_000_000
PAPER = 288
COLLECTION = Collection(name="bench-growth", catalog="bench")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Median milliseconds of one query by a catalogue of this size."""

    items: int
    every_item_ms: float
    index_ms: float
    recall: float  # of the index, against scoring every item


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as folder:
        encoder = _tower(Path(folder))
        width = _width(encoder)
        state = _state(encoder, width)
        encode_ms = _median_ms([lambda: encoder.encode_users([state])] * options.queries)
        found = [_measure(Path(folder), n, width, options.queries, rng) for n in options.items]
    _print(found, encode_ms, width)
    if options.json:
        sizes = [asdict(one) for one in found]
        report = {"encode_ms": encode_ms, "width": width, "sizes": sizes}
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _tower(folder: Path) -> Encoder:
    """With its defaults, trained for speed only."""
    with (
        postgres.start(folder / "postgres", fsync=False) as server,
        database.opened(server.url) as engine,
    ):
        schema.migrate(engine)
        catalog.attach(engine, spec.BUILTIN)
        shop.insert(engine, 0, shop.TRAINING_ITEMS)
        return artifact.load(shop.train(engine, folder / "encoders").uri)


def _width(encoder: Encoder) -> int:
    """Of its items' vectors."""
    [vector] = encoder.vectors
    assert vector.dimension is not None, f"{vector.name} is sparse"
    return vector.dimension


def _state(encoder: Encoder, width: int) -> UserState:
    """A user with a full history."""
    vectors = _normal(np.random.default_rng(0).normal(size=(HISTORY, width)))
    [name] = encoder.history.vectors
    history = [HistoryItem(key=str(n), vectors={name: one}) for n, one in enumerate(vectors)]
    return UserState(features={"age": 30}, history=history)


def _measure(
    folder: Path, items: int, width: int, queries: int, rng: np.random.Generator
) -> Figures:
    _say(f"{items:,} items")
    vectors = _clustered(items, width, rng)
    near = vectors[rng.integers(items, size=queries)]
    asked = _normal(near + 0.05 * rng.normal(size=near.shape))
    matrix, users = torch.as_tensor(vectors), torch.as_tensor(asked)
    best = [torch.topk(matrix @ user, TOP).indices.numpy() for user in users]
    every_ms = _median_ms([lambda u=user: torch.topk(matrix @ u, TOP) for user in users])
    store = EdgeStore(folder / f"edge-{items}")
    try:
        _fill(store, vectors)
        searches = [[Search(vector="item", values=user, limit=TOP)] for user in asked]
        found = [store.search(COLLECTION, search)[0] for search in searches]
        index_ms = _median_ms([lambda s=search: store.search(COLLECTION, s) for search in searches])
    finally:
        store.close()
    hits = [
        int(np.isin(truth, [int(one.key) for one in some]).sum())
        for some, truth in zip(found, best, strict=True)
    ]
    return Figures(
        items=items,
        every_item_ms=every_ms,
        index_ms=index_ms,
        recall=float(np.mean(hits)) / TOP,
    )


def _clustered(items: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(N, D), of length one."""
    centres = rng.normal(size=(CLUSTERS, width))
    vectors = np.empty((items, width), dtype=np.float32)
    for start in range(0, items, BATCH):
        own = centres[rng.integers(CLUSTERS, size=min(BATCH, items - start))]
        vectors[start : start + BATCH] = _normal(own + 0.5 * rng.normal(size=own.shape))
    return vectors


def _fill(store: EdgeStore, vectors: np.ndarray) -> None:
    store.ensure_collection(
        CollectionSpec(
            collection=COLLECTION,
            vectors=(VectorSpec(name="item", dimension=vectors.shape[1]),),
            fields={},
            metadata={},
        )
    )
    for start in range(0, len(vectors), BATCH):
        part = vectors[start : start + BATCH]
        points = [
            Point(key=str(start + n), vectors={"item": vector}, payload={})
            for n, vector in enumerate(part)
        ]
        store.write_if_newer(COLLECTION, points, fence=1, mode="upsert")
    store.flush(COLLECTION)
    _say("optimising")
    store.optimize(COLLECTION)


def _median_ms(calls: Sequence[Callable[[], object]]) -> float:
    seconds: list[float] = []
    for call in calls:
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds)) * 1e3


def _normal(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _beyond(found: Sequence[Figures]) -> Figures:
    """By the law, from the two largest sizes, since small ones have no graph: scoring every item
    takes as long an item as at the largest, a walk through a graph grows with the logarithm of the
    items, and is never shorter among more."""
    before, last = found[-2:]
    doubled = (last.index_ms - before.index_ms) / np.log2(last.items / before.items)
    return Figures(
        items=BEYOND,
        every_item_ms=last.every_item_ms * BEYOND / last.items,
        index_ms=last.index_ms + max(0.0, doubled) * float(np.log2(BEYOND / last.items)),
        recall=float("nan"),
    )


def _print(found: Sequence[Figures], encode_ms: float, width: int) -> None:
    print(
        f"Qdrant Edge, {width} numbers an item in {CLUSTERS:,} clusters, top {TOP}, one "
        f"thread, medians. Encoding a user with {HISTORY} events takes {encode_ms:.2f} ms.\n"
    )
    print("| items | every item | index | recall@20 | ratio | ratio with encoding |")
    print("|---|---|---|---|---|---|")
    beyond = _beyond(found)
    for one in (*found, beyond):
        whole = (one.every_item_ms + encode_ms) / (one.index_ms + encode_ms)
        recall = "–" if np.isnan(one.recall) else f"{one.recall:.3f}"
        print(
            f"| {one.items:,}{' (by the law)' if one is beyond else ''} "
            f"| {one.every_item_ms:.2f} ms | {one.index_ms:.2f} ms | {recall} "
            f"| {one.every_item_ms / one.index_ms:.1f} | {whole:.1f} |"
        )
    print(
        "\nThe law: scoring every item takes as long an item as at the largest size, a search in "
        "the index grows with the logarithm of the items as between the two largest, if at all. "
        f"The paper's factor of {PAPER} at {BEYOND:,} items is of the search alone, on a GPU, with "
        "quantised vectors: compare it with the column *ratio*. What a user waits for has the "
        "encoding in it."
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
