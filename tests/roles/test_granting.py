"""Roles are given what is described now, by who may give it, and lose what was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from indexer import catalog, roles, schema
from indexer.catalog import spec
from indexer.errors import CatalogError, DatabaseError, UsageError
from roles.world import run


def test_a_workers_role_reads_what_is_described_now_and_no_longer_what_was(
    each_engine: sa.Engine, role: str
) -> None:
    run(
        each_engine,
        'CREATE SCHEMA "the Shop"',
        'CREATE TABLE "the Shop"."a ""table" (id int PRIMARY KEY, "Na%me" text, price int, cost '
        "int)",
    )
    catalog.permit(each_engine, role, "worker")
    table = '"the Shop"."a ""table"'

    def attach(**features: object) -> None:
        described = {"name": "things", "table": table, "key": "id", "features": features}
        catalog.attach(each_engine, spec.parse(described, name="test"))

    name = {"kind": "text", "from": ["Na%me"]}
    attach(name=name)
    assert _readable(each_engine, role, table) == ["Na%me", "id"]
    attach(name=name, price="number")
    assert _readable(each_engine, role, table) == ["Na%me", "id", "price"]
    attach(price="number")
    assert _readable(each_engine, role, table) == ["id", "price"]
    catalog.permit(each_engine, role, "query")
    assert _readable(each_engine, role, table) == []
    catalog.permit(each_engine, role, "worker")
    assert _readable(each_engine, role, table) == ["id", "price"]
    catalog.detach(each_engine, "things")
    assert _readable(each_engine, role, table) == []
    attach(price="number")
    catalog.forbid(each_engine, role)
    assert _readable(each_engine, role, table) == []
    with each_engine.begin() as connection:
        assert roles.all_of(connection) == {}


def test_two_catalogs_of_one_table_share_what_may_be_read(
    each_engine: sa.Engine, role: str
) -> None:
    run(
        each_engine,
        'CREATE SCHEMA "the Shop"',
        'CREATE TABLE "the Shop".t (id int PRIMARY KEY, a text, b text)',
    )
    catalog.permit(each_engine, role, "worker")
    table = '"the Shop".t'
    for column in ("a", "b"):
        described = {"name": column, "table": table, "key": "id", "features": {column: "text"}}
        catalog.attach(each_engine, spec.parse(described, name="test"))
    assert _readable(each_engine, role, table) == ["a", "b", "id"]
    catalog.detach(each_engine, "a")
    assert _readable(each_engine, role, table) == ["b", "id"]


def test_who_may_not_grant_says_what_the_owner_has_to_run(
    each_engine: sa.Engine, role: str, login: Callable[[str], sa.Engine]
) -> None:
    """The view belongs to another; its tables, and the schema, to the role that attaches."""
    admin = f"{role}_b"
    run(
        each_engine,
        f"CREATE ROLE {admin}",
        f"GRANT CREATE ON DATABASE {each_engine.url.database} TO {admin}",
        "CREATE TABLE public.base (id int PRIMARY KEY, a text)",
        "CREATE VIEW public.shown AS SELECT * FROM public.base",
        f"GRANT SELECT ON public.shown TO {admin}",
        f"ALTER SCHEMA indexer OWNER TO {admin}",
    )
    with each_engine.begin() as connection:
        for statement in connection.scalars(
            sa.text(
                "SELECT format('ALTER %s indexer.%I OWNER TO %I', CASE relkind WHEN 'S' THEN"
                " 'SEQUENCE' ELSE 'TABLE' END, relname, CAST(:to AS text)) FROM pg_class"
                " WHERE relnamespace = 'indexer'::regnamespace AND relkind IN ('r', 'p', 'S')"
                " AND relname NOT LIKE '%id_seq'"
            ),
            {"to": admin},
        ).all():
            connection.exec_driver_sql(statement)
    run(
        each_engine,
        f"ALTER FUNCTION indexer.permit(text, text) OWNER TO {admin}",
        f"ALTER FUNCTION indexer.forbid(text) OWNER TO {admin}",
        f"ALTER FUNCTION indexer.drop_entries(integer) OWNER TO {admin}",
        f"ALTER FUNCTION indexer.raise_fences(bigint) OWNER TO {admin}",
        f"ALTER FUNCTION indexer.forget_steps(double precision, integer) OWNER TO {admin}",
        f"ALTER TABLE public.base OWNER TO {admin}",
    )
    theirs = login(admin)
    with pytest.raises(DatabaseError, match=f'CREATE ROLE "{role}" NOLOGIN'):
        catalog.permit(theirs, role, "worker")
    run(each_engine, f"CREATE ROLE {role}")
    assert catalog.permit(theirs, role, "worker") is False
    described = {
        "name": "shown",
        "table": "public.shown",
        "key": "id",
        "features": {"a": "text"},
        "watch": [{"table": "public.base", "key": "id"}],
    }
    with pytest.raises(CatalogError, match=r"Have the owner run: (GRANT .*); then") as refused:
        catalog.attach(theirs, spec.parse(described, name="test"))
    assert catalog.all_of(theirs) == [], "nothing was attached"
    sql = str(refused.value).partition("Have the owner run: ")[2].partition("; then")[0]
    run(each_engine, sql)
    assert catalog.attach(theirs, spec.parse(described, name="test")).name == "shown"


def test_roles_that_need_no_grant_and_roles_that_are_unknown_are_refused(
    each_engine: sa.Engine, role: str
) -> None:
    with each_engine.begin() as connection:
        me = connection.scalar(sa.text("SELECT current_user"))
    with pytest.raises(UsageError, match="rights of the schema's owner"):
        catalog.permit(each_engine, me, "worker")
    with pytest.raises(UsageError, match="was given nothing"):
        catalog.forbid(each_engine, role)
    schema.check(each_engine)


def test_a_migration_gives_roles_what_their_purpose_needs_now(
    each_engine: sa.Engine, role: str
) -> None:
    catalog.permit(each_engine, role, "worker")
    run(each_engine, f"REVOKE ALL ON indexer.entries FROM {role}")
    with each_engine.begin() as connection:
        schema.finish(connection)
        may = sa.text("SELECT has_table_privilege(:role, 'indexer.entries', 'INSERT, DELETE')")
        assert connection.scalar(may, {"role": role})


def _readable(engine: sa.Engine, role: str, table: str) -> list[str]:
    columns = sa.text("""
        SELECT attname FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) AND attnum > 0
           AND has_column_privilege(:role, attrelid, attnum, 'SELECT')
           AND has_schema_privilege(:role, 'the Shop', 'USAGE') ORDER BY 1
    """)
    with engine.begin() as connection:
        return list(connection.scalars(columns, {"table": table, "role": role}))
