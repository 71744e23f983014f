"""What a role may not do is refused, and never taken for an empty catalog."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
import sqlalchemy as sa
from live_world import HashingTowers, World

from indexer import catalog, changes, indexes, ledger, schema, sync
from indexer.catalog import spec
from indexer.errors import DatabaseError
from indexer.settings import Settings
from roles.world import run

FORBIDDEN = (
    "SELECT * FROM private.secrets",
    "SELECT 1 FROM public.orders",
    "SELECT updated_at FROM public.items",  # a column that the description does not name
    "INSERT INTO public.items (id) VALUES ('mine')",
    "UPDATE public.items SET title = 'mine'",
    "DELETE FROM public.items",
    "TRUNCATE public.items",
    "DROP TABLE public.items",
    "ALTER TABLE public.items DISABLE TRIGGER ALL",
    "ALTER TABLE public.items DISABLE TRIGGER twinspan_1_update",
    "CREATE TRIGGER mine AFTER INSERT ON public.items EXECUTE FUNCTION {function}()",
    "DROP TRIGGER twinspan_1_update ON public.items",
    "CREATE TABLE public.mine (id int)",
    "CREATE TABLE indexer.mine (id int)",
    "CREATE SCHEMA mine",
    "DROP TABLE indexer.entries",
    "TRUNCATE indexer.entries",
    "ALTER TABLE indexer.entries ADD COLUMN mine int",
    "DROP SCHEMA indexer CASCADE",
    "INSERT INTO indexer.changes (catalog_id, op) VALUES (1, 'T')",
    "UPDATE indexer.catalogs SET spec = '{{}}'",
    "UPDATE indexer.indexes SET alias = 'mine'",
    "UPDATE indexer.indexes SET collection = 'mine'",
    "DELETE FROM indexer.indexes",
    "UPDATE indexer.encoders SET uri = 'http://elsewhere'",
    "INSERT INTO indexer.encoders (id, family, uri, vectors) VALUES ('x', 'x', 'x', '[]')",
    "UPDATE indexer.compatibility SET oldest = '9999'",
    "INSERT INTO indexer.roles VALUES ('mine', 'worker')",
    "SELECT * FROM indexer.users",
    "SELECT * FROM indexer.interactions",
    "SELECT setval('indexer.fences', 1)",
    "DELETE FROM indexer.rollouts",
    "UPDATE indexer.rollouts SET by = 'another'",
    "UPDATE indexer.shadow_reads SET overlap = 1",
    "INSERT INTO indexer.shadow_reads (index_id, live_index_id, k, overlap, live_ms, shadow_ms)"
    " VALUES (1, 1, 1, 1, 1, 1)",
    "SELECT indexer.permit('{role}', 'worker')",
    "SELECT indexer.forbid('{role}')",
    "SELECT indexer.{function}()",
    "CREATE OR REPLACE FUNCTION indexer.{function}() RETURNS trigger LANGUAGE sql AS ''",
    "ALTER FUNCTION indexer.{function}() RESET search_path",
    "CREATE ROLE mine",
    "SET ROLE {owner}",
)

AS_OWNER = ("drop_entries", "raise_fences", "forget_steps")


def test_a_workers_role_can_do_nothing_else(
    each_engine: sa.Engine, world: World, role: str, login: Callable[[str], sa.Engine]
) -> None:
    run(
        each_engine,
        "CREATE TABLE public.orders (id int)",
        "CREATE SCHEMA private",
        "CREATE TABLE private.secrets (id int)",
    )
    catalog.permit(each_engine, role, "worker")
    worker = login(role)
    with each_engine.begin() as connection:
        owner = connection.scalar(sa.text("SELECT current_user"))
        function = connection.scalar(
            sa.text("SELECT proname FROM pg_proc WHERE proname LIKE 'capture%update'")
        )
    allowed: list[str] = []
    for statement in FORBIDDEN:
        filled = statement.format(role=role, owner=owner, function=function)
        try:
            run(worker, filled)
            allowed.append(filled)
        except sa.exc.ProgrammingError as error:
            assert isinstance(error.orig, psycopg.errors.InsufficientPrivilege), (filled, error)
    assert allowed == []


def test_a_query_role_reads_and_writes_nothing_but_shadow_reads(
    each_engine: sa.Engine, world: World, role: str, login: Callable[[str], sa.Engine]
) -> None:
    catalog.permit(each_engine, role, "query")
    query = login(role)
    assert schema.check(query) == schema.HEAD
    assert [one.id for one in indexes.all_of(query)] == [world.index.id]
    assert catalog.all_of(query)[0].name == "items"
    assert ledger.summary(query) == {}
    assert changes.pending(query) == 0
    run(query, "SELECT * FROM indexer.interactions, indexer.users")
    for refused in (
        "SELECT title FROM public.items",
        "UPDATE indexer.entries SET wanted = 1",
        "DELETE FROM indexer.changes",
        "SELECT nextval('indexer.fences')",
        "INSERT INTO indexer.users VALUES ('u1')",
    ):
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            run(query, refused)
    insert = (
        "INSERT INTO indexer.shadow_reads (index_id, live_index_id, k, overlap, live_ms, shadow_ms)"
        f" VALUES ({world.index.id}, {world.index.id}, 1, 1, 1, 1)"
    )
    run(query, insert)


def test_what_runs_with_the_owners_rights_is_pinned_and_closed(
    each_engine: sa.Engine, world: World
) -> None:
    """Every function in our schema: triggers run as their owner, on a search path that no user can
    put anything into, and nobody else may call them or any other."""
    with each_engine.begin() as connection:
        functions = connection.execute(
            sa.text("""
                SELECT proname, prosecdef, coalesce(proconfig, '{}') AS config, proacl::text AS acl,
                       pg_get_userbyid(proowner) = current_user AS ours,
                       prorettype = 'trigger'::regtype AS is_trigger
                FROM pg_proc WHERE pronamespace = 'indexer'::regnamespace
            """)
        ).all()
    assert sum(one.is_trigger for one in functions) == 4
    for one in functions:
        assert one.prosecdef == (one.is_trigger or one.proname in AS_OWNER), one
        assert "search_path=pg_catalog, pg_temp" in one.config, one
        assert one.ours
        assert one.acl is not None, f"{one.proname} may be run by PUBLIC"
        assert "{=X" not in one.acl, one
        assert ",=X" not in one.acl, one


def test_hidden_rows_are_an_error_and_never_deletions(
    each_engine: sa.Engine, world: World, role: str, login: Callable[[str], sa.Engine]
) -> None:
    """Row-level security that hides the catalog from the worker must not empty the index."""
    world.insert([f"m{n}" for n in range(5)])
    catalog.permit(each_engine, role, "worker")
    worker = login(role)
    settings = Settings(data_dir="/nonexistent")
    sync.drain(worker, world.store, HashingTowers(), settings)  # type: ignore[arg-type]
    run(each_engine, "ALTER TABLE public.items ENABLE ROW LEVEL SECURITY")
    world.run("UPDATE public.items SET title = title || ' 2'")
    with pytest.raises(DatabaseError, match="row-level security policy"):
        sync.drain(worker, world.store, HashingTowers(), settings)  # type: ignore[arg-type]
    assert world.store.count(world.index.ref) == 5


def test_a_view_that_reads_as_its_reader_is_an_error_for_a_role_that_may_not(
    each_engine: sa.Engine, role: str, login: Callable[[str], sa.Engine]
) -> None:
    run(
        each_engine,
        "CREATE TABLE public.base (id int PRIMARY KEY, a text)",
        "CREATE VIEW public.shown WITH (security_invoker = true) AS SELECT * FROM public.base",
        "INSERT INTO public.base VALUES (1, 'x')",
    )
    catalog.permit(each_engine, role, "worker")
    described = {
        "name": "shown",
        "table": "public.shown",
        "key": "id",
        "features": {"a": "text"},
        "watch": [{"table": "public.base", "key": "id"}],
    }
    attached = catalog.attach(each_engine, spec.parse(described, name="test"))
    with pytest.raises(DatabaseError, match="permission denied for table base"):
        catalog.read(login(role), attached, ["1"])
