"""One contract for every vector store: Qdrant Edge, Qdrant in memory, and a server when
TWINSPAN_TEST_QDRANT_URL names one (with TWINSPAN_TEST_QDRANT_API_KEY)."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from generated_filters import FIELDS, filter_, payload
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from encoders.types import SparseVector, VectorSpec
from indexer import filters
from indexer.errors import (
    CollectionMismatch,
    CollectionMissing,
    StoreError,
    StoreRejected,
)
from indexer.stores import (
    FENCE_FIELD,
    KEY_FIELD,
    Collection,
    CollectionSpec,
    Point,
    Search,
    VectorStore,
)
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore

VECTORS = (VectorSpec(name="tower", dimension=4), VectorSpec(name="codes", dimension=None))
SERVER_URL = os.environ.get("TWINSPAN_TEST_QDRANT_URL")
names = itertools.count()


@pytest.fixture(scope="session", params=["edge", "memory", "server"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    if request.param == "server" and SERVER_URL is None:
        pytest.skip("no Qdrant server: TWINSPAN_TEST_QDRANT_URL is not set")
    store: VectorStore
    match request.param:
        case "edge":
            store = EdgeStore(tmp_path_factory.mktemp("edge"))
        case "memory":
            store = QdrantStore.in_memory()
        case _:
            key = os.environ.get("TWINSPAN_TEST_QDRANT_API_KEY")
            store = QdrantStore(url=SERVER_URL or "", api_key=key)
    yield store
    store.close()


def fresh_spec(**changes: Any) -> CollectionSpec:
    name = f"contract-{os.getpid()}-{next(names)}"
    spec = CollectionSpec(
        collection=Collection(name=name, catalog="items"),
        vectors=VECTORS,
        fields=FIELDS,
        metadata={"index_id": 7, "encoder_id": "abc", "returned": ["word"]},
    )
    return CollectionSpec(**{**vars_of(spec), **changes})


def vars_of(spec: CollectionSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in ("collection", "vectors", "fields", "metadata")}


@pytest.fixture
def spec(store: VectorStore) -> Iterator[CollectionSpec]:
    """A collection of its own, dropped afterwards."""
    spec = fresh_spec()
    store.ensure_collection(spec)
    yield spec
    store.drop_collection(spec.collection.name)


@pytest.fixture(scope="session")
def ground(store: VectorStore) -> Iterator[Collection]:
    spec = fresh_spec()
    store.ensure_collection(spec)
    yield spec.collection
    store.drop_collection(spec.collection.name)


@pytest.fixture
def there(store: VectorStore, ground: Collection) -> Collection:
    """A collection without points, shared by the tests that care for points only."""
    empty(store, ground)
    return ground


def empty(store: VectorStore, there: Collection) -> None:
    buried = ["never", *"abcde"]  # by some test: no verb shows tombstones
    store.delete_if_newer(there, [*keys(store, there), *buried], fence=2**50)
    assert store.count(there) == 0


def dense(*values: float) -> np.ndarray:
    return np.array([*values, 0, 0, 0, 0][:4], dtype=np.float32)


def sparse(entries: Mapping[int, float]) -> SparseVector:
    return SparseVector(
        indices=np.array(sorted(entries), dtype=np.uint32),
        values=np.array([entries[i] for i in sorted(entries)], dtype=np.float32),
    )


def point(key: str, first: float = 1.0, /, **payload: object) -> Point:
    vectors = {"tower": dense(first), "codes": sparse({3: first, 9: 1.0})}
    return Point(key=key, vectors=vectors, payload=payload)


def keys(store: VectorStore, there: Collection, where: filters.Filter | None = None) -> list[str]:
    found = [one.key for batch in store.scroll(there, where=where, batch=3) for one in batch]
    assert len(found) == len(set(found)), "scroll gave a point twice"
    return sorted(found)


# -- collections --------------------------------------------------------------------------------


def test_a_collection_says_what_it_was_made_for(store: VectorStore, spec: CollectionSpec):
    status = store.status(spec.collection.name)
    assert {one.name: one.dimension for one in status.spec.vectors} == {"tower": 4, "codes": None}
    assert status.spec.collection == spec.collection
    assert status.spec.fields == spec.fields
    assert status.spec.metadata == spec.metadata
    assert (status.points, status.indexed) == (0, True)
    assert spec.collection.name in store.collections()


def test_ensuring_twice_keeps_the_points(store: VectorStore, spec: CollectionSpec):
    store.write_if_newer(spec.collection, [point("a")], fence=1, mode="upsert")
    store.ensure_collection(spec)
    assert store.count(spec.collection) == 1


def test_ensuring_again_adds_fields_and_replaces_metadata(store: VectorStore):
    spec = fresh_spec(fields={"word": "keyword"})
    store.ensure_collection(spec)
    store.write_if_newer(spec.collection, [point("a", whole=3)], fence=1, mode="upsert")
    metadata = {**spec.metadata, "alias": "films"}
    more = CollectionSpec(**{**vars_of(spec), "fields": FIELDS, "metadata": metadata})
    store.ensure_collection(more)
    assert store.status(spec.collection.name).spec.fields == FIELDS
    assert store.status(spec.collection.name).spec.metadata == metadata
    assert store.count(spec.collection, filters.parse({"whole": {"gte": 3}}, FIELDS)) == 1
    store.drop_collection(spec.collection.name)


@pytest.mark.parametrize(
    "change",
    [
        {"vectors": (VectorSpec(name="tower", dimension=8), VECTORS[1])},
        {"vectors": VECTORS[:1]},
        {"metadata": {"index_id": 7, "encoder_id": "other"}},
        {"metadata": {"index_id": 8, "encoder_id": "abc"}},
        {"fields": {**FIELDS, "whole": "float"}},
    ],
    ids=["dimension", "vectors", "encoder", "index", "kind"],
)
def test_a_collection_made_for_something_else_is_refused(
    store: VectorStore, spec: CollectionSpec, change: Mapping[str, Any]
):
    with pytest.raises(CollectionMismatch, match=spec.collection.name):
        store.ensure_collection(CollectionSpec(**{**vars_of(spec), **change}))


def test_another_catalogs_collection_is_refused(store: VectorStore, spec: CollectionSpec):
    other = Collection(name=spec.collection.name, catalog="books")
    with pytest.raises(CollectionMismatch, match="books"):
        store.ensure_collection(CollectionSpec(**{**vars_of(spec), "collection": other}))


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "a b", "ü", "x" * 300])
def test_a_name_unfit_for_a_folder_or_a_url_is_refused(store: VectorStore, name: str):
    unfit = fresh_spec(collection=Collection(name=name, catalog="items"))
    with pytest.raises(StoreRejected):
        store.ensure_collection(unfit)


def test_every_verb_says_that_a_collection_is_missing(store: VectorStore):
    nowhere = Collection(name="nowhere", catalog="items")
    search = Search(vector="tower", values=dense(1), limit=1)
    for verb in (
        lambda: store.status("nowhere"),
        lambda: store.write_if_newer(nowhere, [point("a")], fence=1, mode="upsert"),
        lambda: store.set_payload_if_newer(nowhere, {"a": {}}, fence=1),
        lambda: store.delete_if_newer(nowhere, ["a"], fence=1),
        lambda: store.search(nowhere, [search]),
        lambda: store.fetch(nowhere, ["a"]),
        lambda: list(store.scroll(nowhere)),
        lambda: store.count(nowhere),
    ):
        with pytest.raises(CollectionMissing):
            verb()


def test_dropping_what_never_was_is_no_error(store: VectorStore):
    store.drop_collection("nowhere")


def test_a_dropped_collection_can_be_made_anew_with_other_vectors(store: VectorStore):
    spec = fresh_spec()
    store.ensure_collection(spec)
    store.write_if_newer(spec.collection, [point("a")], fence=1, mode="upsert")
    store.drop_collection(spec.collection.name)
    wider = (VectorSpec(name="tower", dimension=8),)
    store.ensure_collection(CollectionSpec(**{**vars_of(spec), "vectors": wider}))
    assert store.count(spec.collection) == 0
    new = Point(key="a", vectors={"tower": np.ones(8, np.float32)}, payload={})
    store.write_if_newer(spec.collection, [new], fence=1, mode="upsert")
    assert store.fetch(spec.collection, ["a"], vectors=["tower"])["a"].vectors["tower"].shape == (
        8,
    )
    store.drop_collection(spec.collection.name)


# -- points -------------------------------------------------------------------------------------


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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
generated = settings(
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(generated, max_examples=100)
@given(payload=st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_generated_payloads_come_back_exactly(store, there, payload):
    empty(store, there)
    store.write_if_newer(there, [point("a", 1.0, **{"p": payload})], fence=1, mode="upsert")
    stored = store.fetch(there, ["a"])["a"].payload["p"]
    assert same(stored, payload), (stored, payload)


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


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**64, -(2**63) - 1, "\ud800", {1: 2}, {"\ud800": 1}, 1j,
     b"bytes", {"x": {1, 2}}],
    ids=repr,
)  # fmt: skip
def test_a_payload_that_would_come_back_changed_is_refused(store, there, value):
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
def test_a_batch_with_one_wrong_vector_changes_nothing(store, there, vectors):
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


# -- conditional writes -------------------------------------------------------------------------


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


key_sets = st.lists(st.sampled_from("abcde"), min_size=1, max_size=3, unique=True)
writes = st.tuples(
    st.sampled_from(["upsert", "update_only", "payload", "delete", "bury"]),
    key_sets,
    st.integers(1, 6),
)
GONE = -1  # in the model: a tombstone


@settings(generated, max_examples=60)
@given(operations=st.lists(writes, max_size=14))
def test_any_order_of_conditional_writes_ends_as_the_rule_says(store, ground, operations):
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


def apply(store, there, verb: str, some: Sequence[str], fence: int, number: int) -> None:
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


# -- reads --------------------------------------------------------------------------------------


def search(store, there, values, *, vector="tower", limit=10, **more) -> list[str]:
    one = Search(vector=vector, values=values, limit=limit, **more)
    return [hit.key for hit in store.search(there, [one])[0]]


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


# -- aliases ------------------------------------------------------------------------------------


def test_an_alias_is_pointed_repointed_and_dropped(store: VectorStore, spec: CollectionSpec):
    other = fresh_spec()
    store.ensure_collection(other)
    alias = f"alias-{next(names)}"
    for target in (spec, other, other, spec):
        store.point_alias(alias, target.collection.name)
        assert store.aliases()[alias] == target.collection.name
    with pytest.raises(StoreError, match=alias):
        store.drop_collection(spec.collection.name)
    assert spec.collection.name in store.collections()
    store.drop_collection(other.collection.name)
    store.drop_alias(alias)
    store.drop_alias(alias)
    assert alias not in store.aliases()


def test_an_alias_and_a_collection_never_share_a_name(store: VectorStore, spec: CollectionSpec):
    alias, other = f"alias-{next(names)}", fresh_spec()
    store.ensure_collection(other)
    store.point_alias(alias, spec.collection.name)
    with pytest.raises(StoreError):
        store.ensure_collection(fresh_spec(collection=Collection(name=alias, catalog="items")))
    with pytest.raises(StoreError):
        store.point_alias(other.collection.name, spec.collection.name)
    store.drop_alias(alias)
    store.drop_collection(other.collection.name)


def test_an_alias_names_only_what_is_there(store: VectorStore):
    with pytest.raises(CollectionMissing):
        store.point_alias("alias", "nowhere")
    assert "alias" not in store.aliases()


# -- filters ------------------------------------------------------------------------------------

MINIMUM_FILTERS = 300
checked_filters = {"edge": 0, "memory": 0, "server": 0}


@settings(generated, max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 2**64 - 1))
def test_generated_filters_mean_what_plain_python_says(store, ground, seed):
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


def kind_of(store: VectorStore) -> str:
    if isinstance(store, EdgeStore):
        return "edge"
    return "memory" if store.name == "Qdrant in memory" else "server"


def test_enough_filters_were_generated(store: VectorStore):
    if not checked_filters[kind_of(store)]:
        pytest.skip("the generated filters did not run in this session")
    assert checked_filters[kind_of(store)] >= MINIMUM_FILTERS
