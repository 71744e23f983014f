"""A Celery worker in a thread of a process that has everything else too: the embedded mode."""

# Celery comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import logging
import threading
from typing import Any

from celery.worker import state

from indexer.errors import EmbeddedError
from indexer.settings import Settings
from workers.app import QUEUE, App, make_app
from workers.services import Services
from workers.tasks import DRAIN

log = logging.getLogger(__name__)

START_S = 30.0
STOP_S = 60.0  # a batch under way is finished, or given back
NO_INDEX = 0  # a wake-up that means nothing: it ends the consumer's wait for messages


class Handle:
    """A running worker."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._ready = threading.Event()
        self._worker: Any = None
        self._thread = threading.Thread(target=self._run, name="twinspan-worker", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Wake-ups are taken from now on. Raises EmbeddedError when the worker does not come up."""
        self._thread.start()
        if not self._ready.wait(START_S) or not self.alive:
            raise EmbeddedError("the worker did not start; the log says why.")

    def stop(self) -> None:
        """The worker and its watcher have ended; a batch under way was given back. Once is enough,
        twice does no harm."""
        self._app.drainer.stop.set()
        if self.alive:
            state.should_stop = 0  # an exit status; Celery keeps it per process
            self._app.send_task(DRAIN, args=(NO_INDEX,), queue=QUEUE, ignore_result=True)
            self._thread.join(STOP_S)
        if self.alive:
            raise EmbeddedError(f"the worker did not stop within {STOP_S:.0f} s.")
        state.should_stop = None

    def _run(self) -> None:
        self._app.set_current()  # of this thread alone; Celery's solo pool asks for it
        try:
            self._worker = self._app.WorkController(
                pool="solo",
                concurrency=1,
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
                ready_callback=self._on_ready,
            )
            self._worker.start()
        except Exception:
            log.exception("the worker ended")
        finally:
            self._ready.set()

    def _on_ready(self, _consumer: object) -> None:
        self._ready.set()


def start(settings: Settings, services: Services) -> Handle:
    """A worker in a thread, draining with this process's services. One at a time per process."""
    handle = Handle(make_app(settings, services))
    handle.start()
    return handle
