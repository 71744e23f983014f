"""Roles with few rights: what a worker's role can do, which is a worker's whole life, and what it
cannot, which is everything else."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import live_world
import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from celery import Celery
from hashing import HashingEncoder
from live_world import ENCODER_ID, World

from indexer import (
    catalog,
    changes,
    database,
    entries,
    history,
    indexes,
    ledger,
    reindex,
    roles,
    schema,
    shadow_reads,
    standing,
    sync,
    verify,
)
from indexer.catalog import spec
from indexer.errors import CatalogError, DatabaseError, UsageError
from indexer.settings import Settings
from indexer.stores import Point, VectorStore
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Tower, Towers
from indexer.verify import records
from workers import leading, upkeep, watch
from workers.app import make_app
from workers.bell import Bell

_numbers = itertools.count()


@pytest.fixture
def role_name() -> str:
    return f"twinspan_test_{os.getpid()}_role_{next(_numbers)}"


@pytest.fixture
def role(each_engine: sa.Engine, role_name: str) -> Iterator[str]:
    """A name for a role, which is gone at the end with all its rights."""
    yield role_name
    with each_engine.begin() as connection:
        for name in (role_name, f"{role_name}_b"):
            if connection.scalar(sa.text("SELECT to_regrole(:name)"), {"name": name}):
                connection.exec_driver_sql(f"DROP OWNED BY {name} CASCADE")
                connection.exec_driver_sql(f"DROP ROLE {name}")


@pytest.fixture
def login(each_engine: sa.Engine) -> Iterator[Callable[[str], sa.Engine]]:
    """`login(role)` connects as it, with its own password."""
    opened: list[sa.Engine] = []

    def connect(role: str) -> sa.Engine:
        _run(each_engine, f"ALTER ROLE {role} LOGIN PASSWORD 'a secret of the test'")
        url = each_engine.url.set(username=role, password="a secret of the test")
        opened.append(database.engine(url.render_as_string(hide_password=False)))
        return opened[-1]

    yield connect
    for engine in opened:
        engine.dispose()


def _run(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))


class _Towers:
    """The encoder of the tests, for whatever index."""

    def get(self, encoder_id: str, uri: str) -> Tower:
        return Tower(ENCODER_ID, HashingEncoder())


@pytest.fixture
def world(each_engine: sa.Engine) -> Iterator[World]:
    store = QdrantStore.in_memory()
    yield live_world.make(each_engine, store, queue="roles")
    store.close()


def test_a_workers_whole_life_needs_no_more_rights_than_it_has(
    each_engine: sa.Engine, world: World, role: str, login: Callable[[str], sa.Engine]
) -> None:
    assert catalog.permit(each_engine, role, "worker") is True
    worker = login(role)
    settings = Settings(data_dir="/nonexistent")
    world.insert([f"m{n}" for n in range(40)])
    world.run("DELETE FROM public.items WHERE id IN ('m1', 'm2')")

    def drain() -> sync.Report:
        return sync.drain(worker, world.store, _Towers(), settings)  # type: ignore[arg-type]

    assert schema.check(worker) == schema.HEAD
    with leading.Lock(worker, key=watch.LEADER_LOCK, silent_s=60) as lock:  # as the watcher does
        assert lock.take()
        assert lock.look().work
        assert drain().outages == []
        assert changes.pending(worker) == 0
        lock.listen()
    assert world.assert_agrees() == 38

    # an index that is registered later, by its owner, is the worker's work at once
    later = indexes.register(
        each_engine,
        catalog_id=world.index.catalog_id,
        alias="later",
        encoder=live_world.info(ENCODER_ID),
        queue="roles",
    )
    world.store.ensure_collection(_spec_like(world, later))
    world.run("UPDATE public.items SET title = title || ' again'")
    drain()
    world.assert_agrees()
    assert world.store.count(later.ref) == 38

    # which it can retire, and whose part of the ledger it can drop, but of no other
    with pytest.raises(DatabaseError, match="has not ended"), database.begin(worker) as one:
        one.execute(sa.text("SELECT indexer.drop_entries(:id)"), {"id": later.id})
    indexes.set_state(worker, later.id, "retired")
    indexes.drop_partition(worker, later.id)
    assert later.id not in ledger.summary(worker)

    # a description that changed, an item that fails, a truncated catalog, what is purged
    described = spec.BUILTIN.model_dump(mode="json")
    del described["returned"]["price"]
    catalog.attach(each_engine, spec.parse(described, name="test"))
    drain()
    assert indexes.get(worker, world.index.id).spec_version == 2
    batch = _claim_one(worker, world)
    entries.fail_if_held(
        worker, batch, {"m3": "boom"}, max_attempts=1, backoff_s=0, backoff_max_s=0
    )
    assert [one.key for one in ledger.failures(worker)] == ["m3"]
    assert entries.retry(worker) == 1
    batch = entries.claim(worker, world.index.id, limit=1, lease_s=60)
    assert batch is not None
    assert entries.release_if_held(worker, batch, ["m3"]) == 1
    world.run("TRUNCATE public.items")
    drain()
    assert world.store.count(world.index.ref) == 0
    assert ledger.summary(worker)[world.index.id].present == 0
    world.run("UPDATE indexer.entries SET changed_at = now() - interval '9 days'")
    assert entries.purge(worker, tombstone_s=60) > 0
    seen = verify.compare(worker, world.store, indexes.get(worker, world.index.id), tower=None)
    assert seen.drift == 0


def test_a_round_of_upkeep_needs_no_more_rights_than_a_workers_role_has(
    each_engine: sa.Engine,
    world: World,
    role: str,
    login: Callable[[str], sa.Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A promotion that died half-way, a standby that had its time, drift whose fence no claim was
    given yet, records of last year: as the watcher and upkeep of a worker meet them."""
    for name in ("LOOK_S", "ROUND_S", "PAUSE_S"):
        monkeypatch.setattr(upkeep, name, 0.02)
    catalog.permit(each_engine, role, "worker")
    worker = login(role)
    settings = Settings(
        data_dir="/nonexistent", verify_items_per_s=10_000, verify_repair=True, standby_s=0
    )
    bell = _Bell(make_app(settings))
    watcher = watch.Watcher(settings, worker, bell)
    keeping = upkeep.Upkeep(settings, _Services(worker, world.store, _Towers()))
    world.insert([f"m{n}" for n in range(20)])
    later = _promoted_half_way(world)
    watcher.start()
    try:
        _until(lambda: later.id in bell.rung, "the watcher rang")
        sync.drain(worker, world.store, _Towers(), settings)  # type: ignore[arg-type]
        for index in (world.index, later):
            _make_old_records(each_engine, index)
        high = entries.last_fence(worker) + 1_000
        world.store.delete_if_newer(later.ref, ["m3"], fence=high)
        ghost = Point(key="ghost", vectors={"hashing": np.ones(16, np.float32)}, payload={})
        world.store.write_if_newer(later.ref, [ghost], fence=high, mode="upsert")
        keeping.start()
        _until(lambda: entries.last_fence(worker) >= high, "the fences were raised")
        _until(lambda: _state(worker, world.index.id) == "retired", "the standby was retired")
        sync.drain(worker, world.store, _Towers(), settings)  # type: ignore[arg-type]
        _until(lambda: _finds_nothing(worker, later), "a round found nothing")
    finally:
        keeping.stop()
        watcher.stop()
    assert _state(worker, later.id) == "live"
    assert world.store.collections() == [later.collection]
    assert list(ledger.summary(worker)) == [later.id]
    assert [(one.action, one.index_id, one.outcome) for one in reversed(history.of(worker))][
        :3
    ] == [
        ("promote", later.id, "done"),
        ("retire", world.index.id, "done"),
        ("repair", later.id, "done"),
    ]
    assert shadow_reads.summary(worker, later.id) is None
    assert not standing.look(worker).unrouted


