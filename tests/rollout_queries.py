"""A process that asks and asks, and checks that no answer mixes two encoders.

    python tests/rollout_queries.py EDGE_PORT ALIAS FIXED      (ends with its stdin; prints JSON)

The first FIXED items of the shop never change. Each hit's score must be what the encoder that the
answer names gives for the titles of the query and of the hit.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import faults  # noqa: F401 - brings the encoders for tests
import numpy as np
from edge_server import SharedEdge
from hashing import HashingEncoder
from live_world import ENCODERS

from encoders.types import ItemRecord
from indexer.query import Retriever
from indexer.query.hits import Hits
from indexer.settings import Settings

PAUSE_S = 0.03
K = 10
ATOL = 1e-4


class Asker:
    """Asks until it is told to stop."""

    def __init__(self, retriever: Retriever, titles: Sequence[str]) -> None:
        self._retriever = retriever
        self._titles = titles
        self._encoders = {id_: HashingEncoder(salt=salt) for id_, salt in ENCODERS.items()}
        self._rng = random.Random(0)
        self.answers: Counter[int] = Counter()  # by index
        self.milliseconds: list[float] = []
        self.mixed: list[str] = []
        self.errors: list[str] = []

    def ask(self) -> None:
        chosen = self._rng.sample(range(len(self._titles)), self._rng.choice([1, 3]))
        began = time.perf_counter()
        try:
            hits = self._retriever.recommend([f"item-{n}" for n in chosen], k=K)
        except Exception as error:  # noqa: BLE001 - what it is all about
            self.errors.append(repr(error))
            return
        self.milliseconds.append(1_000 * (time.perf_counter() - began))
        self.answers[hits.index_id] += 1
        self._check(hits, [self._titles[n] for n in chosen])

    def _check(self, hits: Hits, history: Sequence[str]) -> None:
        titles = [*history, *(str(hit.payload["title"]) for hit in hits)]
        records = [ItemRecord(key=str(n), features={"title": t}) for n, t in enumerate(titles)]
        vectors = self._encoders[hits.encoder_id].encode_items(records).vectors["hashing"]
        user = vectors[: len(history)].mean(axis=0)
        expected = vectors[len(history) :] @ (user / np.linalg.norm(user))
        if len(hits) < K or not np.allclose([hit.score for hit in hits], expected, atol=ATOL):
            self.mixed.append(f"index {hits.index_id}: {hits} for {history}")


def main() -> None:
    port, alias, fixed = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    store = SharedEdge(port)
    retriever = Retriever(store, alias=alias, settings=Settings(data_dir=Path()))
    keys = [f"item-{n}" for n in range(fixed)]
    points = store.fetch(retriever.target().collection, keys, payload=("title",))
    asker = Asker(retriever, [points[key].payload["title"] for key in keys])
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    print("asking", flush=True)
    while not over.wait(PAUSE_S):
        asker.ask()
    said = {
        "answers": dict(asker.answers),
        "failed": len(asker.errors),
        "mixed": len(asker.mixed),
        "examples": [*asker.errors[:3], *asker.mixed[:3]],
        "ms": dict(zip(("p50", "p99"), np.percentile(asker.milliseconds, [50, 99]), strict=True)),
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
