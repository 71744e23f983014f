"""One index in Qdrant Edge, and what its workers share in this process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder
from live_world import ENCODER_ID, World, make

from indexer.settings import Settings
from indexer.stores.edge import EdgeStore
from indexer.towers import Towers
from workers.app import QUEUE


@pytest.fixture
def world(engine: sa.Engine, edge_store: EdgeStore) -> World:
    return make(engine, edge_store, queue=QUEUE)


@pytest.fixture
def services(world: World, settings: Settings) -> SimpleNamespace:
    towers = Towers(settings)
    towers.add(ENCODER_ID, HashingEncoder())
    return SimpleNamespace(engine=world.engine, store=world.store, towers=towers)
