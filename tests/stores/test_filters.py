"""Generated filters mean to every store what plain Python says."""

from __future__ import annotations

import random
from collections.abc import Sequence

from generated_filters import filter_, payload
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from indexer import filters
from indexer.stores import Collection, Point, VectorStore
from stores.points import dense, empty, generated, keys, point, search

EACH, ENOUGH = 8, 300  # filters of a case, of all cases


def test_generated_filters_mean_what_plain_python_says(store: VectorStore, ground: Collection):
    asked = 0

    @settings(generated, max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate])
    @given(seed=st.integers(0, 2**64 - 1))
    def agree(seed: int) -> None:
        nonlocal asked
        rng = random.Random(seed)
        empty(store, ground)
        written = [point(f"k{i}", 1.0 + i, **payload(rng)) for i in range(10)]
        store.write_if_newer(ground, written, fence=1, mode="upsert")
        for _ in range(EACH):
            _agree(store, ground, written, filter_(rng))
            asked += 1

    agree()
    assert asked >= ENOUGH


def _agree(
    store: VectorStore, ground: Collection, written: Sequence[Point], where: filters.Filter
) -> None:
    expected = sorted(one.key for one in written if filters.matches(where, one.payload))
    best = [one.key for one in reversed(written) if one.key in expected]
    assert keys(store, ground, where) == expected, where
    assert store.count(ground, where) == len(expected), where
    assert search(store, ground, dense(1), where=where) == best, where
    rest = [key for key in best if key != "k0"]
    assert search(store, ground, dense(1), where=where, exclude=["k0"], exact=True) == rest, where
