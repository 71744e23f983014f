"""The embedded PostgreSQL never outlives its owner, and comes back after deaths of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import processes
import psycopg
import pytest

from embedded.cluster import OWNER, query
from indexer.embedded import pgdata, postgres

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

FORKING_OWNER = """
import os, sys, time
from pathlib import Path
from indexer.embedded import postgres
server = postgres.start(Path(sys.argv[1]), fsync=False)
child = os.fork()
if child == 0:
    server.stop()  # is the parent's: nothing happens
    time.sleep(60)
print(child)
print(server.url)
sys.stdin.readline()
"""


def test_kill_9_of_the_owner_leaves_no_postgres_and_its_data(folder: Path) -> None:
    with processes.python(OWNER, str(folder)) as owner:
        url = processes.line(owner)
        query(url, "CREATE TABLE kept AS SELECT 42 AS x")
        processes.kill(owner)
    with postgres.start(folder, fsync=False) as server:  # waits for the former server to stop
        assert query(server.url, "SELECT x FROM kept") == [(42,)]
    processes.until(lambda: not processes.below(folder))


def test_kill_9_of_the_owner_ends_sessions_that_are_busy(folder: Path) -> None:
    with processes.python(OWNER, str(folder)) as owner:
        url = processes.line(owner)
        with psycopg.connect(url) as session:
            session.execute("CREATE TABLE unfinished (x int)")
            processes.kill(owner)
            processes.until(lambda: not processes.below(folder))
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_neither_stops_the_server_nor_keeps_it_up(folder: Path) -> None:
    with processes.python(FORKING_OWNER, str(folder)) as owner:
        child, url = int(processes.line(owner)), processes.line(owner)
        try:
            assert query(url, "SELECT 1") == [(1,)]
            processes.kill(owner)
            processes.until(lambda: not processes.postgres_below(folder))
            postgres.start(folder, fsync=False).stop()
        finally:
            os.kill(child, signal.SIGKILL)


@needs_linux
def test_kill_9_of_the_watchdog_leaves_no_postgres_either(folder: Path) -> None:
    with postgres.start(folder, fsync=False) as server:
        watchdog = int((folder / "server.lock").read_text().removeprefix("process "))
        os.kill(watchdog, signal.SIGKILL)
        processes.until(lambda: not processes.postgres_below(folder))
        assert not server.alive


def test_a_postgres_that_is_killed_comes_back_by_itself_on_the_same_port(folder: Path) -> None:
    with postgres.start(folder, fsync=False) as server:
        query(server.url, "CREATE TABLE kept AS SELECT 42 AS x")
        state = pgdata.running(folder / "data")
        assert state is not None
        os.kill(state.pid, signal.SIGKILL)

        def is_back() -> bool:
            now = pgdata.running(folder / "data")
            return now is not None and now.pid != state.pid and now.ready

        processes.until(is_back)
        assert query(server.url, "SELECT x FROM kept") == [(42,)]


@needs_linux
def test_everything_killed_at_once_is_recovered_by_the_next_start(folder: Path) -> None:
    with processes.python(OWNER, str(folder)) as owner:
        query(processes.line(owner), "CREATE TABLE kept AS SELECT 42 AS x")
        for pid in (owner.pid, *processes.below(folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        owner.wait(timeout=60)
    assert (folder / "data" / "postmaster.pid").exists()
    with postgres.start(folder, fsync=False) as server:
        assert query(server.url, "SELECT x FROM kept") == [(42,)]


@needs_linux
def test_a_stale_pid_that_belongs_to_somebody_else_now_does_not_stop_the_start(
    folder: Path,
) -> None:
    lines = [str(os.getpid()), str(folder / "data"), "1", "5432", "", "127.0.0.1", "", "ready   "]
    (folder / "data" / "postmaster.pid").write_text("\n".join(lines) + "\n")
    assert postgres.find(folder) is None
    postgres.start(folder, fsync=False).stop()


def test_an_interrupted_first_start_is_begun_again(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    (folder / "data.new" / "base").mkdir(parents=True)
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    with postgres.start(folder, fsync=False) as server:
        assert query(server.url, "SELECT 1") == [(1,)]
    assert not (folder / "data.new").exists()


def test_sigterm_to_a_program_that_forgets_to_stop_leaves_no_postgres(folder: Path) -> None:
    with processes.python(OWNER, str(folder)) as owner:
        processes.line(owner)
        processes.kill(owner, signal.SIGTERM)
    processes.until(lambda: not processes.below(folder))
