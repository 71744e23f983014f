"""The demo's own world: a fresh folder with PostgreSQL, a vector store and a worker in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from indexer import embedded
from indexer import settings as settings_module
from indexer.embedded import Services, postgres
from indexer.errors import EmbeddedError
from indexer.settings import Settings

FOLDER = "demo"  # within data_dir
MARK = ".made-by-twinspan-demo"
K_MAX = 10_000  # so that a rank over the whole of a small catalog can be asked for
EMBEDDED: dict[str, object] = {
    "database_url": None,
    "qdrant_url": None,
    "qdrant_api_key": None,
    "broker_url": None,
    "encoders_uri": None,
}


class Worker(Protocol):
    def stop(self) -> None: ...


StartWorker = Callable[[Settings, Services], Worker]


@contextmanager
def opened(base: Settings) -> Generator[Services]:
    """A migrated, empty database and an empty vector store, in a folder of their own below
    `data_dir`; closed at the end of the block, the folder kept for a look around. Whatever servers
    the settings name are left alone."""
    folder = base.data_dir / FOLDER
    _make_fresh(folder)
    own = base.model_dump() | EMBEDDED | {"data_dir": folder, "k_max": K_MAX}
    with embedded.opened(settings_module.load(**own)) as services:
        yield services


@contextmanager
def working(services: Services, start_worker: StartWorker) -> Generator[None]:
    """A real Celery worker runs during the block."""
    worker = start_worker(services.settings, services)
    try:
        yield
    finally:
        worker.stop()


def _make_fresh(folder: Path) -> None:
    """The folder is there and empty. Raises EmbeddedError rather than take away what the demo did
    not make, or what is in use."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise EmbeddedError(
                f"{folder} is not the demo's. Move it away, or set TWINSPAN_DATA_DIR."
            )
        if postgres.holder(folder / embedded.POSTGRES_FOLDER) is not None:
            raise EmbeddedError(f"another process uses {folder}: a demo that is still running?")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
