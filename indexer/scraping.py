"""What a scrape is answered with: what processes recorded, and what the ledger says at that moment.

A worker of one process answers from its own registry. In a worker that forks, every pool child
records into files of a common folder (prometheus_client's multi-process mode), which the parent
adds up. A child writes the files of its place in the pool, not of its process id: a replacement
goes on where its predecessor was killed, so no count is lost, and there are never more files than
places.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    make_wsgi_app,  # pyright: ignore[reportUnknownVariableType]
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from indexer import metrics, release, schema
from indexer.errors import DatabaseError, SettingsError
from indexer.metrics import LANES, LedgerGauge
from indexer.standing import Picture

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
CACHE_S = 2.0  # several scrapers cost the database one look
CACHE_SHARE = 10  # a look that takes long is kept ten times as long: at most a tenth of a backend

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # what prometheus_client calls it

Samples = list[tuple[Sequence[str], float]]


class LedgerCollector(Collector):
    """The gauges of `metrics.LEDGER`. Without a database they are absent, but for `database_up`."""

    def __init__(self, look: Callable[[], Picture]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._known: Picture | None = None
        self._known_until = 0.0  # time.monotonic()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        picture = self._picture()
        yield _family(metrics.INFO, [((release.version(), schema.HEAD), 1)])
        yield _family(metrics.DATABASE_UP, [((), float(picture is not None))])
        if picture is not None:
            for gauge, samples in _samples(picture).items():
                yield _family(gauge, samples)

    def _picture(self) -> Picture | None:
        with self._lock:
            started = time.monotonic()
            if started < self._known_until:
                return self._known
            try:
                self._known = self._look()
            except (DatabaseError, SettingsError):
                self._known = None
            ended = time.monotonic()
            self._known_until = ended + max(CACHE_S, CACHE_SHARE * (ended - started))
            return self._known


def registry(look: Callable[[], Picture], *, folder: Path | None = None) -> CollectorRegistry:
    """What this process recorded, or with `folder` what all that share it did, and the ledger."""
    made = CollectorRegistry()
    made.register(LedgerCollector(look))
    if folder is None:
        made.register(REGISTRY)
    else:
        MultiProcessCollector(made, path=str(folder))  # pyright: ignore[reportUnknownMemberType]
    return made


def page(of: CollectorRegistry) -> bytes:
    """In Prometheus's text format, whose type is CONTENT_TYPE."""
    return generate_latest(of)


def _family(gauge: LedgerGauge, samples: Samples) -> GaugeMetricFamily:
    family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _samples(picture: Picture) -> dict[LedgerGauge, Samples]:
    found: dict[LedgerGauge, Samples] = {
        metrics.LEADERS: [((), picture.leaders)],
        metrics.UNROUTED: [((), picture.unrouted)],
        metrics.UNROUTED_OLDEST: [((), picture.unrouted_oldest_s)],
    }
    for index in picture.indexes:
        labels = (index.alias, str(index.index_id), index.state)
        values_of = {
            metrics.FAILING: index.failing,
            metrics.QUARANTINED: index.quarantined,
            metrics.WRITTEN_AT: index.written_at and index.written_at.timestamp(),
            metrics.VERIFIED_AT: index.verified_at and index.verified_at.timestamp(),
        }
        for gauge, value in values_of.items():
            if value is not None:
                found.setdefault(gauge, []).append((labels, value))
        for number, lane in enumerate(LANES):
            waiting = index.lanes.get(number)
            of_lane = (*labels, lane)
            items, oldest_s = (waiting.items, waiting.oldest_s) if waiting else (0, 0.0)
            found.setdefault(metrics.BACKLOG, []).append((of_lane, items))
            found.setdefault(metrics.OLDEST, []).append((of_lane, oldest_s))
    return found


# -- several processes --------------------------------------------------------------------------

_place = "parent"


def _forked() -> None:
    """Until it has a place, a child that records does so under its own number."""
    global _place
    _place = f"process-{os.getpid()}"


@contextlib.contextmanager
def shared_folder() -> Generator[Path]:
    """What this process and those that it forks from now on record goes into the folder, which is
    gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="twinspan-metrics-"))
    before = os.environ.get(FOLDER), values.ValueClass
    os.environ[FOLDER] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: _place)  # pyright: ignore[reportUnknownMemberType]
    os.register_at_fork(after_in_child=_forked)
    try:
        yield folder
    finally:
        if before[0] is None:
            os.environ.pop(FOLDER, None)
        else:
            os.environ[FOLDER] = before[0]
        values.ValueClass = before[1]
        shutil.rmtree(folder, ignore_errors=True)


def take_place(number: int) -> None:
    """This child goes on with the files of that place in the pool; whoever had it has ended."""
    global _place
    _place = f"child-{number}"


# -- serving --------------------------------------------------------------------------------------


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a scrape every few seconds is no news."""


class _Threading(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _ThreadingV6(_Threading):
    address_family = socket.AF_INET6


class MetricsServer:
    """Answers scrapes from `start` until `stop`. The port is taken at once: raises SettingsError
    when it cannot be."""

    def __init__(self, of: CollectorRegistry, *, host: str, port: int) -> None:
        kind = _ThreadingV6 if ":" in host else _Threading
        try:
            self._server = make_server(
                host,
                port,
                cast("WSGIApplication", make_wsgi_app(of)),
                server_class=kind,
                handler_class=_Silent,
            )
        except OSError as cause:
            raise SettingsError(
                f"metrics cannot be served on {host} port {port}: {cause.strerror or cause}. "
                "Set TWINSPAN_METRICS_PORT to a free port for each worker of a machine, or to 0 "
                "for none."
            ) from cause
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="twinspan-metrics", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def forget(self) -> None:
        """In a forked child: the port belongs to the parent, and must not outlive it here."""
        self._server.socket.close()
