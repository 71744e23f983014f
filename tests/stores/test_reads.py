"""Search, fetch and scroll give the same from every store."""

from __future__ import annotations

import numpy as np
import pytest
from generated_filters import FIELDS

from indexer import filters
from indexer.errors import StoreRejected
from indexer.stores import FENCE_FIELD, KEY_FIELD, Collection, Point, Search, VectorStore
from stores.points import dense, keys, point, search, sparse


def test_search_gives_the_best_by_dot_product(store: VectorStore, there: Collection):
    store.write_if_newer(
        there, [point(f"k{i}", float(i), whole=i) for i in range(10)], fence=1, mode="upsert"
    )
    found = store.search(
        there,
        [
            Search(vector="tower", values=dense(2), limit=3),
            Search(vector="tower", values=dense(-1), limit=2, payload=["whole"]),
            Search(vector="codes", values=sparse({3: 1.0}), limit=1, payload=False),
            Search(vector="tower", values=dense(1), limit=3, exclude=["k9", "k8", "unknown"]),
            Search(vector="tower", values=dense(1), limit=3, exact=True),
        ],
    )
    assert [[hit.key for hit in hits] for hits in found] == [
        ["k9", "k8", "k7"], ["k0", "k1"], ["k9"], ["k7", "k6", "k5"], ["k9", "k8", "k7"],
    ]  # fmt: skip
    assert [hit.score for hit in found[0]] == [18, 16, 14]
    assert found[0][0].payload == {"whole": 9, KEY_FIELD: "k9", FENCE_FIELD: 1}
    assert (found[1][0].payload, found[2][0].payload) == ({"whole": 0}, {})


def test_search_refuses_a_vector_that_is_not_there(store: VectorStore, there: Collection):
    for wrong in (
        Search(vector="nope", values=dense(1), limit=1),
        Search(vector="tower", values=np.ones(3, np.float32), limit=1),
        Search(vector="tower", values=sparse({1: 1.0}), limit=1),
        Search(vector="codes", values=dense(1), limit=1),
    ):
        with pytest.raises(StoreRejected):
            store.search(there, [wrong])
    with pytest.raises(StoreRejected, match="nope"):
        store.fetch(there, ["a"], vectors=["nope"])


def test_fetch_ignores_keys_that_no_item_has(store: VectorStore, there: Collection):
    store.write_if_newer(there, [point("a", word="x", whole=1)], fence=1, mode="upsert")
    found = store.fetch(there, ["a", "a", "b", "\ud800"], payload=["word", "absent"])
    assert {key: one.payload for key, one in found.items()} == {"a": {"word": "x"}}
    assert store.fetch(there, ["a"], payload=False)["a"].payload == {}
    assert search(store, there, dense(1), exclude=["\ud800"]) == ["a"]


def test_fields_with_odd_names_are_filtered_and_fetched(store: VectorStore, there: Collection):
    odd = {"odd name.x": "yes"}
    written = Point(key="a", vectors=point("a").vectors, payload=odd)
    store.write_if_newer(there, [written, point("b")], fence=1, mode="upsert")
    assert keys(store, there, filters.parse(odd, FIELDS)) == ["a"]
    assert store.fetch(there, ["a"], payload=["odd name.x"])["a"].payload == odd


def test_scroll_gives_every_point_once_in_the_order_of_ids(store: VectorStore, there: Collection):
    written = [f"k{i}" for i in range(25)]
    store.write_if_newer(there, [point(key) for key in written], fence=1, mode="upsert")
    for batch in (1, 7, 25, 1_000):
        found = [one.key for some in store.scroll(there, batch=batch) for one in some]
        assert found == sorted(written, key=there.point_id)
        for n in (0, 10, 24):
            behind = store.scroll(there, batch=batch, after=found[n])
            assert [one.key for some in behind for one in some] == found[n + 1 :]
    store.delete_if_newer(there, [found[10]], fence=2)
    behind = store.scroll(there, after=found[10])
    assert [one.key for some in behind for one in some] == found[11:]
