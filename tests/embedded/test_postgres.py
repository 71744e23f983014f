"""The embedded PostgreSQL keeps its data and serves it to us only, whoever runs it."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import threading
from pathlib import Path

import processes
import psycopg
import pytest

from embedded.cluster import AS_ROOT, OWNER, query
from indexer.embedded import pgdata, postgres
from indexer.errors import EmbeddedError

needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root can become somebody else")

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
