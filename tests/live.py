"""Real workers as real processes, and ways to wait for them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import redis
from kombu import Connection
from kombu.exceptions import OperationalError

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
READY_S = 60.0
POLL_S = 0.05


def wait_until(
    true: Callable[[], object], *, within_s: float, what: str, log: Callable[[], str] = str
) -> float:
    """Seconds until `true()` was so. Fails after `within_s`, with what the log says."""
    started = time.monotonic()
    while not true():
        if time.monotonic() - started > within_s:
            raise AssertionError(f"not within {within_s:.0f} s: {what}\n{log()[-4_000:]}")
        time.sleep(POLL_S)
    return time.monotonic() - started


def unique(prefix: str) -> str:
    """A name that no other test run uses."""
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


_LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def die_with_the_tests() -> None:
    """Between fork and exec: a killed test run leaves no worker behind (on Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(kw_only=True)
class Worker:
    """`celery -A workers.app worker`, in its own process group; its log in a file. Killed with
    everything that it started at the end of its `with` block."""

    folder: Path
    environment: Mapping[str, str]
    queue: str
    options: tuple[str, ...] = ("--pool=solo",)
    faults: bool = True  # load tests/faults.py, which also brings the encoder without torch
    name: str = field(default_factory=lambda: unique("worker"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_group()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def start(self) -> None:
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker"]
        command += ["--loglevel=INFO", f"--hostname={self.name}@live", f"--queues={self.queue}"]
        command += ["--include=faults"] if self.faults else []
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.options],
                env=self._full_environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_the_tests,  # noqa: PLW1509 - one system call, no lock
            )

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_ready(self) -> Self:
        self.wait_for("ready.", within_s=READY_S)
        return self

    def wait_for(self, words: str, *, within_s: float) -> float:
        """Until the log has these words, or the process has ended without them."""

        def said() -> bool:
            assert self.running or words in self.log(), f"it ended:\n{self.log()[-4_000:]}"
            return words in self.log()

        return wait_until(said, within_s=within_s, what=f"{words!r} in the log", log=self.log)

    def children(self) -> list[int]:
        """The pool's processes."""
        with contextlib.suppress(FileNotFoundError):
            listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            return [int(pid) for pid in listed.split()]
        return []

    def cpu_s(self) -> float:
        """Processor time that the main process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """kill -9 of the main process alone."""
        self.process.kill()
        self.process.wait()

    def terminate(self, *, within_s: float) -> float:
        """SIGTERM, as a supervisor sends it; seconds until it ended by itself."""
        self.process.terminate()
        return wait_until(
            lambda: not self.running, within_s=within_s, what="the worker's end", log=self.log
        )

    def kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def _full_environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TWINSPAN_", "CELERY"))}
        return {
            **clean,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(TESTS)]),
            "PYTHONUNBUFFERED": "1",
            "TWINSPAN_DATA_DIR": str(self.folder / "data"),
            **self.environment,
        }


def answers(url: str) -> bool:
    """Whether a broker is there."""
    patience = {"read_timeout": 5, "write_timeout": 5} if url.startswith("amqp") else {}
    with (
        contextlib.suppress(Exception),
        Connection(url, connect_timeout=2, transport_options=patience) as connection,
    ):
        connection.connect()
        return True
    return False


def purge(url: str, queue: str) -> int:
    """The queue is empty; how many messages were lost."""
    with Connection(url) as connection, connection.channel() as channel:
        return channel.queue_purge(queue) or 0


def forget_queue(url: str, queue: str) -> None:
    """The broker remembers nothing of a test's queue; no worker may be using it any more."""
    if url.startswith("redis:"):
        bindings = [f"_kombu.binding.{queue}", f"_kombu.binding_permanent.{queue}"]
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(url) as server:
            server.delete(queue, *bindings)
        return
    with contextlib.suppress(OperationalError), Connection(url) as connection:
        connection.ensure_connection(max_retries=1)
        channel = connection.channel()
        channel.queue_delete(queue)
        channel.exchange_delete(queue)


@contextlib.contextmanager
def redis_server(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis of our own, without a disk, to be stopped and emptied."""
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(
        [*command, "--dir", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        url = f"redis://127.0.0.1:{port}/0"
        wait_until(lambda: answers(url), within_s=10, what="a Redis of our own")
        yield process
    finally:
        process.kill()
        process.wait()
