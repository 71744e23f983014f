"""`twinspan up` as a real process: what it serves, how it ends, and what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import films
import httpx
import processes
import pytest
import sqlalchemy as sa

from indexer import catalog, database, embedded
from indexer.catalog import spec
from indexer.embedded import UpServer, postgres
from indexer.errors import DatabaseUnavailable, EmbeddedError
from indexer.settings import Settings

UP = """
import logging, sys
from indexer import settings
from indexer import up
from indexer.errors import TwinspanError
logging.basicConfig(level="INFO")
try:
    up.up(settings.load(), say=print)
except TwinspanError as error:
    print("error:", error)
    sys.exit(1)
"""
WITHOUT_WORKER = """
from indexer import settings
from indexer import up
with up.started(settings.load()) as running:
    running.check()
    running._worker.stop()
    try:
        running.check()
    except Exception as error:
        print(type(error).__name__, error)
"""
SHORT_COMMAND = """
import sys
from indexer import embedded, settings
with embedded.database_url(settings.load()) as url:
    print(url)
    sys.stdin.readline()
"""
EDGE_HOLDER = """
import sys
from indexer.stores.edge import EdgeStore
store = EdgeStore(sys.argv[1])
print("held")
sys.stdin.readline()
store.close()
"""


@dataclass(kw_only=True)
class Home:
    """A data directory, and the processes that run on it."""

    folder: Path

    @property
    def settings(self) -> Settings:
        return Settings.model_validate({"data_dir": self.folder})

    @property
    def postgres(self) -> Path:
        return self.folder / embedded.POSTGRES_FOLDER

    def environment(self, **more: str) -> dict[str, str]:
        own = {"TWINSPAN_DATA_DIR": str(self.folder), "TWINSPAN_HTTP_PORT": "0"}
        return {**own, **{f"TWINSPAN_{name}": value for name, value in more.items()}}

    @contextmanager
    def up(self, **more: str) -> Iterator[Up]:
        with processes.python(UP, env=self.environment(**more)) as process:
            lines: list[str] = []
            while not lines or not lines[-1].startswith("serving on"):
                lines.append(processes.line(process))
            server = embedded.find_server(self.folder)
            assert server is not None
            errors = _drained(process)
            with httpx.Client(
                base_url=server.base_url,
                headers={"Authorization": f"Bearer {server.token}"},
                timeout=60,
                trust_env=False,
            ) as client:
                try:
                    yield Up(process=process, said=lines, server=server, client=client, log=errors)
                finally:  # pytest shows it when the test fails
                    print(f"exit status {process.poll()}, log:", *errors, sep="\n")

    def refused(self, **more: str) -> str:
        """What an `up` says that ends with an error."""
        with processes.python(UP, env=self.environment(**more)) as process:
            out, log = process.communicate(timeout=60)
        assert process.returncode == 1, out + log
        assert "Traceback" not in out
        return out.strip().splitlines()[-1]


@dataclass(kw_only=True)
class Up:
    process: subprocess.Popen[str]
    said: list[str]
    server: UpServer
    client: httpx.Client
    log: list[str]

    def build(self, home: Home) -> int:
        """A live index of the films, by HTTP and the worker inside; its id."""
        encoder = films.trained(home.folder / "encoders")
        asked = {"catalog": "items", "encoder_uri": encoder.uri}
        response = self.client.post("/indexes", json=asked)
        assert response.status_code == 201, response.text
        index_id: int = response.json()["id"]
        processes.until(
            lambda: self.client.get(f"/indexes/{index_id}").json()["progress"]["complete"],
            seconds=60,
        )
        self.client.post(f"/indexes/{index_id}/promote").raise_for_status()
        return index_id

    def similar(self, key: str) -> list[str]:
        response = self.client.post("/similar", json={"key": key, "k": 5})
        return [hit["key"] for hit in response.json().get("hits", [])]


def _drained(process: subprocess.Popen[str]) -> list[str]:
    """The log so far; read all the time, so that a full pipe stops nobody."""
    lines: list[str] = []
    assert process.stderr is not None
    threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True).start()
    return lines


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A data directory; no process of it is left afterwards."""
    folder = tmp_path / "twinspan"
    yield Home(folder=folder)
    processes.until(lambda: not processes.below(folder))
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def connected(url: str) -> Iterator[sa.Engine]:
    engine = database.engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.mark.live
