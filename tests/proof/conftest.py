"""A world for each store."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from proof.world import World

from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore


@pytest.fixture(params=["edge", "qdrant"])
def world(request: pytest.FixtureRequest, database_url: str) -> Iterator[World]:
    """In memory where the machine has a file system for it: Edge syncs some twenty files."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None, prefix="twinspan-"))
    store = EdgeStore(folder / "edge") if request.param == "edge" else QdrantStore.in_memory()
    made = World(database_url, folder, store)
    try:
        with made.instrumented():
            made.reset()
            yield made
    finally:
        made.close()
        store.close()
        shutil.rmtree(folder)
