"""An index of a catalog without rows."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from indexer import catalog, indexes
from indexer.catalog import spec
from indexer.indexes import Index
from ledger.world import ENCODER


@pytest.fixture
def index(engine: sa.Engine) -> Index:
    attached = catalog.attach(engine, spec.BUILTIN)
    return indexes.register(
        engine, catalog_id=attached.id, alias="items", encoder=ENCODER, queue="twinspan"
    )
