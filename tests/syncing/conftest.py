"""The catalog with one index, on real PostgreSQL and both embedded stores."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder

from indexer import catalog
from indexer.catalog import spec
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Towers
from syncing.world import World, build


@pytest.fixture
def world(engine: sa.Engine, store: VectorStore, settings: Settings) -> World:
    catalog.attach(engine, spec.BUILTIN)
    encoder = HashingEncoder()
    made = World(
        engine=engine,
        store=store,
        encoder=encoder,
        towers=Towers(settings),
        settings=settings.model_copy(update={"backoff_s": 0.0, "gate_wait_s": 0.0}),
        index=None,  # pyright: ignore[reportArgumentType] - the next line
    )
    made.index = build(made, encoder, "e1")
    return made
