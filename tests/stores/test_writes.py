"""Conditional writes: in every store the newer fence wins, whatever the order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import filters
from indexer.stores import FENCE_FIELD, KEY_FIELD, Collection, CollectionSpec, VectorStore
from stores.points import dense, empty, generated, keys, point, search, sparse

key_sets = st.lists(st.sampled_from("abcde"), min_size=1, max_size=3, unique=True)
writes = st.tuples(
    st.sampled_from(["upsert", "update_only", "payload", "delete", "bury"]),
    key_sets,
    st.integers(1, 6),
)
GONE = -1  # in the model: a tombstone


def test_a_stale_write_changes_nothing(store: VectorStore, there: Collection):
    store.write_if_newer(there, [point("a", 2.0, word="new")], fence=5, mode="upsert")
    for fence in (4, 5):
        store.write_if_newer(there, [point("a", 1.0, word="old")], fence=fence, mode="upsert")
        store.set_payload_if_newer(there, {"a": {"word": "old"}}, fence=fence)
        store.delete_if_newer(there, ["a"], fence=fence)
    found = store.fetch(there, ["a"], vectors=["tower"])["a"]
    assert (found.payload["word"], found.payload[FENCE_FIELD]) == ("new", 5)
    assert np.array_equal(found.vectors["tower"], dense(2))


def test_a_newer_write_replaces_the_whole_point(store: VectorStore, there: Collection):
    store.write_if_newer(there, [point("a", 1.0, word="x", whole=1)], fence=1, mode="upsert")
    store.write_if_newer(there, [point("a", 2.0, flag=True)], fence=2, mode="update_only")
    found = store.fetch(there, ["a"], vectors=["tower"])["a"]
    assert found.payload == {"flag": True, KEY_FIELD: "a", FENCE_FIELD: 2}
    assert np.array_equal(found.vectors["tower"], dense(2))


def test_an_update_creates_nothing(store: VectorStore, there: Collection):
    store.write_if_newer(there, [point("a")], fence=1, mode="upsert")
    store.delete_if_newer(there, ["a"], fence=2)
    store.write_if_newer(there, [point("a"), point("b")], fence=3, mode="update_only")
    store.set_payload_if_newer(there, {"a": {"word": "x"}, "b": {}}, fence=4)
    assert keys(store, there) == []


def test_a_new_payload_leaves_the_vectors(store: VectorStore, there: Collection):
    store.write_if_newer(there, [point("a", 3.0, word="x", whole=1)], fence=1, mode="upsert")
    store.set_payload_if_newer(there, {"a": {"word": "y"}}, fence=2)
    found = store.fetch(there, ["a"], vectors=["tower", "codes"])["a"]
    assert found.payload == {"word": "y", KEY_FIELD: "a", FENCE_FIELD: 2}
    assert np.array_equal(found.vectors["tower"], dense(3))
    assert found.vectors["codes"].indices.tolist() == [3, 9]


def test_a_tombstone_is_shown_by_no_verb_and_stops_late_writers(
    store: VectorStore, there: Collection
):
    store.write_if_newer(there, [point("a", 1.0), point("b", 2.0)], fence=1, mode="upsert")
    store.bury_if_newer(there, ["a", "never"], fence=5)
    store.bury_if_newer(there, ["b"], fence=1)  # not newer
    store.write_if_newer(there, [point("a"), point("never")], fence=4, mode="upsert")
    store.set_payload_if_newer(there, {"a": {"word": "x"}}, fence=4)
    store.delete_if_newer(there, ["a"], fence=4)
    assert keys(store, there) == ["b"]
    assert store.fetch(there, ["a", "b", "never"], payload=["word"]).keys() == {"b"}
    assert store.count(there) == 1
    assert store.count(there, filters.Not(of=filters.Missing(field="word"))) == 0
    assert store.count(there, filters.Missing(field="word")) == 1
    assert store.status(there.name).points == 1
    assert search(store, there, dense(1)) == ["b"]
    assert search(store, there, sparse({3: 1.0}), vector="codes") == ["b"]
    assert search(store, there, dense(1), where=filters.Missing(field="word")) == ["b"]


def test_a_tombstone_gives_way_to_a_newer_write_and_to_a_newer_delete(
    store: VectorStore, there: Collection
):
    store.bury_if_newer(there, ["a", "b"], fence=5)
    store.write_if_newer(there, [point("a", 3.0, word="new")], fence=6, mode="upsert")
    store.delete_if_newer(there, ["b"], fence=6)
    found = store.fetch(there, ["a"], vectors=["tower"])["a"]
    assert found.payload == {"word": "new", KEY_FIELD: "a", FENCE_FIELD: 6}
    store.write_if_newer(there, [point("b")], fence=1, mode="upsert")
    assert keys(store, there) == ["a", "b"], "nothing was left of b's tombstone"


def test_the_last_fence_is_the_highest_of_all_writes_tombstones_included(
    store: VectorStore, spec: CollectionSpec
):
    there = spec.collection
    assert store.last_fence(there) == 0
    store.write_if_newer(there, [point("a"), point("b")], fence=3, mode="upsert")
    store.write_if_newer(there, [point("b")], fence=2**40 + 1, mode="upsert")
    store.write_if_newer(there, [point("c")], fence=7, mode="upsert")
    assert store.last_fence(there) == 2**40 + 1
    store.bury_if_newer(there, ["c"], fence=2**41)
    assert store.last_fence(there) == 2**41
    store.set_payload_if_newer(there, {"a": {}}, fence=2**41 + 5)
    assert store.last_fence(there) == 2**41 + 5
    store.delete_if_newer(there, ["a", "b", "c"], fence=2**42)
    assert store.last_fence(there) == 0


@settings(generated, max_examples=60)
@given(operations=st.lists(writes, max_size=14))
def test_any_order_of_conditional_writes_ends_as_the_rule_says(
    store: VectorStore, ground: Collection, operations: list[tuple[str, list[str], int]]
):
    empty(store, ground)
    model: dict[str, tuple[float, int, int]] = {}  # key -> vector, payload, fence
    for number, (verb, some, fence) in enumerate(operations):
        apply(store, ground, verb, some, fence, number)
        for key in some:
            stored = model.get(key)
            if stored is not None and stored[2] >= fence:
                continue
            if verb == "upsert" or (verb == "update_only" and stored):
                model[key] = (float(number), number, fence)
            elif verb == "payload" and stored and stored[1] != GONE:
                model[key] = (stored[0], number, fence)
            elif verb == "bury":
                model[key] = (GONE, GONE, fence)
            elif verb == "delete":
                model.pop(key, None)
    batches = store.scroll(ground, vectors=["tower"], batch=2)
    found = {
        one.key: (one.vectors["tower"][0], one.payload["n"], one.payload[FENCE_FIELD])
        for batch in batches
        for one in batch
    }
    assert found == {key: stored for key, stored in model.items() if stored[1] != GONE}


def apply(
    store: VectorStore,
    there: Collection,
    verb: str,
    some: Sequence[str],
    fence: int,
    number: int,
) -> None:
    match verb:
        case "payload":
            store.set_payload_if_newer(there, {key: {"n": number} for key in some}, fence=fence)
        case "delete":
            store.delete_if_newer(there, some, fence=fence)
        case "bury":
            store.bury_if_newer(there, some, fence=fence)
        case _:
            written = [point(key, float(number), n=number) for key in some]
            store.write_if_newer(there, written, fence=fence, mode=verb)
