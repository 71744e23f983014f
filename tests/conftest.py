"""Real servers for every test: an embedded PostgreSQL of the session, or the one that
TWINSPAN_TEST_DATABASE_URL names, with a fresh migrated database for each test that asks."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import sqlalchemy as sa
from command_line import GENRES, Said, Twinspan

from indexer import database
from indexer.embedded import postgres
from indexer.settings import Settings

if TYPE_CHECKING:
    from indexer.stores import VectorStore
    from indexer.stores.edge import EdgeStore

SERVICES = {
    "postgresql": ("TWINSPAN_TEST_LOCAL_URL", "postgresql://postgres@127.0.0.1:5432/postgres"),
    "redis": ("TWINSPAN_TEST_REDIS_URL", "redis://127.0.0.1:6379/0"),
    "rabbitmq": ("TWINSPAN_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//"),
}
PREFIX = "twinspan_test"

MEMORY = Path("/dev/shm")  # a file system in memory, on Linux
ROOM = 8 * 2**30  # bytes free there, of which all tests together take a half at most

Service = Callable[[str], str]


def pytest_configure() -> None:
    """The tests see no settings of the person who runs them. Torch computes in one thread: more of
    them than idle cores is many times slower, and what tests train is small. Files are written to
    memory where it is large: no test cuts the power, and thousands of fsyncs take minutes."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
    for name in list(os.environ):
        ours = name.startswith("TWINSPAN_") and not name.startswith("TWINSPAN_TEST_")
        if (ours and name != "TWINSPAN_DATA") or name.startswith("PG"):
            del os.environ[name]


class Databases:
    """Scratch databases of one server, cloned from a migrated template; all gone after `close`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._numbers = itertools.count()
        self._admin = psycopg.connect(url, autocommit=True)
        synced = self._admin.execute("SHOW fsync").fetchone() == ("on",)
        self._strategy = "WAL_LOG" if synced else "FILE_COPY"  # the other is 5 times slower
        self._drop_those_of_dead_sessions()
        self._template = self._new_name()
        self._admin.execute(f"CREATE DATABASE {self._template} TEMPLATE template0")
        _migrate(self.url_of(self._template))

    def create(self) -> str:
        """The address of a new database like the template."""
        name = self._new_name()
        self._admin.execute(
            f"CREATE DATABASE {name} TEMPLATE {self._template} STRATEGY {self._strategy}"
        )
        return self.url_of(name)

    def drop(self, url: str) -> None:
        self._drop(urlsplit(url).path.removeprefix("/"))

    def close(self) -> None:
        for name in self._names(f"{PREFIX}_{os.getpid()}_"):
            self._drop(name)
        self._admin.close()

    def url_of(self, name: str) -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def _new_name(self) -> str:
        return f"{PREFIX}_{os.getpid()}_{next(self._numbers)}"

    def _drop(self, name: str) -> None:
        self._admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _names(self, prefix: str) -> list[str]:
        rows = self._admin.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [prefix]
        )
        return [name for (name,) in rows]

    def _drop_those_of_dead_sessions(self) -> None:
        for name in self._names(f"{PREFIX}_"):
            pid = name.removeprefix(f"{PREFIX}_").split("_")[0]
            if pid.isdigit() and (int(pid) == os.getpid() or not _lives(int(pid))):
                self._drop(name)
        for (role,) in self._admin.execute(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", [f"{PREFIX}_"]
        ).fetchall():
            pid = role.removeprefix(f"{PREFIX}_").split("_")[0]
            if pid.isdigit() and not _lives(int(pid)):
                self._admin.execute(f"DROP ROLE IF EXISTS {role}")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _migrate(url: str) -> None:
    if importlib.util.find_spec("indexer.schema") is None:
        return
    from indexer import schema

    engine = database.engine(url)
    try:
        schema.migrate(engine)
    finally:
        engine.dispose()


@pytest.fixture(scope="session")
def service() -> Service:
    """`service("redis")` is its address, when it answers on loopback; otherwise the test is
    skipped by name, or fails under REQUIRE_SERVICES=1. Also "rabbitmq" and "postgresql"."""

    def address(name: str) -> str:
        variable, default = SERVICES[name]
        url = os.environ.get(variable, default)
        parts = urlsplit(url)
        try:
            socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2).close()
        except OSError as cause:
            message = f"{name} does not answer at {parts.hostname}:{parts.port}: {cause}"
            if os.environ.get("REQUIRE_SERVICES") == "1":
                pytest.fail(message)
            pytest.skip(message)
        return url

    return address


@pytest.fixture(scope="session")
def embedded_postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedded PostgreSQL of this session, without fsync."""
    folder = tmp_path_factory.mktemp("postgres")
    with postgres.start(folder, fsync=False, settings={"max_connections": "200"}) as server:
        yield server.url
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """The maintenance database of the server that tests use."""
    given = os.environ.get("TWINSPAN_TEST_DATABASE_URL")
    return given or request.getfixturevalue("embedded_postgres_url")