class _Bell(Bell):
    """Remembers what it was rung for."""

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        self.rung: set[int] = set()

    def ring(self, due: Sequence[indexes.Index], *, fence: int) -> int:
        self.rung |= {index.id for index in due}
        return super().ring(due, fence=fence)


@dataclass(frozen=True)
class _Services:
    engine: sa.Engine
    store: VectorStore
    towers: Towers


def _until(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, f"it never came to pass that {what}"
        time.sleep(0.02)


def _state(engine: sa.Engine, index_id: int) -> str:
    return indexes.get(engine, index_id).state


def _finds_nothing(engine: sa.Engine, index: indexes.Index) -> bool:
    found = records.latest(engine, index.id, mode="continuous")
    return (
        found is not None
        and found.finished_at is not None
        and (found.seen.items, found.seen.agree, found.seen.drift) == (20, 20, 0)
    )


def _promoted_half_way(world: World) -> indexes.Index:
    """A second index, which the alias names already, while the ledger calls the first one live."""
    later = indexes.register(
        world.engine,
        catalog_id=world.index.catalog_id,
        alias="items",
        encoder=live_world.info(ENCODER_ID),
        queue="roles",
    )
    world.store.ensure_collection(_spec_like(world, later))
    for _ in reindex.fill(world.engine, later):
        pass
    world.store.point_alias("items", later.collection)
    with database.begin(world.engine) as connection:
        indexes.make_live(connection, world.index.id, "items")
        history.record(
            connection,
            index_id=later.id,
            alias="items",
            action="promote",
            report={"outcome": "begun", "before": world.index.id},
        )
    return later


def _make_old_records(engine: sa.Engine, index: indexes.Index) -> None:
    with database.begin(engine) as connection:
        history.record(connection, index_id=index.id, alias="items", action="gate")
        connection.execute(
            sa.text(
                "UPDATE indexer.rollouts SET at = now() - interval '1 year' WHERE action = 'gate'"
            )
        )
    year_ago = datetime.now(UTC) - timedelta(days=365)
    read = shadow_reads.Read(
        index_id=index.id,
        live_index_id=index.id,
        at=year_ago,
        k=1,
        overlap=1,
        live_ms=1,
        shadow_ms=1,
    )
    shadow_reads.add(engine, [read])


def _claim_one(worker: sa.Engine, world: World) -> entries.Batch:
    world.run("UPDATE public.items SET title = 'x' WHERE id = 'm3'")
    changes.route(worker, limit=100)
    batch = entries.claim(worker, world.index.id, limit=1, lease_s=60)
    assert batch is not None
    return batch


def _spec_like(world: World, index: indexes.Index) -> object:
    from indexer import collection

    attached = catalog.get(world.engine, "items")
    return collection.spec_of(index, attached, live_world.info(ENCODER_ID).vectors)


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


def test_a_workers_role_can_do_nothing_else(
    each_engine: sa.Engine, world: World, role: str, login: Callable[[str], sa.Engine]
) -> None:
    _run(
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
            _run(worker, filled)
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
    _run(query, "SELECT * FROM indexer.interactions, indexer.users")
    for refused in (
        "SELECT title FROM public.items",
        "UPDATE indexer.entries SET wanted = 1",
        "DELETE FROM indexer.changes",
        "SELECT nextval('indexer.fences')",
        "INSERT INTO indexer.users VALUES ('u1')",
    ):
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            _run(query, refused)
    insert = (
        "INSERT INTO indexer.shadow_reads (index_id, live_index_id, k, overlap, live_ms, shadow_ms)"
        f" VALUES ({world.index.id}, {world.index.id}, 1, 1, 1, 1)"
    )
    _run(query, insert)


def test_a_workers_role_reads_what_is_described_now_and_no_longer_what_was(
    each_engine: sa.Engine, role: str
) -> None:
    _run(
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


def _readable(engine: sa.Engine, role: str, table: str) -> list[str]:
    columns = sa.text("""
        SELECT attname FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) AND attnum > 0
           AND has_column_privilege(:role, attrelid, attnum, 'SELECT')
           AND has_schema_privilege(:role, 'the Shop', 'USAGE') ORDER BY 1
    """)
    with engine.begin() as connection:
        return list(connection.scalars(columns, {"table": table, "role": role}))


def test_two_catalogs_of_one_table_share_what_may_be_read(
    each_engine: sa.Engine, role: str
) -> None:
    _run(
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
    _run(
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
    _run(
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
    _run(each_engine, f"CREATE ROLE {role}")
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
    _run(each_engine, sql)
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
    _run(each_engine, f"REVOKE ALL ON indexer.entries FROM {role}")
    with each_engine.begin() as connection:
        schema.finish(connection)
        may = sa.text("SELECT has_table_privilege(:role, 'indexer.entries', 'INSERT, DELETE')")
        assert connection.scalar(may, {"role": role})


def test_hidden_rows_are_an_error_and_never_deletions(
    each_engine: sa.Engine, world: World, role: str, login: Callable[[str], sa.Engine]
) -> None:
    """Row-level security that hides the catalog from the worker must not empty the index."""
    world.insert([f"m{n}" for n in range(5)])
    catalog.permit(each_engine, role, "worker")
    worker = login(role)
    settings = Settings(data_dir="/nonexistent")
    sync.drain(worker, world.store, _Towers(), settings)  # type: ignore[arg-type]
    _run(each_engine, "ALTER TABLE public.items ENABLE ROW LEVEL SECURITY")
    world.run("UPDATE public.items SET title = title || ' 2'")
    with pytest.raises(DatabaseError, match="row-level security policy"):
        sync.drain(worker, world.store, _Towers(), settings)  # type: ignore[arg-type]
    assert world.store.count(world.index.ref) == 5


AS_OWNER = ("drop_entries", "raise_fences", "forget_steps")


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


def test_a_view_that_reads_as_its_reader_is_an_error_for_a_role_that_may_not(
    each_engine: sa.Engine, role: str, login: Callable[[str], sa.Engine]
) -> None:
    _run(
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
