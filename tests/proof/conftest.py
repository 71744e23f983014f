"""A world for each store, used by one history after another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from proof.world import World


@pytest.fixture(params=["edge", "qdrant"], scope="module")
def world(
    request: pytest.FixtureRequest, postgres_url: str, databases: Callable[[str], Any]
) -> Iterator[World]:
    """In memory where the machine has a file system for it: Edge syncs some twenty files."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None, prefix="twinspan-"))
    store = EdgeStore(folder / "edge") if request.param == "edge" else QdrantStore.in_memory()
    url = databases(postgres_url).create()
    made = World(url, folder, store)
    try:
        yield made
    finally:
        made.close()
        store.close()
        shutil.rmtree(folder)
        databases(postgres_url).drop(url)
