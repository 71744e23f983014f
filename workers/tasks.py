"""The one task: drain an index for a moment.

It takes an index id and gives nothing back. Everything that can go wrong stays in the ledger and
in the log: an outage ends the task after a pause, and the watcher rings again.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import FrameType

from billiard.process import current_process  # pyright: ignore[reportMissingTypeStubs]

from indexer import indexes, logs, sync, tracing
from indexer.errors import TwinspanError
from indexer.fences import Fences
from indexer.settings import Settings
from indexer.sync import Report
from workers.services import Services

log = logging.getLogger(__name__)

DRAIN = "twinspan.drain"  # the task's name: part of the protocol between releases

# How long one message keeps a worker: low costs messages, high makes other indexes wait.
SLICE_S = 1.0

# How long a worker rests after an outage, doubled each time in a row.
PAUSE_S, PAUSE_MAX_S = 0.5, 5.0

FORGET_EVERY_S = 60.0  # how often encoders that no index names any more are let go
STOP_POLL_S = 0.02


class StopFlag(threading.Event):
    """An event that a signal handler may set: unlike its parent's, its methods take no lock that
    the interrupted code may be holding."""

    def __init__(self) -> None:
        super().__init__()
        self._raised = False

    def set(self) -> None:
        self._raised = True

    def clear(self) -> None:
        self._raised = False

    def is_set(self) -> bool:
        return self._raised

    def wait(self, timeout: float | None = None) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        while not self._raised and (until is None or time.monotonic() < until):
            time.sleep(STOP_POLL_S)
        return self._raised


class Drainer:
    """The work of one worker process. `stop` ends it: the batch in hand is given back."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self.stop = StopFlag()
        self._settings = settings
        self._services = services
        self._busy: set[int] = set()
        self._lock = threading.Lock()
        self._fences = Fences()
        self._pause_s = PAUSE_S
        self._forgot_at = time.monotonic()

    def drain(self, index_id: int, *, headers: Mapping[str, str] | None = None) -> None:
        """Nothing of the index is due any more, or its slice of time is over, or it is left alone
        for now and the log says why. At once when another thread of this process is at it."""
        with self._only_one(index_id) as alone:
            if not alone or self.stop.is_set():
                return
            with _sigterm_stops(self.stop), tracing.span("drain", headers, index=index_id):
                self._drain(index_id)

    def _drain(self, index_id: int) -> None:
        try:
            services = self._services
            report = sync.drain(
                services.engine,
                services.store,
                services.towers,
                self._settings,
                index_id=index_id,
                slice_s=SLICE_S,
                stop=self.stop,
                fences=self._fences,
            )
            self._tell(index_id, report)
            self._forget_encoders()
        except TwinspanError as cause:  # database or store: the ledger keeps the work
            log.warning("index %d waits: %s", index_id, cause)
            self._rest()
            return
        except Exception:  # a bug, which Celery logs: it must not turn into a storm
            self._rest()
            raise
        if report.outages and report.released:
            self._rest()
        elif report.batches:
            self._pause_s = PAUSE_S

    def _rest(self) -> None:
        self.stop.wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)

    def _tell(self, index_id: int, report: Report) -> None:
        if report.batches:
            counts = {name: n for name, n in report.counts().items() if n}
            stages = {name: round(s, 3) for name, s in report.seconds.items()}
            said = logs.facts(
                index=index_id,
                alias=report.aliases.get(index_id),
                indexes={str(id_): alias for id_, alias in report.aliases.items()},
                fences=[report.fences[0], report.fences[-1]],
                items=counts,
                seconds=stages,
            )
            log.info("index %d: %s, seconds %s", index_id, counts, stages, extra=said)

    def _forget_encoders(self) -> None:
        if time.monotonic() - self._forgot_at > FORGET_EVERY_S:
            self._forgot_at = time.monotonic()
            active = indexes.active(self._services.engine)
            self._services.towers.keep_only([index.encoder_id for index in active])

    @contextmanager
    def _only_one(self, index_id: int) -> Generator[bool]:
        with self._lock:
            alone = index_id not in self._busy
            self._busy.add(index_id)
        try:
            yield alone
        finally:
            if alone:
                with self._lock:
                    self._busy.discard(index_id)


@contextmanager
def _sigterm_stops(stop: StopFlag) -> Generator[None]:
    """In a prefork child, SIGTERM (sent to the whole group by some supervisors) gives the batch
    back before it ends the process."""
    if not _is_pool_child():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def handler(_signum: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if stop.is_set():
            os.kill(os.getpid(), signal.SIGTERM)


def _is_pool_child() -> bool:
    name = str(current_process().name)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return name != "MainProcess" and threading.current_thread() is threading.main_thread()