@pytest.fixture(scope="session", params=["embedded", "local"])
def each_postgres_url(request: pytest.FixtureRequest, service: Service) -> str:
    """Two versions of PostgreSQL in turn: ours, and the one installed on this machine."""
    if request.param == "local":
        return service("postgresql")
    return request.getfixturevalue("embedded_postgres_url")


@pytest.fixture(scope="session")
def databases() -> Iterator[Callable[[str], Databases]]:
    """Scratch databases by their server's address; each server's template is made once."""
    known: dict[str, Databases] = {}
    with ExitStack() as stack:

        def of(url: str) -> Databases:
            if url not in known:
                known[url] = Databases(url)
                stack.callback(known[url].close)
            return known[url]

        yield of


def _fresh(databases: Databases) -> Iterator[str]:
    url = databases.create()
    try:
        yield url
    finally:
        databases.drop(url)


@pytest.fixture
def database_url(postgres_url: str, databases: Callable[[str], Databases]) -> Iterator[str]:
    """A fresh, migrated database."""
    yield from _fresh(databases(postgres_url))


@pytest.fixture
def each_database_url(
    each_postgres_url: str, databases: Callable[[str], Databases]
) -> Iterator[str]:
    """A fresh, migrated database on each version of PostgreSQL in turn."""
    yield from _fresh(databases(each_postgres_url))


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """Connections to a fresh, migrated database."""
    with database.opened(database_url) as opened:
        yield opened


@pytest.fixture
def each_engine(each_database_url: str) -> Iterator[sa.Engine]:
    """Connections to a fresh, migrated database on each version of PostgreSQL in turn."""
    with database.opened(each_database_url) as opened:
        yield opened


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Settings of a test: its own folder, its own database."""
    return Settings.model_validate(
        {"data_dir": tmp_path / "twinspan", "database_url": database_url}
    )


@pytest.fixture
def edge_store(tmp_path: Path) -> Iterator[EdgeStore]:
    """An empty Qdrant Edge in a folder of the test."""
    from indexer.stores.edge import EdgeStore

    store = EdgeStore(tmp_path / "edge")
    try:
        yield store
    finally:
        store.close()


@pytest.fixture(params=["edge", "qdrant"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    """Both stores that need no server, in turn, empty."""
    from indexer.stores.edge import EdgeStore
    from indexer.stores.qdrant import QdrantStore

    made: VectorStore = (
        EdgeStore(tmp_path / "edge") if request.param == "edge" else QdrantStore.in_memory()
    )
    yield made
    made.close()


@pytest.fixture
def twinspan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Twinspan:
    """Run a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    from indexer.cli.app import run

    def call(*arguments: str) -> Said:
        capsys.readouterr()
        code = run(arguments)
        printed = capsys.readouterr()
        return Said(code, printed.out, printed.err)

    return call


@pytest.fixture
def connected(twinspan: Twinspan, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Twinspan:
    """With a migrated database, and Qdrant Edge in the test's folder."""
    monkeypatch.setenv("TWINSPAN_DATABASE_URL", database_url)
    return twinspan


@pytest.fixture
def sql(engine: sa.Engine) -> Callable[..., None]:
    def execute(statement: str, **parameters: object) -> None:
        with database.begin(engine) as connection:
            connection.execute(sa.text(statement), parameters)

    return execute


@pytest.fixture
def shop(connected: Twinspan, sql: Callable[..., None]) -> Iterator[Twinspan]:
    """Thirty films, attached, indexed with `content` and live."""
    for number in range(30):
        sql(
            "INSERT INTO public.items (id, title, attributes) VALUES (:id, :title, :attributes)",
            id=f"m{number}",
            title=f"Film {number}",
            attributes=json.dumps({"genres": [GENRES[number % 3]], "year": 1980 + number}),
        )
    for command in (
        ("attach", "items"),
        ("train", "content"),
        ("reindex",),
    ):
        said = connected(*command)
        assert said.code == 0, said.err
    yield connected
