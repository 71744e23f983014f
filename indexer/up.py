"""`twinspan up`: everything in one process, until it is told to stop.

The worker comes from the package `workers`, which builds on this one: it is looked up by name when
it is needed, so that imports still go one way.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from indexer import embedded
from indexer.embedded import Services, UpServer
from indexer.embedded.tending import Tender
from indexer.embedded.watchdog import Lock
from indexer.errors import EmbeddedError
from indexer.http import Api, make_app
from indexer.http.guard import is_loopback
from indexer.http.server import HttpServer
from indexer.settings import Settings

WORKER = "workers.thread:start"  # (settings, services) -> Worker
LOOK_S = 0.5  # between two looks at whether all parts are alive
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Worker(Protocol):
    @property
    def alive(self) -> bool: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Running:
    """Everything that is up."""

    services: Services
    server: UpServer
    _worker: Worker | None
    _http: HttpServer

    def check(self) -> None:
        """Raises EmbeddedError when a part has ended that should not have."""
        if self._worker is not None and not self._worker.alive:
            raise EmbeddedError("the worker ended by itself; the log says why. Start again.")
        if not self._http.alive:
            raise EmbeddedError("the HTTP server ended by itself; the log says why. Start again.")


def up(settings: Settings, *, say: Callable[[str], None]) -> None:
    """Run until a signal to stop; returns when every part has stopped in order. Call it in the main
    thread. Raises EmbeddedError when the directory is in use, or a part cannot start or ends."""
    stop = threading.Event()
    with _signals_set(stop), started(settings) as running:
        for line in embedded.said_at_start(settings):
            say(line)
        if not is_loopback(settings.http_host):
            say(f"warning: everybody who reaches {settings.http_host} may query; there is no login")
        say(f"serving on {running.server.base_url} (OpenAPI: /openapi.json); Ctrl-C stops it")
        while not stop.wait(LOOK_S):
            running.check()
        say("stopping")


@contextmanager
def started(settings: Settings) -> Generator[Running]:
    """All parts run inside the block: database, store, worker, HTTP; stopped in reverse order."""
    data_dir = settings.data_dir.absolute()
    with ExitStack() as closing:
        closing.enter_context(_only_one(data_dir))
        services = closing.enter_context(embedded.opened(settings))
        worker = _start_worker(settings, services)
        if worker is not None:
            closing.callback(worker.stop)
        if settings.qdrant_url is None:
            tender = Tender(services.engine, services.store)
            closing.callback(tender.stop)
            tender.start()
        api = Api(services, worker_alive=lambda: worker is None or worker.alive)
        closing.callback(api.close)
        api.start()
        http = HttpServer(make_app(api), host=settings.http_host, port=settings.http_port)
        closing.callback(http.stop)
        server = UpServer(
            host=_reachable(http.host),
            port=http.port,
            pid=os.getpid(),
            token=api.token,
            instance=api.instance,
        )
        embedded.announce(data_dir, server)
        closing.callback(embedded.withdraw, data_dir)
        yield Running(services=services, server=server, _worker=worker, _http=http)


def _start_worker(settings: Settings, services: Services) -> Worker | None:
    """A worker in this process, unless workers elsewhere can do the work: with Qdrant Edge or the
    broker inside this process, they cannot."""
    if settings.broker_url is not None and settings.qdrant_url is not None:
        return None
    start: Callable[[Settings, Services], Worker] = pkgutil.resolve_name(WORKER)
    return start(settings, services)


@contextmanager
def _only_one(data_dir: Path) -> Generator[None]:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = Lock(data_dir / embedded.UP_LOCK)
        taken = lock.take(patience_s=0.2)
    except OSError as cause:
        raise EmbeddedError(
            f"{data_dir} cannot be used: {cause}. Set TWINSPAN_DATA_DIR to a folder of ours."
        ) from cause
    if not taken:
        there = embedded.find_server(data_dir)
        where = f" and answers at {there.base_url}" if there else ""
        raise EmbeddedError(
            f"`twinspan up` already runs on {data_dir}: it is {lock.held_by()}{where}. "
            "Use that one, stop it, or set another TWINSPAN_DATA_DIR."
        )
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _signals_set(stop: threading.Event) -> Generator[None]:
    """Signals to stop set the event; the second of a kind acts as it did before."""
    before: dict[int, object] = {}

    def handler(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])  # type: ignore[arg-type]

    for name in STOP_SIGNALS:
        number = getattr(signal, name, None)
        if number is not None:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)  # type: ignore[arg-type]


def _reachable(host: str) -> str:
    """An address that reaches a server bound to `host` from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
