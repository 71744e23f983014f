"""The schema: from nothing to head, kept true to its golden dump and to the tables in code."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import schema_dump
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from processes import until

from indexer import database, schema, tables
from indexer.errors import (
    DatabaseUnavailable,
    SchemaInUse,
    SchemaMissing,
    SchemaOutdated,
    SchemaTooNew,
)

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "migrations" / "schema.sql"


@pytest.fixture
def bare_url(postgres_url: str, databases: Callable[[str], Any]) -> Iterator[str]:
    """A database that was never migrated."""
    url = databases(postgres_url).url_of(f"twinspan_test_{os.getpid()}_bare")
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        name = f"twinspan_test_{os.getpid()}_bare"
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        yield url
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def bare(bare_url: str) -> Iterator[sa.Engine]:
    engine = database.engine(bare_url)
    yield engine
    engine.dispose()


def test_the_golden_dump_is_what_head_makes(each_database_url: str) -> None:
    with psycopg.connect(each_database_url) as connection:
        made = schema_dump.dump(connection, ["indexer"])
    assert made == GOLDEN.read_text(), (
        "migrations/schema.sql differs from head: migrate an empty database and run "
        "`python tests/schema_dump.py ADDRESS > migrations/schema.sql`"
    )


def test_the_tables_in_code_are_those_of_head(each_engine: sa.Engine) -> None:
    options = {
        "include_schemas": True,
        "include_name": schema.is_ours,
        "compare_type": True,
        "compare_server_default": True,
        "version_table_schema": database.SCHEMA,
    }
    with each_engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, tables.metadata) == []


def test_the_comparison_sees_a_difference(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE indexer.indexes DROP COLUMN queue"))
        options = {"include_schemas": True, "include_name": schema.is_ours}
        context = MigrationContext.configure(connection, opts=options)
        assert "queue" in str(compare_metadata(context, tables.metadata))


def test_the_revisions_in_code_are_those_on_disk() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    on_disk = [script.revision for script in scripts.walk_revisions()]
    assert tuple(reversed(on_disk)) == schema.REVISIONS


def test_a_schema_is_missing_then_migrated_then_in_order(bare: sa.Engine) -> None:
    with pytest.raises(SchemaMissing, match="twinspan migrate"):
        schema.check(bare)
    assert schema.migrate(bare) == schema.HEAD
    schema.check(bare)
    assert schema.migrate(bare) == schema.HEAD


def test_two_migrations_at_once_are_one(bare: sa.Engine) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(schema.migrate(bare))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [schema.HEAD] * 4


def test_a_failed_migration_leaves_nothing_behind(bare: sa.Engine, bare_url: str) -> None:
    with psycopg.connect(bare_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA indexer")
        connection.execute("CREATE TABLE indexer.users (mine int)")
        with pytest.raises(Exception, match="users"):
            schema.migrate(bare)
        left = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'indexer'::regnamespace"
        ).fetchall()
    assert left == [("users",)]


def test_an_older_schema_is_told(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9998"))
    monkeypatch.setattr(schema, "HEAD", "9998")
    with pytest.raises(SchemaOutdated, match=r"at revision 0\d+, this release needs 9998"):
        schema.check(engine)


def test_a_release_works_on_a_newer_schema_that_only_added(engine: sa.Engine) -> None:
    _move_on(engine, revision="9999", oldest=schema.HEAD)
    assert schema.check(engine) == "9999"
    assert schema.migrate(engine) == "9999"  # as a job of the old release does that runs again


def test_a_release_that_was_left_behind_is_told(engine: sa.Engine) -> None:
    _move_on(engine, revision="9999", oldest="9999")
    with pytest.raises(SchemaTooNew, match="Upgrade twinspan"):
        schema.check(engine)
    with pytest.raises(SchemaTooNew, match="9999"):
        schema.migrate(engine)


def test_a_newer_schema_that_says_nothing_is_too_new(engine: sa.Engine) -> None:
    _move_on(engine, revision="9999", oldest=schema.HEAD)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE indexer.compatibility"))
    with pytest.raises(SchemaTooNew, match="9999"):
        schema.check(engine)


def test_nobody_is_left_behind_who_is_at_work(engine: sa.Engine) -> None:
    """What a contracting revision does at its end, while a worker of this release runs."""
    worker = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        schema.announce(worker)
        assert schema.at_work(engine) == {schema.HEAD: 1}
        with pytest.raises(SchemaInUse, match=f"schema {schema.HEAD}"), engine.begin() as one:
            _contract(one)
            schema.finish(one)
        assert schema.check(engine) == schema.HEAD
    finally:
        worker.invalidate()
        worker.close()
    until(lambda: schema.at_work(engine) == {}, "the server has seen that the worker is gone")
    with engine.begin() as one:
        _contract(one)
        schema.finish(one)
    assert schema.at_work(engine) == {}
    with pytest.raises(SchemaTooNew):
        schema.check(engine)


def test_a_worker_that_starts_while_it_is_left_behind_finds_out(engine: sa.Engine) -> None:
    """It announces itself, which waits for the migration, and then checks the schema."""
    found: list[type[Exception]] = []

    def start_a_worker() -> None:
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        schema.announce(connection)
        try:
            schema.check(engine)
        except SchemaTooNew as error:
            found.append(type(error))
        connection.invalidate()
        connection.close()

    thread = threading.Thread(target=start_a_worker)
    with engine.begin() as connection:
        _contract(connection)
        schema.finish(connection)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive(), "it waits for the migration"
    thread.join(10)
    assert found == [SchemaTooNew]


def _contract(connection: sa.Connection) -> None:
    connection.execute(sa.text("UPDATE indexer.alembic_version SET version_num = '9999'"))
    connection.execute(sa.text("UPDATE indexer.compatibility SET oldest = '9999'"))


def _move_on(engine: sa.Engine, *, revision: str, oldest: str) -> None:
    """As a migration of a later release does."""
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE indexer.alembic_version SET version_num = :to"), {"to": revision}
        )
        connection.execute(sa.text("UPDATE indexer.compatibility SET oldest = :to"), {"to": oldest})


def test_a_table_items_of_the_readers_own_is_left_alone(bare: sa.Engine) -> None:
    with bare.begin() as connection:
        connection.execute(sa.text("CREATE TABLE public.items (sku int PRIMARY KEY)"))
    schema.migrate(bare)
    columns = [column["name"] for column in sa.inspect(bare).get_columns("items", schema="public")]
    assert columns == ["sku"]


def test_a_user_without_rights_on_schema_public_can_migrate(bare: sa.Engine, bare_url: str) -> None:
    role = f"twinspan_test_{os.getpid()}_owner"
    with psycopg.connect(bare_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        admin.execute(f"GRANT CREATE ON DATABASE {bare.url.database} TO {role}")
        admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        url = sa.make_url(bare_url).set(username=role, password="secret")
        theirs = database.engine(url.render_as_string(hide_password=False))
        try:
            assert schema.migrate(theirs) == schema.HEAD
        finally:
            theirs.dispose()
            admin.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
    assert not sa.inspect(bare).has_table("items", schema="public")


def test_alembic_by_hand_does_the_same(bare: sa.Engine, bare_url: str) -> None:
    environment = {**os.environ, "TWINSPAN_DATABASE_URL": bare_url}
    alembic = [sys.executable, "-m", "alembic"]
    subprocess.run([*alembic, "upgrade", "head"], cwd=ROOT, env=environment, check=True)
    schema.check(bare)
    with bare.begin() as connection:
        placed = connection.scalars(
            sa.text(
                "SELECT relnamespace::regnamespace::text FROM pg_class "
                "WHERE relname = 'alembic_version'"
            )
        ).all()
    assert placed == ["indexer"]


def test_alembic_by_hand_says_what_it_lacks(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TWINSPAN")
    }
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), "current"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "TWINSPAN_DATABASE_URL" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_the_sql_of_a_migration_can_be_written_instead_of_run(bare_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head", "--sql"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    with psycopg.connect(bare_url, autocommit=True) as connection:
        connection.execute(done.stdout)  # type: ignore[arg-type]
        assert schema_dump.dump(connection, ["indexer"]) == GOLDEN.read_text()


def test_a_server_that_does_not_answer_is_an_outage() -> None:
    nowhere = database.engine("postgresql://postgres@127.0.0.1:1/postgres")
    with pytest.raises(DatabaseUnavailable, match="not available"):
        schema.migrate(nowhere)
    with pytest.raises(DatabaseUnavailable, match="not available"):
        schema.check(nowhere)


def test_checking_needs_no_alembic() -> None:
    code = "import sys, indexer.schema; sys.exit('alembic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
