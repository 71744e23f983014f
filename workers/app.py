"""The Celery application: `celery -A workers.app worker`.

Any number of workers, each with any pool; `-Q` chooses the queues, for instance to give indexes
with `queue = "gpu"` to machines that have one. A plain worker is all that is needed: the watcher
that rings for changes is one of its boot steps.
"""

# Celery comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

import logging
import sys
from functools import cached_property
from typing import Any

from celery import Celery, bootsteps, signals
from celery.apps import worker as program
from kombu.transport import TRANSPORT_ALIASES

from indexer import logs
from indexer import settings as settings_module
from indexer.errors import SettingsError
from indexer.settings import Settings
from workers import watch
from workers.bell import Bell
from workers.scrapes import Scrapes
from workers.services import LazyServices, Services, database_url
from workers.tasks import DRAIN, Drainer
from workers.upkeep import Upkeep
from workers.watch import Watcher

log = logging.getLogger(__name__)

QUEUE = "twinspan"  # of indexes that name no other
MEMORY = "memory://"  # the broker of a worker that shares its process with everything else

MEMORY_POLL_S = 0.01  # low: idle load; high: staleness
SOCKET_TIMEOUT_S = 10  # Redis: until a silent broker is given up
REDELIVERY_S = 600  # Redis: until a wake-up whose worker has vanished goes to another
CHILD_START_S = 60.0  # until a pool child that does not report is started again
LOOK_UP_S = 1.0  # until an idle worker notices that it is to stop
SOFT_SHUTDOWN_S = 10.0  # on the second Ctrl-C: until running tasks are cancelled

CHATTY = ("celery.worker.strategy", "celery.app.trace", "httpx")  # lines for every wake-up or write


