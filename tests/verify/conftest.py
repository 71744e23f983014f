"""An index that agrees with its table."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder, info

from indexer import catalog, collection, indexes, reindex
from indexer.catalog import spec
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Towers
from verify.world import ITEMS, World


@pytest.fixture
def world(engine: sa.Engine, store: VectorStore, settings: Settings) -> World:
    """Twenty items in an index that agrees."""
    attached = catalog.attach(engine, spec.BUILTIN)
    facts = info("e1")
    index = indexes.register(
        engine, catalog_id=attached.id, alias="items", encoder=facts, queue="twinspan"
    )
    store.ensure_collection(collection.spec_of(index, attached, facts.vectors))
    for _ in reindex.fill(engine, index):
        pass
    made = World(
        engine=engine, store=store, towers=Towers(settings), settings=settings, index=index
    )
    made.towers.add("e1", HashingEncoder())
    made.run(
        "INSERT INTO public.items (id, title, attributes)"
        " SELECT 'k' || n, 'film ' || n, '{\"genres\": [\"Drama\"], \"year\": 1999}'"
        " FROM generate_series(0, :last) AS n",
        last=ITEMS - 1,
    )
    made.drain()
    return made
