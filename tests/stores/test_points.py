"""Points come back from every store exactly as they were written, or are refused."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest
from generated_filters import FIELDS
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import filters
from indexer.errors import StoreRejected
from indexer.stores import (
    FENCE_FIELD,
    KEY_FIELD,
    Collection,
    CollectionSpec,
    Point,
    Vector,
    VectorStore,
)
from stores.points import dense, empty, generated, keys, point, search, sparse

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def test_points_come_back_exactly(store: VectorStore, there: Collection):
    payload = {
        "none": None, "true": True, "false": False, "zero": 0, "one": 1, "one_point": 1.0,
        "tenth": 0.1, "small": 5e-324, "big": 1.7976931348623157e308, "minus": -0.5,
        "int64": 2**63 - 1, "uint64": 2**64 - 1, "low": -(2**63), "beyond_double": 2**53 + 1,
        "text": "größer 😀 \x00 \u2028", "empty": "", "list": [1, 1.0, True, None, "x", []],
        "nested": {"a": {"b": [{"c": 1}]}, "": "no name", "sp ace": 1, "a.b": 2},
    }  # fmt: skip
    vectors = {"tower": np.array([0.1, -1e-30, 3e38, 1 / 3], np.float32), "codes": sparse({7: 0.1})}
    written = Point(key="größe/1 😀", vectors=vectors, payload=payload)
    store.write_if_newer(there, [written], fence=5, mode="upsert")
    found = store.fetch(there, [written.key], vectors=["tower", "codes"])[written.key]
    stored = dict(found.payload)
    assert (stored.pop(KEY_FIELD), stored.pop(FENCE_FIELD)) == (written.key, 5)
    assert repr(sorted(stored.items())) == repr(sorted(payload.items()))
    assert np.array_equal(found.vectors["tower"], vectors["tower"])
    assert np.array_equal(found.vectors["codes"].indices, vectors["codes"].indices)
    assert np.array_equal(found.vectors["codes"].values, vectors["codes"].values)


@settings(generated, max_examples=100)
@given(payload=st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_generated_payloads_come_back_exactly(
    store: VectorStore, there: Collection, payload: dict[str, Any]
):
    empty(store, there)
    store.write_if_newer(there, [point("a", 1.0, **{"p": payload})], fence=1, mode="upsert")
    stored = store.fetch(there, ["a"])["a"].payload["p"]
    assert same(stored, payload), (stored, payload)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**64, -(2**63) - 1, "\ud800", {1: 2}, {"\ud800": 1}, 1j,
     b"bytes", {"x": {1, 2}}],
    ids=repr,
)  # fmt: skip
def test_a_payload_that_would_come_back_changed_is_refused(
    store: VectorStore, there: Collection, value: object
):
    for write in (
        lambda: store.write_if_newer(there, [point("a", p=value)], fence=1, mode="upsert"),
        lambda: store.set_payload_if_newer(there, {"a": {"p": value}}, fence=1),
    ):
        with pytest.raises(StoreRejected, match="'a'"):
            write()
    assert store.count(there) == 0


def test_a_payload_nested_without_end_is_refused(store: VectorStore, there: Collection):
    deep: Any = "end"
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(StoreRejected, match="nested"):
        store.write_if_newer(there, [point("a", p=deep)], fence=1, mode="upsert")


def test_a_payload_nested_as_deep_as_we_allow_survives(store: VectorStore, there: Collection):
    deep: Any = "end"
    for _ in range(60):
        deep = {"x": [deep]} if _ % 2 else deep
    store.write_if_newer(there, [point("a", p=deep)], fence=1, mode="upsert")
    assert store.fetch(there, ["a"])["a"].payload["p"] == deep


@pytest.mark.parametrize(
    "vectors",
    [
        {"tower": dense(1)},
        {"tower": dense(1), "codes": sparse({1: 1.0}), "more": dense(1)},
        {"tower": np.ones(3, np.float32), "codes": sparse({1: 1.0})},
        {"tower": np.ones((2, 4), np.float32), "codes": sparse({1: 1.0})},
        {"tower": sparse({1: 1.0}), "codes": sparse({1: 1.0})},
        {"tower": dense(1), "codes": dense(1)},
    ],
    ids=["missing", "unknown", "short", "matrix", "sparse-for-dense", "dense-for-sparse"],
)
def test_a_batch_with_one_wrong_vector_changes_nothing(
    store: VectorStore, there: Collection, vectors: dict[str, Vector]
):
    bad = Point(key="bad", vectors=vectors, payload={})
    with pytest.raises(StoreRejected, match="bad"):
        store.write_if_newer(there, [point("good"), bad], fence=1, mode="upsert")
    assert store.count(there) == 0


def test_a_nan_corrupts_nothing_else(store: VectorStore, there: Collection):
    store.write_if_newer(there, [point("a", 1.0), point("b", 2.0)], fence=1, mode="upsert")
    sick = Point(
        key="sick",
        vectors={"tower": np.full(4, np.nan, np.float32), "codes": sparse({1: 1.0})},
        payload={},
    )
    with contextlib.suppress(StoreRejected):  # a server refuses it
        store.write_if_newer(there, [sick], fence=1, mode="upsert")
    found = search(store, there, dense(1), limit=5)
    assert [key for key in found if key != "sick"] == ["b", "a"]
    store.delete_if_newer(there, ["sick"], fence=2)
    assert keys(store, there) == ["a", "b"]


def test_an_empty_sparse_vector_is_stored(store: VectorStore, there: Collection):
    bare = Point(key="a", vectors={"tower": dense(1), "codes": sparse({})}, payload={})
    store.write_if_newer(there, [bare], fence=1, mode="upsert")
    assert keys(store, there) == ["a"]
    assert search(store, there, sparse({3: 1.0}), vector="codes") == []


def test_empty_batches_do_nothing(store: VectorStore, there: Collection):
    store.write_if_newer(there, [], fence=1, mode="upsert")
    store.set_payload_if_newer(there, {}, fence=1)
    store.delete_if_newer(there, [], fence=1)
    assert store.search(there, []) == []
    assert store.fetch(there, []) == {}
    assert list(store.scroll(there)) == []
    assert store.count(there) == 0


def test_more_points_than_one_request_takes(store: VectorStore, spec: CollectionSpec):
    there = spec.collection
    many = [point(f"k{i}", float(i), whole=i) for i in range(1_100)]
    store.write_if_newer(there, many, fence=1, mode="upsert")
    store.set_payload_if_newer(there, {f"k{i}": {"whole": -i} for i in range(1_050)}, fence=2)
    store.delete_if_newer(there, [f"k{i}" for i in range(1_020)], fence=3)
    assert store.count(there) == 80
    assert len(store.fetch(there, [one.key for one in many])) == 80
    assert store.count(there, filters.parse({"whole": {"lt": 0}}, FIELDS)) == 30


def same(stored: Any, written: Any) -> bool:
    """Equal, types included; the engine reads floats to 15 significant digits."""
    if type(stored) is not type(written):
        return False
    if isinstance(stored, dict):
        both = ((each, written.get(name)) for name, each in stored.items())
        return stored.keys() == written.keys() and all(same(*pair) for pair in both)
    if isinstance(stored, list):
        return len(stored) == len(written) and all(map(same, stored, written))
    if isinstance(stored, float):
        return math.isclose(stored, written, rel_tol=1e-15)
    return stored == written
