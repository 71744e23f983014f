"""What an owner runs, what a worker encodes with, and the collections it fills."""

from __future__ import annotations

import live_world
import sqlalchemy as sa
from live_world import ENCODER_ID, World

from indexer import catalog, collection, indexes
from indexer.stores import CollectionSpec


def run(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))


def spec_like(world: World, index: indexes.Index) -> CollectionSpec:
    attached = catalog.get(world.engine, "items")
    return collection.spec_of(index, attached, live_world.info(ENCODER_ID).vectors)
