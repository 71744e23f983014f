"""What chaos breaks: brokers of our own, a store in a process of its own, workers that come back.

Everything is started by the main thread of the program and dies with it (on Linux, which all of
this needs: it reads /proc and signals through file descriptors of processes)."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import live
import redis
from kombu import Connection
from live import Worker

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # its wrapper in PATH wants its own user
START_S = 180.0  # on a busy machine a node of RabbitMQ takes a minute


class Broker(Protocol):
    """A broker that may be killed and emptied."""

    @property
    def url(self) -> str: ...

    def begin(self) -> None:
        """Started, not waited for."""
        ...

    def kill(self) -> None: ...

    def empty(self, queue: str) -> None:
        """All that waits in it is lost."""
        ...


@dataclass(kw_only=True)
class OwnRedis:
    folder: Path
    port: int = field(default_factory=live.free_port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def begin(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._process = spawn([*command, "--dir", str(self.folder)], self.folder / "redis.log")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def empty(self, queue: str) -> None:
        with contextlib.suppress(redis.RedisError), redis.Redis(port=self.port) as server:
            server.flushall()


@dataclass(kw_only=True)
class OwnRabbitMQ:
    """A node beside the machine's own, without plugins."""

    folder: Path
    port: int = field(default_factory=live.free_port)
    peer_port: int = field(default_factory=live.free_port)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def begin(self) -> None:
        (self.folder / "rabbitmq.conf").touch()
        (self.folder / "plugins").write_text("[].")
        environment = {
            "HOME": str(self.folder),  # of the Erlang cookie
            "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the server: one process to kill
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            "RABBITMQ_NODENAME": f"twinspan-chaos-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.peer_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
        }
        self._process = spawn([str(RABBITMQ)], self.folder / "rabbitmq.log", environment)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def empty(self, queue: str) -> None:
        patience = {"read_timeout": 2, "write_timeout": 2}
        with (
            contextlib.suppress(Exception),
            Connection(self.url, connect_timeout=1, transport_options=patience) as connection,
        ):
            connection.ensure_connection(max_retries=1)
            connection.channel().queue_purge(queue)


BROKERS: Mapping[str, type[OwnRedis] | type[OwnRabbitMQ]] = {
    "redis": OwnRedis,
    "rabbitmq": OwnRabbitMQ,
}


def missing(broker: str) -> str | None:
    """What is not installed that this broker needs, or None."""
    program = {"redis": shutil.which("redis-server"), "rabbitmq": RABBITMQ.exists()}[broker]
    return None if program else f"no {broker} server is installed on this machine"


def spawn(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A process that ends with this one, what it says in a file."""
    with log.open("ab") as said:
        return subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            preexec_fn=live.die_with_the_tests,  # noqa: PLW1509 - one system call, no lock
        )


@contextmanager
def broker(name: str, folder: Path) -> Generator[Broker]:
    """A broker of our own; started, so wait until it answers."""
    folder.mkdir()
    one = BROKERS[name](folder=folder)
    one.begin()
    try:
        yield one
    finally:
        one.kill()


@contextmanager
def store(folder: Path, script: str = "qdrant_rest.py", *arguments: str) -> Generator[int]:
    """The port of a vector store that is a process of its own: the stand-in for the server, or
    another script of the tests."""
    with (folder / "store.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(live.TESTS / script), *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{live.REPOSITORY}{os.pathsep}{live.TESTS}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            preexec_fn=live.die_with_the_tests,  # noqa: PLW1509 - one system call, no lock
        )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@dataclass(kw_only=True)
class Held:
    """A stopped process, held by a descriptor: its number cannot come to mean another one."""

    descriptors: list[int]

    @classmethod
    def stop(cls, pids: Sequence[int]) -> Held:
        """They are stopped; those that have gone are left out."""
        held = cls.of(pids)
        held._send(signal.SIGSTOP)
        return held

    @classmethod
    def of(cls, pids: Sequence[int]) -> Held:
        descriptors: list[int] = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                descriptors.append(os.pidfd_open(pid))
        return cls(descriptors=descriptors)

    def wake(self) -> None:
        self._send(signal.SIGCONT)
        for one in self.descriptors:
            os.close(one)
        self.descriptors.clear()

    def _send(self, number: signal.Signals) -> None:
        for one in self.descriptors:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(one, number)


@dataclass(kw_only=True)
class Crew:
    """Workers under a supervisor: one that ends is started again at the next look."""

    folder: Path
    environment: Mapping[str, str]
    queue: str
    pools: Sequence[tuple[str, ...]]
    workers: list[Worker] = field(default_factory=list[Worker])
    starts: int = 0

    def start(self) -> None:
        for options in self.pools:
            worker = Worker(
                folder=self.folder,
                environment=self.environment,
                queue=self.queue,
                options=options,
            )
            self.workers.append(worker)
            self._start(worker)

    def revive(self) -> None:
        for worker in self.workers:
            if not worker.running:
                self._start(worker)

    def _start(self, worker: Worker) -> None:
        worker.start()
        self.starts += 1

    def one(self, rng: random.Random) -> Worker:
        return rng.choice(self.workers)

    def child(self, rng: random.Random) -> int | None:
        """A child of a prefork pool, if there is one right now."""
        children = [pid for worker in self.workers for pid in worker.children()]
        return rng.choice(children) if children else None

    def kill(self) -> None:
        """All are gone with their children; orphans of those that died before end by themselves."""
        for worker in self.workers:
            worker.kill_group()

    def logs(self) -> str:
        return "\n".join(worker.log() for worker in self.workers)
