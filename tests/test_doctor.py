"""`doctor` on a database with one fault at a time: it names the fault, and only that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from hashing import info

from indexer import catalog, collection, database, indexes
from indexer.catalog import spec
from indexer.cli import checks, parts
from indexer.settings import Settings

ABOUT = ("clock", "rights", "triggers", "leases", "transactions", "vacuum", "aliases")


@pytest.fixture
def opened(engine: sa.Engine, settings: Settings, tmp_path: Path) -> Iterator[parts.Parts]:
    """The built-in catalog with an index that is live."""
    catalog.attach(engine, spec.BUILTIN)
    with ExitStack() as closing:
        made = parts.Parts(settings, closing, check_schema=True)
        attached = catalog.get(made.engine, "items")
        index = indexes.register(
            engine, catalog_id=attached.id, alias="items", encoder=info("e1"), queue="twinspan"
        )
        made.store.ensure_collection(collection.spec_of(index, attached, info("e1").vectors))
        made.store.point_alias("items", index.collection)
        run(made, "UPDATE indexer.indexes SET state = 'live', live_at = now()")
        yield made


def run(opened: parts.Parts, statement: str) -> None:
    with database.begin(opened.engine) as connection:
        connection.execute(sa.text(statement))


def wrong(opened: parts.Parts) -> dict[str, str]:
    """What is not in order, of what this file is about."""
    found = {one.name: one for one in checks.run(opened)}
    return {name: found[name].said for name in ABOUT if not found[name].ok}


def believe_lost(opened: parts.Parts) -> None:
    run(
        opened,
        "INSERT INTO indexer.entries (index_id, item_key, lane, changed_at, lease_until)"
        " SELECT id, 'k', 1, now(), now() - interval '5 minutes' FROM indexer.indexes",
    )


def name_another(opened: parts.Parts) -> None:
    attached = catalog.get(opened.engine, "items")
    other = indexes.register(
        opened.engine, catalog_id=attached.id, alias="items", encoder=info("e1"), queue="twinspan"
    )
    opened.store.ensure_collection(collection.spec_of(other, attached, info("e1").vectors))
    opened.store.point_alias("items", other.collection)


def sql(*statements: str) -> Callable[[parts.Parts], None]:
    def plant(opened: parts.Parts) -> None:
        for statement in statements:
            run(opened, statement)

    return plant


OF_ITEMS = "twinspan_1_update ON public.items"
REWRITTEN = """
    CREATE OR REPLACE FUNCTION indexer.{name}() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER AS $$ BEGIN RETURN NULL; END $$
"""


def rewrite(opened: parts.Parts) -> None:
    with database.begin(opened.engine) as connection:
        name = connection.scalar(
            sa.text("SELECT proname FROM pg_proc WHERE proname LIKE 'capture\\_1\\_%\\_update'")
        )
    run(opened, REWRITTEN.format(name=name))


FAULTS: dict[str, tuple[str, str, Callable[[parts.Parts], None]]] = {
    "disabled": (
        "triggers",
        "not enabled ALWAYS",
        sql("ALTER TABLE public.items DISABLE TRIGGER twinspan_1_update"),
    ),
    "enabled for origin only": (
        "triggers",
        "twinspan_1_insert on public.items is not",
        sql("ALTER TABLE public.items ENABLE TRIGGER twinspan_1_insert"),
    ),
    "dropped": ("triggers", "has no trigger twinspan_1_update", sql(f"DROP TRIGGER {OF_ITEMS}")),
    "rewritten": ("triggers", "is not this release's", rewrite),
    "lost": ("leases", "1 items are held by workers that are gone", believe_lost),
    "not vacuumed": (
        "vacuum",
        "autovacuum is off for changes",
        sql("ALTER TABLE indexer.changes SET (autovacuum_enabled = false)"),
    ),
    "alias": ("aliases", "items names items-2, not items-1", name_another),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_with_what_to_do(opened: parts.Parts, fault: str) -> None:
    name, said, plant = FAULTS[fault]
    assert wrong(opened) == {}
    plant(opened)
    found = wrong(opened)
    assert list(found) == [name], found
    assert said in found[name]


def test_old_transactions_are_named_also_prepared_ones(
    opened: parts.Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.database_checks, "LONG_TRANSACTION_S", 0)
    with opened.engine.connect() as other:
        other.execute(sa.text("SELECT 1"))
        assert "backend" in wrong(opened)["transactions"]
        other.rollback()


def test_a_clock_that_is_off_is_told(opened: parts.Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.database_checks, "SKEW_S", -1.0)
    assert "differ by" in wrong(opened)["clock"]


def test_a_role_without_the_rights_of_a_worker_is_told_which_it_lacks(
    opened: parts.Parts,
) -> None:
    run(opened, "CREATE ROLE twinspan_doctor_test")
    try:
        run(opened, "GRANT USAGE ON SCHEMA indexer TO twinspan_doctor_test")
        run(opened, "GRANT SELECT ON ALL TABLES IN SCHEMA indexer TO twinspan_doctor_test")
        as_role = {"options": "-c role=twinspan_doctor_test"}
        engine = sa.create_engine(opened.engine.url, connect_args=as_role)
        with ExitStack() as closing:
            lesser = parts.Parts(opened.settings, closing, check_schema=False)
            lesser.__dict__["engine"] = engine
            with pytest.raises(checks.Failed, match=r"DELETE on changes.*twinspan permit worker"):
                checks.database_checks.rights(lesser)
        engine.dispose()
    finally:
        run(opened, "DROP OWNED BY twinspan_doctor_test")
        run(opened, "DROP ROLE twinspan_doctor_test")
