"""A worker's metrics, served by its main process for all of its pool."""

# Celery comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from contextlib import ExitStack

from billiard.process import current_process
from celery import signals

from indexer import database, scraping, standing
from indexer.scraping import MetricsServer
from indexer.settings import Settings
from workers.services import database_url


class Scrapes:
    """Serves from `start` until `stop`. Made before the pool forks; the port is taken at once:
    raises SettingsError when it cannot be."""

    def __init__(self, settings: Settings, *, forks: bool) -> None:
        self._closing = ExitStack()
        engine = database.engine(database_url(settings), pool_size=1)
        self._closing.callback(engine.dispose)
        folder = self._closing.enter_context(scraping.shared_folder()) if forks else None
        registry = scraping.registry(lambda: standing.look(engine), folder=folder)
        try:
            self._server = MetricsServer(
                registry, host=settings.metrics_host, port=settings.metrics_port
            )
        except BaseException:
            self._closing.close()
            raise
        if forks:
            signals.worker_process_init.connect(self._child_starts)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        signals.worker_process_init.disconnect(self._child_starts)
        self._server.stop()
        self._closing.close()

    def _child_starts(self, **_: object) -> None:
        """In the child: its place in the pool is taken over, the port left to the parent."""
        scraping.take_place(getattr(current_process(), "index", 0))
        self._server.forget()
