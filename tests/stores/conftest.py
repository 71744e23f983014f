"""One contract for every vector store: Qdrant Edge, Qdrant in memory, and a server when
TWINSPAN_TEST_QDRANT_URL names one (with TWINSPAN_TEST_QDRANT_API_KEY)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from indexer.stores import Collection, CollectionSpec, VectorStore
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from stores.points import empty
from stores.specs import fresh_spec

SERVER_URL = os.environ.get("TWINSPAN_TEST_QDRANT_URL")


@pytest.fixture(scope="session", params=["edge", "memory", "server"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VectorStore]:
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
