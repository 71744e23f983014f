"""A table, catalog, schema or server that is not there is named, with what to do."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from indexer import catalog, database
from indexer.catalog import Catalog, spec
from indexer.errors import CatalogError, CatalogUnknown, DatabaseUnavailable, SchemaMissing


def test_a_table_that_has_changed_since_is_said(
    db: psycopg.Connection[Any], each_engine: sa.Engine, things: Catalog
) -> None:
    db.execute("ALTER TABLE things DROP COLUMN brand")
    with pytest.raises(CatalogError, match=r"brand does not exist\. Mend .* attach it again"):
        catalog.read(each_engine, things, ["1"])
    db.execute("DROP TABLE things")
    for catalog_now in (things, catalog.get(each_engine, "things")):
        with pytest.raises(CatalogError, match="attach it again"):
            catalog.count(each_engine, catalog_now)


def test_an_unknown_catalog_is_answered_with_those_that_there_are(each_engine: sa.Engine) -> None:
    with pytest.raises(CatalogUnknown, match="None is attached yet"):
        catalog.get(each_engine, "thing")
    catalog.attach(each_engine, spec.BUILTIN)
    with pytest.raises(CatalogUnknown, match="Did you mean 'items'"):
        catalog.get(each_engine, "item")
    with pytest.raises(CatalogUnknown, match="Did you mean 'items'"):
        catalog.detach(each_engine, "item")
    with pytest.raises(CatalogUnknown, match="no catalog 99"):
        catalog.get_by_id(each_engine, 99)
    known = catalog.get(each_engine, "items")
    assert catalog.get_by_id(each_engine, known.id) == known
    assert catalog.all_of(each_engine) == [known]


def test_without_a_schema_or_a_server_the_error_says_which(postgres_url: str) -> None:
    bare = database.engine(postgres_url)
    with pytest.raises(SchemaMissing, match="twinspan migrate"):
        catalog.attach(bare, spec.BUILTIN)
    with pytest.raises(SchemaMissing, match="twinspan migrate"):
        catalog.all_of(bare)
    bare.dispose()
    nowhere = database.engine("postgresql://postgres@127.0.0.1:1/postgres")
    with pytest.raises(DatabaseUnavailable):
        catalog.attach(nowhere, spec.BUILTIN)
