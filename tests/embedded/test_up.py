"""`twinspan up` as a real process: what it serves, how it ends, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import films
import processes
import pytest

from embedded.home import SHORT_COMMAND, Home
from indexer import catalog, database, embedded
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.errors import EmbeddedError
from indexer.settings import Settings

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
EDGE_HOLDER = """
import sys
from indexer.stores.edge import EdgeStore
store = EdgeStore(sys.argv[1])
print("held")
sys.stdin.readline()
store.close()
"""


@pytest.mark.live
def test_a_row_is_found_moments_after_its_commit_and_sigterm_stops_everything(home: Home) -> None:
    with home.up() as up:
        assert up.said[0].startswith("embedded: database, store, broker, in ")
        assert "100,000 items" in up.said[1]
        for variable in ("TWINSPAN_DATABASE_URL", "TWINSPAN_QDRANT_URL", "TWINSPAN_BROKER_URL"):
            assert variable in up.said[1]
        url = postgres.find(home.postgres)
        assert url is not None
        with database.opened(url) as engine:
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
        with database.opened(url) as engine:
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
        with database.opened(url) as engine:
            catalog.attach(engine, spec.BUILTIN)
            films.insert(engine, films.rows())
            up.build(home)
        state = pgdata.running(home.postgres / "data")
        assert state is not None
        os.kill(state.pid, signal.SIGKILL)
        processes.until(lambda: postgres.find(home.postgres))
        with database.opened(url) as engine:  # the same address
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
        with database.opened(database_url) as engine:
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