def test_a_row_is_found_moments_after_its_commit_and_sigterm_stops_everything(home: Home) -> None:
    with home.up() as up:
        assert up.said[0].startswith("embedded: database, store, broker, in ")
        assert "100,000 items" in up.said[1]
        for variable in ("TWINSPAN_DATABASE_URL", "TWINSPAN_QDRANT_URL", "TWINSPAN_BROKER_URL"):
            assert variable in up.said[1]
        url = postgres.find(home.postgres)
        assert url is not None
        with connected(url) as engine:
            catalog.attach(engine, spec.BUILTIN)
            films.insert(engine, films.rows())
            up.build(home)
            assert up.similar("new") == []
            films.insert(engine, {"new": {"genres": ["Horror"], "year": 1962}})
            began = time.monotonic()
            processes.until(lambda: up.similar("new"), seconds=10)
            assert time.monotonic() - began < 5
            assert "new" in up.similar("m2")
            assert up.client.get("/health").status_code == 200
        assert processes.postgres_below(home.folder)
        assert processes.kill(up.process, signal.SIGTERM) == 0, up.log
    assert not processes.below(home.folder)
    assert not (home.folder / embedded.UP_FILE).exists()
    assert embedded.find_server(home.folder) is None
    assert not [line for line in up.log if "Traceback" in line], up.log


@pytest.mark.live
def test_kill_9_leaves_no_postgres_and_a_restart_has_data_and_index(home: Home) -> None:
    with home.up() as up:
        url = postgres.find(home.postgres)
        assert url is not None
        with connected(url) as engine:
            catalog.attach(engine, spec.BUILTIN)
            films.insert(engine, films.rows())
            up.build(home)
            films.insert(engine, {"late": {"genres": ["Drama"], "year": 1990}})
            processes.kill(up.process)
        processes.until(lambda: not processes.postgres_below(home.folder))
    assert (home.folder / embedded.UP_FILE).exists()
    assert embedded.find_server(home.folder) is None
    with home.up() as again:
        processes.until(lambda: again.similar("late"))  # its change was not lost
        assert again.client.get("/status").json()["indexes"][0]["items"] == len(films.rows()) + 1
        assert processes.kill(again.process, signal.SIGINT) == 0, again.log


@pytest.mark.live
def test_a_postgres_that_dies_is_an_outage_and_comes_back(home: Home) -> None:
    from indexer.embedded import pgdata

    with home.up() as up:
        url = postgres.find(home.postgres)
        assert url is not None
        with connected(url) as engine:
            catalog.attach(engine, spec.BUILTIN)
            films.insert(engine, films.rows())
            up.build(home)
        state = pgdata.running(home.postgres / "data")
        assert state is not None
        os.kill(state.pid, signal.SIGKILL)
        processes.until(lambda: postgres.find(home.postgres))
        with connected(url) as engine:  # the same address
            films.insert(engine, {"after": {"genres": ["Western"], "year": 1970}})
        processes.until(lambda: up.similar("after"))
        processes.until(lambda: up.client.get("/health").status_code == 200)
        assert processes.kill(up.process, signal.SIGTERM) == 0, up.log


@pytest.mark.live
def test_a_second_up_is_told_who_runs_and_where(home: Home) -> None:
    with home.up() as up:
        said = home.refused()
        assert f"already runs on {home.folder}" in said
        assert f"process {up.process.pid}" in said
        assert up.server.base_url in said
        assert up.client.get("/health/live").status_code == 200
        processes.kill(up.process, signal.SIGTERM)


