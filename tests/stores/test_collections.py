"""Collections are made, made again, refused and dropped alike in every store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from generated_filters import FIELDS

from encoders.types import VectorSpec
from indexer import filters
from indexer.errors import CollectionMismatch, CollectionMissing, StoreRejected
from indexer.stores import Collection, CollectionSpec, Point, Search, VectorStore
from stores.points import dense, point
from stores.specs import VECTORS, fresh_spec, vars_of


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


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up", "a\0b", "x" * 300, "ü" * 200])
def test_what_no_collection_can_be_called_is_missing(store: VectorStore, name: str):
    for look in (store.status, store.vectors_of):
        with pytest.raises(CollectionMissing):
            look(name)


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
