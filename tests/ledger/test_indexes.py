"""Indexes have a part of the ledger until they retire; one of an alias is live at most."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from indexer import changes, database, indexes, ledger
from indexer.errors import IndexStateError, UsageError
from indexer.indexes import Index
from ledger.world import ENCODER, insert


def test_retiring_an_index_drops_its_part_of_the_ledger(engine: sa.Engine, index: Index) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    indexes.set_state(engine, index.id, "retired")
    indexes.drop_partition(engine, index.id)
    assert ledger.summary(engine) == {}
    assert indexes.get(engine, index.id).state == "retired"
    assert indexes.active(engine) == []


def test_unknown_indexes_and_bad_aliases_are_named(engine: sa.Engine, index: Index) -> None:
    with pytest.raises(IndexStateError, match="no index 999"):
        indexes.get(engine, 999)
    with pytest.raises(IndexStateError, match="'movies'"):
        indexes.live(engine, "movies")
    with pytest.raises(UsageError, match="alias"):
        indexes.register(
            engine, catalog_id=index.catalog_id, alias="a/b", encoder=ENCODER, queue="twinspan"
        )


def test_at_most_one_index_is_live_per_alias(engine: sa.Engine, index: Index) -> None:
    second = indexes.register(
        engine, catalog_id=index.catalog_id, alias="items", encoder=ENCODER, queue="twinspan"
    )
    for one in (index, second):
        with database.begin(engine) as connection:
            indexes.make_live(connection, one.id, "items")
    assert indexes.live(engine, "items").id == second.id
    assert indexes.get(engine, index.id).state == "standby"
