"""A catalog whose indexes are built, promoted and taken back, on each store or on one."""

from __future__ import annotations

import pytest
import rollout_world
import sqlalchemy as sa
from rollout_world import World

from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.stores.edge import EdgeStore


@pytest.fixture
def world(engine: sa.Engine, store: VectorStore, settings: Settings) -> World:
    return rollout_world.make(engine, store, settings)


@pytest.fixture
def edge_world(engine: sa.Engine, edge_store: EdgeStore, settings: Settings) -> World:
    """For what has nothing to do with the kind of store."""
    return rollout_world.make(engine, edge_store, settings)
