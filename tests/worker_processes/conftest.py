"""Real worker processes over real brokers.

The vector store that they share is the server's stand-in `qdrant_rest`; what belongs to one process
runs on Edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from live import Worker, forget_queue, unique
from live_world import World, make
from qdrant_rest import QdrantRest

from indexer.stores.qdrant import QdrantStore
from worker_processes.backlog import FAST, Service, Start


@pytest.fixture
def queue() -> str:
    return unique("live")


@pytest.fixture
def broker(service: Service, queue: str) -> Iterator[str]:
    yield (url := service("redis"))
    forget_queue(url, queue)


@pytest.fixture
def server() -> Iterator[QdrantRest]:
    with QdrantRest() as one:
        yield one


@pytest.fixture
def world(engine: sa.Engine, server: QdrantRest, queue: str) -> Iterator[World]:
    store = QdrantStore(url=server.url)
    yield make(engine, store, queue=queue)
    store.close()


@pytest.fixture
def start(tmp_path: Path, database_url: str, server: QdrantRest, queue: str) -> Iterator[Start]:
    """`start(broker, pool options..., environment)` is a ready worker. After the test all are
    killed, and their queues forgotten."""
    with ExitStack() as stack:

        def begin(
            broker: str,
            *options: str,
            environment: Mapping[str, str] | None = None,
            queues: str = queue,
        ) -> Worker:
            settings = {
                "TWINSPAN_DATABASE_URL": database_url,
                "TWINSPAN_QDRANT_URL": server.url,
                "TWINSPAN_BROKER_URL": broker,
                **FAST,
                **(environment or {}),
            }
            pool = options or ("--pool=solo",)
            stack.callback(forget_queue, broker, queues)
            worker = Worker(folder=tmp_path, environment=settings, queue=queues, options=pool)
            return stack.enter_context(worker).wait_ready()

        yield begin
