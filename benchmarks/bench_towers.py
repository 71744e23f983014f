"""How fast towers encode and load; how well they rank, `benchmarks/recommenders` says.

    python -m benchmarks.bench_towers [--items 20000] [--json FILE]

One torch thread. The catalogue is synthetic: a title of six words, a brand, three tags, a price, a
section.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from encoders import artifact, dataset, train
from encoders.dataset import Dataset
from encoders.types import Encoder, Feature, HistoryItem, ItemRecord, UserState

TARGET_ITEMS_PER_S, TARGET_USER_MS = 20_000, 5.0
BATCH, EVENTS, USERS = 512, 50, 300
VARIANTS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "content": ("content", {}),
    "retrievalformer": ("retrievalformer", {"epochs": 1}),
    "retrievalformer, words for contents": (
        "retrievalformer",
        {"epochs": 1, "text_as": "words", "content_width": 0},
    ),
}
BEGAN = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Speed:
    items_per_s: float
    one_item_ms: float
    reading_share: float  # of encode_items: from records to columns, in Python
    user_p50_ms: float
    user_p95_ms: float
    users_per_s: float  # in batches of 64
    load_s: float
    megabytes: float


def main() -> int:
    options = _options()
    import torch

    torch.set_num_threads(1)
    data = _catalogue(options.items, np.random.default_rng(options.seed))
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as root:
        speeds = {name: _speed(name, data, root) for name in VARIANTS}
    _print(options.items, speeds)
    if options.json:
        report = {name: asdict(one) for name, one in speeds.items()}
        options.json.write_text(json.dumps(report, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How fast towers encode and load.")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _catalogue(count: int, rng: np.random.Generator) -> Dataset:
    """Items with features, and a few events so that something can be trained."""
    words = np.asarray([f"word{n}" for n in range(5_000)])
    items = [
        ItemRecord(
            key=str(n),
            features={
                "title": " ".join(rng.choice(words, 6)),
                "brand": f"brand {int(rng.integers(2_000))}",
                "tags": [f"tag {int(t)}" for t in rng.integers(0, 300, 3)],
                "price": float(rng.lognormal(3)),
                "section": f"section {int(rng.integers(30))}",
            },
        )
        for n in range(count)
    ]
    users, each = 100, 20
    return dataset.arrange(
        items=items,
        item_features=[
            Feature(name="title", kind="text"),
            Feature(name="brand", kind="category"),
            Feature(name="tags", kind="categories"),
            Feature(name="price", kind="number"),
            Feature(name="section", kind="category"),
        ],
        user_keys=[str(n) for n in range(users)],
        user=np.repeat(np.arange(users), each),
        item=rng.integers(0, count, users * each),
        occurred_at=np.arange(users * each) * 60_000_000,
        value=rng.integers(1, 6, users * each).astype(np.float32),
    )


def _speed(name: str, data: Dataset, root: str) -> Speed:
    _say(f"{name}: training for its weights' sake, then measuring")
    family, config = VARIANTS[name]
    info = train.train(family, data, root, config=config)
    began = time.perf_counter()
    encoder = artifact.load(info.uri)
    load_s = time.perf_counter() - began
    encoder.encode_items(data.items[:BATCH])  # what is loaded late is loaded now
    items_s = _per_call(encoder.encode_items, data)
    users = _user_times(encoder, data)
    batches = [[_state(encoder, data, n + i) for i in range(64)] for n in range(4)]
    batch_s = min(_median(lambda s=states: encoder.encode_users(s), 3) for states in batches)
    return Speed(
        items_per_s=len(data.items) / items_s,
        one_item_ms=1e3 * _median(lambda: encoder.encode_items(data.items[:1]), 200),
        reading_share=_per_call(lambda part: _read(encoder, part), data) / items_s,
        user_p50_ms=float(np.median(users)),
        user_p95_ms=float(np.quantile(users, 0.95)),
        users_per_s=64 / batch_s,
        load_s=load_s,
        megabytes=sum(p.stat().st_size for p in Path(info.uri).rglob("*") if p.is_file()) / 1e6,
    )


def _per_call(work: Callable[[tuple[ItemRecord, ...]], object], data: Dataset) -> float:
    """Seconds for the whole catalogue in batches, the better of two passes."""

    def once() -> float:
        began = time.perf_counter()
        for start in range(0, len(data.items), BATCH):
            work(data.items[start : start + BATCH])
        return time.perf_counter() - began

    return min(once(), once())


def _read(encoder: Encoder, items: tuple[ItemRecord, ...]) -> object:
    from encoders.content import ContentEncoder
    from encoders.retrievalformer import RetrievalFormer

    records = [(item.key, item.features) for item in items]
    if isinstance(encoder, RetrievalFormer):
        return encoder.fitted.pipelines.items.read(records)
    assert isinstance(encoder, ContentEncoder), encoder
    return encoder.pipeline.read(records)


def _state(encoder: Encoder, data: Dataset, number: int) -> UserState:
    items = data.items[number : number + EVENTS]
    vectors = np.asarray(encoder.encode_items(items).vectors[encoder.similar_vector])
    return UserState(
        features={},
        history=[
            HistoryItem(
                key=item.key,
                vectors={encoder.similar_vector: vector},
                value=4.0,
                occurred_at=BEGAN + timedelta(hours=hour),
            )
            for hour, (item, vector) in enumerate(zip(items, vectors, strict=True))
        ],
    )


def _user_times(encoder: Encoder, data: Dataset) -> list[float]:
    """Milliseconds of each call with one user of 50 events."""
    states = [_state(encoder, data, number) for number in range(USERS)]
    times: list[float] = []
    for state in states:
        began = time.perf_counter()
        encoder.encode_users([state])
        times.append(1e3 * (time.perf_counter() - began))
    return times[20:]


def _median(work: Callable[[], object], times: int) -> float:
    taken: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def _print(items: int, speeds: Mapping[str, Speed]) -> None:
    print(f"{items:,} items of five features, one torch thread. Targets: {TARGET_ITEMS_PER_S:,}")
    print(
        f"items/s without a frozen text, {TARGET_USER_MS:g} ms for one user of {EVENTS} events.\n"
    )
    print(
        f"| tower | items/s, by {BATCH} | of it reading records | one item | one user, p50 / p95 "
        "| users/s, by 64 | load | on disk |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, s in speeds.items():
        print(
            f"| {name} | {s.items_per_s:,.0f} | {s.reading_share:.0%} | {s.one_item_ms:.1f} ms "
            f"| {s.user_p50_ms:.1f} / {s.user_p95_ms:.1f} ms | {s.users_per_s:,.0f} "
            f"| {s.load_s:.1f} s | {s.megabytes:.1f} MB |"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
