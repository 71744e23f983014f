"""Aliases name collections that are there, and nothing else has their name."""

from __future__ import annotations

import pytest

from indexer.errors import CollectionMissing, StoreError
from indexer.stores import Collection, CollectionSpec, VectorStore
from stores.specs import fresh_spec, names


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
