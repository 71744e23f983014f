"""Generated filters mean to every store what plain Python says."""

from __future__ import annotations

import random

import pytest
from generated_filters import filter_, payload
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from indexer import filters
from indexer.stores import Collection, VectorStore
from indexer.stores.edge import EdgeStore
from stores.points import dense, empty, generated, keys, point, search

MINIMUM_FILTERS = 300
checked_filters = {"edge": 0, "memory": 0, "server": 0}


@settings(generated, max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 2**64 - 1))
def test_generated_filters_mean_what_plain_python_says(
    store: VectorStore, ground: Collection, seed: int
):
    there = ground
    empty(store, there)
    rng = random.Random(seed)
    written = [point(f"k{i}", 1.0 + i, **payload(rng)) for i in range(10)]
    store.write_if_newer(there, written, fence=1, mode="upsert")
    for _ in range(8):
        where = filter_(rng)
        expected = sorted(one.key for one in written if filters.matches(where, one.payload))
        best = [one.key for one in reversed(written) if one.key in expected]
        assert keys(store, there, where) == expected, where
        assert store.count(there, where) == len(expected), where
        assert search(store, there, dense(1), where=where) == best, where
        rest = [key for key in best if key != "k0"]
        assert search(store, there, dense(1), where=where, exclude=["k0"], exact=True) == rest, (
            where
        )
        checked_filters[kind_of(store)] += 1


def test_enough_filters_were_generated(store: VectorStore):
    if not checked_filters[kind_of(store)]:
        pytest.skip("the generated filters did not run in this session")
    assert checked_filters[kind_of(store)] >= MINIMUM_FILTERS


def kind_of(store: VectorStore) -> str:
    if isinstance(store, EdgeStore):
        return "edge"
    return "memory" if store.name == "Qdrant in memory" else "server"