class App(Celery):
    """A Celery application that knows its settings and what its tasks work with."""

    def __init__(self, settings: Settings, services: Services | None) -> None:
        super().__init__("twinspan", set_as_current=False, strict_typing=False)
        self.settings = settings
        self.shared = services is not None
        self.services: Services = services or LazyServices(settings)
        self.drainer = Drainer(settings, self.services)

    @cached_property
    def Worker(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.subclass_with_self(Program)

    def watcher(self) -> Watcher:
        """A new watcher; in a process that forks, its connections are its own. A worker that shares
        its process's services is the only one that can work, so it takes every index's wake-ups."""
        if self.shared:
            return Watcher(self.settings, self.services.engine, Bell(self, queue=QUEUE))
        return Watcher(self.settings, watch.engine(database_url(self.settings)), Bell(self))


class Program(program.Worker):
    """The worker program. Workers have nothing to tell each other: PostgreSQL knows it all."""

    def __init__(self, app: Any = None, **options: Any) -> None:
        quiet = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        try:
            super().__init__(app, **{**options, **quiet})
        except SettingsError as cause:
            print(f"twinspan: {cause}", file=sys.stderr)
            raise SystemExit(2) from None


class Watch(bootsteps.StartStopStep):
    """The boot step that runs a watcher, after the pool has forked its first children."""

    requires = ("celery.worker.components:Pool",)

    def create(self, parent: Any) -> Watcher:  # pyright: ignore[reportIncompatibleMethodOverride]
        check_pool(parent)
        return parent.app.watcher()

    def register_with_event_loop(self, _worker: Any, hub: Any) -> None:
        """The loop looks up once a second: over AMQP it would sleep through a SIGTERM for a minute,
        as a signal alone does not end its wait for messages."""
        hub.call_repeatedly(LOOK_UP_S, lambda: None)


class KeepUp(bootsteps.StartStopStep):
    """The boot step that runs upkeep: in the parent of a pool that forks, with connections of its
    own; over Qdrant Edge only where the worker's own process holds the folder."""

    requires = ("celery.worker.components:Pool",)

    def include_if(self, parent: Any) -> bool:
        return parent.app.settings.qdrant_url is not None or not _forks(parent)

    def create(self, parent: Any) -> Upkeep:  # pyright: ignore[reportIncompatibleMethodOverride]
        app = parent.app
        if _forks(parent):
            return Upkeep(app.settings, LazyServices(app.settings), own=True)
        return Upkeep(app.settings, app.services)


class ServeMetrics(bootsteps.StartStopStep):
    """The boot step that answers scrapes, where a port is set and the worker is a process of its
    own: `twinspan up` has them on its HTTP API."""

    requires = ("celery.worker.components:Pool",)  # its port is not for children to inherit

    def include_if(self, parent: Any) -> bool:
        return bool(parent.app.settings.metrics_port) and not parent.app.shared

    def create(self, parent: Any) -> Scrapes:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Scrapes(parent.app.settings, forks=_forks(parent))


def make_app(settings: Settings, services: Services | None = None) -> App:
    """An application for these settings. With `services`, tasks use those, in this process;
    without, each worker process opens its own when first needed. Raises SettingsError."""
    app = App(settings, services)
    app.conf.update(_configuration(settings))
    app.task(name=DRAIN, shared=False, ignore_result=True, bind=True)(_task(app.drainer))
    app.steps["worker"].update((Watch, KeepUp, ServeMetrics))  # pyright: ignore[reportOptionalSubscript]
    return app


def check_pool(worker: Any) -> None:
    """Raises SettingsError for a pool of several processes over Qdrant Edge."""
    processes = max(worker.concurrency, *(worker.autoscale or (0, 0)))
    if worker.app.settings.qdrant_url is None and _forks(worker) and processes > 1:
        raise SettingsError(
            f"qdrant_url is empty, which means Qdrant Edge, and its folder belongs to one process, "
            f"but this pool has {processes}. Set TWINSPAN_QDRANT_URL=http://host:6333, "
            "or start one worker with --pool=solo."
        )


def _forks(worker: Any) -> bool:
    return worker.pool_cls.__module__.endswith(".prefork")


def _task(drainer: Drainer) -> Any:
    def drain(task: Any, index_id: object) -> None:
        if isinstance(index_id, int):
            drainer.drain(index_id, headers=task.request.headers)
        else:
            log.warning("a wake-up that names no index is ignored")

    return drain


def _configuration(settings: Settings) -> dict[str, object]:
    url = _broker_url(settings)
    return {
        "broker_url": url,
        "broker_transport_options": _transport_options(url),
        "broker_use_ssl": settings.broker_tls,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # for ever
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_default_queue": QUEUE,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": SOFT_SHUTDOWN_S,
        "worker_proc_alive_timeout": CHILD_START_S,
        "worker_enable_remote_control": url != MEMORY,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "enable_utc": True,
    }


def _broker_url(settings: Settings) -> str:
    if settings.broker_url is None:
        return MEMORY
    url = settings.broker_url.get_secret_value()
    scheme, found, _ = url.partition("://")
    if not found or scheme.partition("+")[0] not in TRANSPORT_ALIASES:
        raise SettingsError(
            "broker_url is not a broker's address. Write redis://:password@host:6379/0 "
            "or amqp://user:password@host:5672//."
        )
    return url


def _transport_options(url: str) -> dict[str, object]:
    if url.startswith(("redis:", "rediss:", "sentinel:")):
        return {
            "visibility_timeout": REDELIVERY_S,
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": SOCKET_TIMEOUT_S,
            "socket_keepalive": True,
        }
    return {"polling_interval": MEMORY_POLL_S} if url.startswith("memory:") else {}


def _command_line_app() -> App:
    """The application of a worker that is a process of its own, with its signals connected."""
    settings = settings_module.load()
    if settings.broker_url is None:
        raise SettingsError(
            "broker_url is empty, which means the broker inside `twinspan up`. A worker of its own "
            "needs TWINSPAN_BROKER_URL=redis://host:6379/0 or amqp://user:password@host:5672//."
        )
    app = make_app(settings)

    def stop(**_: object) -> None:
        app.drainer.stop.set()

    def close(**_: object) -> None:
        if isinstance(app.services, LazyServices):
            app.services.close()

    def set_up_logging(
        loglevel: int = logging.WARNING, logfile: str | None = None, **_: Any
    ) -> None:
        _set_up_logging(settings, loglevel, logfile)

    signals.setup_logging.connect(set_up_logging, weak=False)
    signals.worker_shutting_down.connect(stop, weak=False)
    signals.worker_shutdown.connect(close, weak=False)
    signals.worker_process_shutdown.connect(close, weak=False)
    return app


def _set_up_logging(settings: Settings, loglevel: int, logfile: str | None) -> None:
    """Log lines go where `--loglevel` and `--logfile` say, unless the process has handlers."""
    handler = logging.FileHandler(logfile) if logfile else logging.StreamHandler()
    handler.setFormatter(logs.formatter(settings))
    logging.basicConfig(level=loglevel, handlers=[handler])
    if loglevel > logging.DEBUG:
        for name in CHATTY:
            logging.getLogger(name).setLevel(max(loglevel, logging.WARNING))


def __getattr__(name: str) -> App:
    """`app`, which `celery -A workers.app` asks for, is made on demand: importing this module
    reads no settings."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = globals()["app"] = _command_line_app()
    return app
