"""Short leases for the workers, a backlog of items, and waiting until it is done."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from live import Worker, wait_until
from live_world import World

from indexer import database

LEASE_S, STORE_S = 2.0, 1.0  # short, so that what a dead worker held is soon free
FAST = {
    "TWINSPAN_LEASE_S": str(LEASE_S),
    "TWINSPAN_STORE_TIMEOUT_S": str(STORE_S),
    "TWINSPAN_BATCH_ITEMS": "128",
    "TWINSPAN_BACKOFF_S": "0.1",
}

Service = Callable[[str], str]
Start = Callable[..., Worker]


def keys(n: int, *, first: int = 0) -> list[str]:
    return [f"k{i:06}" for i in range(first, first + n)]


def wait_clean(world: World, worker: Worker, *, within_s: float = 60.0) -> None:
    wait_until(world.is_clean, within_s=within_s, what="nothing is dirty", log=worker.log)


def leased(engine: sa.Engine) -> int:
    with database.begin(engine) as connection:
        held = "SELECT count(*) FROM indexer.entries WHERE lease_until > now()"
        return connection.scalar(sa.text(held)) or 0
