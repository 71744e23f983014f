"""Runs one program for as long as its owner lives. Started as a script of its own by `postgres.py`.

The owner holds the other end of stdin: at its end of file, however the owner came to die (kill -9
included), the program is stopped; an `r` on it says that the program has become ready, and from
then on it is started again when it dies by itself. Standard library only, and single-threaded where
there is fork, so that the child may be prepared between fork and exec.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.1
STOP_S = 30.0  # until a stop that ends sessions in order becomes one that abandons them
ABANDON_S = 5.0  # until that becomes SIGKILL
RESTART_PAUSE_S = 0.25
RESTARTS = 60  # in a row, each ended within a second

LINUX = sys.platform == "linux"
WINDOWS = sys.platform == "win32"
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run and as whom, and which file to hold locked meanwhile. `capability` is one Linux
    capability that the unprivileged user keeps, so that it can pass through directories it may not
    enter; None where it needs none. `stop` is a command that stops the program, for Windows, which
    has no signals."""

    command: Sequence[str]
    lock: str
    stop: Sequence[str] = ()
    uid: int | None = None
    gid: int | None = None
    capability: int | None = None


class Lock:
    """A file that one process at a time can hold; the system frees it when that process dies.
    What it says about its holder is for messages only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def take(self, patience_s: float = 0.0) -> bool:
        """Whether it is ours now. Tries for `patience_s` seconds."""
        deadline = time.monotonic() + patience_s
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        while not _lock(file):
            if time.monotonic() >= deadline:
                os.close(file)
                return False
            time.sleep(0.02)
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()}".encode())
        self._file = file
        return True

    def share(self, patience_s: float = 0.0) -> bool:
        """Whether we are now among those who share it: nobody can `take` it until all have left.
        Windows has no such locks: there this holds nothing, and nobody waits for us."""
        deadline = time.monotonic() + patience_s
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        while not _lock_shared(file):
            if time.monotonic() >= deadline:
                os.close(file)
                return False
            time.sleep(0.02)
        self._file = file
        return True

    def release(self) -> None:
        """Free, for this process and for the forked child that calls it on its inherited copy."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def held_by(self) -> str | None:
        """Who holds it ("process 123"), or None when it is free."""
        try:
            file = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            free = _lock(file)
            return None if free else os.read(file, 100).decode() or "another process"
        finally:
            os.close(file)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> bool:
        os.lseek(file, 1 << 30, os.SEEK_SET)  # far from the text, which others read
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return True

    def _lock_shared(file: int) -> bool:
        return file >= 0
else:
    import fcntl

    def _lock(file: int) -> bool:
        return _flock(file, fcntl.LOCK_EX)

    def _lock_shared(file: int) -> bool:
        return _flock(file, fcntl.LOCK_SH)

    def _flock(file: int, operation: int) -> bool:
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class Lifeline:
    """Stdin: whether the owner lives, and whether it has called the program ready."""

    def __init__(self) -> None:
        self.alive = True
        self.ready = False
        self._owner = os.getppid()
        if WINDOWS:
            threading.Thread(target=self._read_to_the_end, daemon=True).start()

    def cut(self, *_: object) -> None:
        self.alive = False

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or earlier when stdin has news."""
        if WINDOWS or not self.alive:
            time.sleep(seconds)
        elif select.select([0], [], [], seconds)[0]:
            self._take(os.read(0, 64))
        elif os.getppid() != self._owner:  # a forked child of a dead owner may hold stdin open
            self.alive = False

    def _take(self, data: bytes) -> None:
        self.alive = self.alive and bool(data)
        self.ready = self.ready or b"r" in data

    def _read_to_the_end(self) -> None:
        while self.alive:
            self._take(os.read(0, 64))


def main(arguments: Sequence[str]) -> int:
    """Run the job to its end or its owner's. Returns the program's exit status."""
    job = Job(**json.loads(arguments[0]))
    lifeline = Lifeline()
    lock = Lock(Path(job.lock))
    if not lock.take(patience_s=5):
        print(f"watchdog: {lock.path} is held by {lock.held_by()}", flush=True)
        return 1
    signal.signal(signal.SIGTERM, lifeline.cut)
    signal.signal(signal.SIGINT, lifeline.cut)
    failures = 0
    while True:
        started = time.monotonic()
        child = _start(job)
        while child.poll() is None and lifeline.alive:
            lifeline.wait(POLL_S)
        if not lifeline.alive:
            return _stop(job, child)
        failures = failures + 1 if time.monotonic() - started < 1 else 1
        if not lifeline.ready or failures > RESTARTS:
            return child.wait()
        print(f"watchdog: ended with status {child.returncode}, starting it again", flush=True)
        lifeline.wait(RESTART_PAUSE_S)


def _start(job: Job) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        job.command,
        stdin=subprocess.DEVNULL,
        preexec_fn=None if WINDOWS else lambda: _become(job),  # noqa: PLW1509 - no threads here
    )


def _stop(job: Job, child: subprocess.Popen[bytes]) -> int:
    """SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one: neither loses a commit."""
    if WINDOWS:
        subprocess.run(job.stop, check=False, stdin=subprocess.DEVNULL)
        return child.wait()
    for number, patience_s in ((signal.SIGINT, STOP_S), (signal.SIGQUIT, ABANDON_S)):
        if child.poll() is None:
            child.send_signal(number)
        try:
            return child.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    child.kill()
    return child.wait()


def _become(job: Job) -> None:
    """In the forked child: the job's user with the job's capability and nothing else, in a process
    that is told to stop when the watchdog is killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if job.uid is not None and job.gid is not None:
        if job.capability is not None:
            _check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
        os.setgroups([])
        os.setgid(job.gid)
        os.setuid(job.uid)
        if job.capability is not None:
            _keep_only(libc, job.capability)
    if LINUX:
        _check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0))


def _keep_only(libc: ctypes.CDLL, capability: int) -> None:
    bit, nothing = 1 << capability, 0
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, nothing, nothing, nothing)
    _check(libc.capset(header, sets))
    _check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
