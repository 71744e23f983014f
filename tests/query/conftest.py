"""A world on both embedded stores, empty or with films."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.settings import Settings
from indexer.stores import VectorStore
from query.world import World, films, trained


@pytest.fixture
def world(store: VectorStore, tmp_path: Path) -> World:
    return World(
        store=store, settings=Settings(data_dir=tmp_path / "data"), root=tmp_path / "encoders"
    )


@pytest.fixture
def movies(world: World) -> World:
    """80 films, live."""
    world.build(trained(world.root), films())
    return world