@pytest.mark.live
def test_a_taken_port_is_told_and_nothing_is_left_running(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = home.refused(HTTP_PORT=str(taken.getsockname()[1]))
    assert "TWINSPAN_HTTP_PORT" in said
    assert not processes.below(home.folder)


@pytest.mark.live
def test_a_store_that_another_process_holds_is_told_and_nothing_is_left_running(
    home: Home,
) -> None:
    with processes.python(EDGE_HOLDER, str(home.folder / "edge")) as holder:
        assert processes.line(holder) == "held"
        said = home.refused()
        assert str(holder.pid) in said
        assert not processes.postgres_below(home.folder)
        holder.communicate("\n", timeout=30)


@pytest.mark.live
def test_a_database_that_a_short_command_runs_is_not_built_upon(home: Home) -> None:
    with processes.python(SHORT_COMMAND, env=home.environment()) as command:
        processes.line(command)
        assert f"already run by process {command.pid}" in home.refused()
        command.communicate("\n", timeout=30)


@pytest.mark.live
def test_a_worker_that_ends_is_noticed(home: Home) -> None:
    with processes.python(WITHOUT_WORKER, env=home.environment()) as process:
        assert processes.line(process).startswith("EmbeddedError the worker ended by itself")
        assert process.wait(timeout=60) == 0


@pytest.mark.live
def test_with_a_database_of_ones_own_no_postgres_is_started(home: Home, database_url: str) -> None:
    with home.up(DATABASE_URL=database_url) as up:
        assert up.said[0].startswith("embedded: store, broker, in ")
        assert "TWINSPAN_DATABASE_URL" not in up.said[1]
        assert not home.postgres.exists()
        assert not processes.postgres_below(home.folder)
        with connected(database_url) as engine:
            catalog.attach(engine, spec.BUILTIN)
            films.insert(engine, films.rows())
            up.build(home)
        assert up.similar("m0")
        assert processes.kill(up.process, signal.SIGTERM) == 0, up.log


@pytest.mark.live
def test_an_unreachable_database_is_told(home: Home) -> None:
    said = home.refused(DATABASE_URL="postgresql://nobody:secret@127.0.0.1:1/none")
    assert "127.0.0.1:1" in said
    assert "not available" in said
    assert "secret" not in said


# -- short commands ---------------------------------------------------------------------------


def test_a_short_command_starts_the_database_and_stops_it(home: Home) -> None:
    with embedded.database_url(home.settings) as url, connected(url) as engine:
        with database.begin(engine) as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
        assert postgres.holder(home.postgres) == f"process {os.getpid()}"
    assert postgres.holder(home.postgres) is None


def test_a_short_command_joins_a_database_that_runs(home: Home) -> None:
    with processes.python(SHORT_COMMAND, env=home.environment()) as first:
        running = processes.line(first)
        with embedded.database_url(home.settings) as url:
            assert url == running
        assert postgres.find(home.postgres) == running  # it is not ours to stop
        first.communicate("\n", timeout=30)


def test_a_short_command_keeps_its_database_until_those_who_joined_have_left(home: Home) -> None:
    with (
        processes.python(SHORT_COMMAND, env=home.environment()) as first,
        processes.python(SHORT_COMMAND, env=home.environment()) as second,
    ):
        assert processes.line(first) == processes.line(second)
        owner, guest = first, second
        if postgres.holder(home.postgres) == f"process {second.pid}":
            owner, guest = second, first
        assert owner.stdin is not None
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert owner.stderr is not None
        assert "other commands still use this database" in owner.stderr.readline()
        assert postgres.find(home.postgres) is not None
        guest.communicate("\n", timeout=30)
        owner.communicate(timeout=30)
    assert (owner.returncode, guest.returncode) == (0, 0)


def test_short_commands_that_start_together_share_one_database(home: Home) -> None:
    urls: list[str] = []
    everybody = threading.Barrier(3, timeout=60)

    def command() -> None:
        with embedded.database_url(home.settings) as url, connected(url) as engine:
            urls.append(url)
            everybody.wait()
            with database.begin(engine) as connection:
                assert connection.scalar(sa.text("SELECT 1")) == 1
            everybody.wait()

    threads = [threading.Thread(target=command) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(urls) == 3
    assert len(set(urls)) == 1


def test_opening_all_parts_brings_the_schema_up_to_date_and_closes_in_order(home: Home) -> None:
    with embedded.opened(home.settings) as services:
        assert catalog.all_of(services.engine) == []
        assert services.store.collections() == []
    with pytest.raises(DatabaseUnavailable), database.begin(services.engine):
        pass
    services.engine.dispose()
    assert not processes.below(home.folder)


# -- finding ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"port": 1}', '{"host": 1, "port": "x", "new": 1}']
)
def test_a_state_file_that_says_nothing_finds_nobody(home: Home, text: str) -> None:
    home.folder.mkdir()
    assert embedded.find_server(home.folder) is None
    (home.folder / embedded.UP_FILE).write_text(text)
    assert embedded.find_server(home.folder) is None


def test_another_program_on_the_port_is_not_taken_for_ours(home: Home) -> None:
    """A state file outlives a kill -9, and its port may be somebody else's by now."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"alive": True, "instance": "another"}).encode())

        def log_message(self, *_: object) -> None: ...

    home.folder.mkdir()
    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            server = UpServer(
                host="127.0.0.1", port=other.server_port, pid=1, token="secret", instance="ours"
            )
            embedded.announce(home.folder, server)
            assert embedded.find_server(home.folder) is None
            embedded.announce(home.folder, UpServer(**{**vars(server), "instance": "another"}))
            assert embedded.find_server(home.folder) is not None
        finally:
            other.shutdown()
            thread.join()


def test_only_we_can_read_the_token(home: Home) -> None:
    home.folder.mkdir()
    server = UpServer(host="127.0.0.1", port=1, pid=1, token="secret", instance="ours")
    embedded.announce(home.folder, server)
    assert (home.folder / embedded.UP_FILE).stat().st_mode & 0o777 == 0o600
    embedded.withdraw(home.folder)
    embedded.withdraw(home.folder)


def test_with_servers_for_everything_nothing_is_called_embedded(home: Home) -> None:
    servers = home.settings.model_copy(
        update={"database_url": "x", "qdrant_url": "x", "broker_url": "x"}
    )
    [line] = embedded.said_at_start(servers)
    assert line.startswith("nothing is embedded")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    from indexer import up

    (tmp_path / "file").write_text("")
    settings = Settings.model_validate({"data_dir": tmp_path / "file" / "data"})
    with pytest.raises(EmbeddedError, match="TWINSPAN_DATA_DIR"), up.started(settings):
        pass
