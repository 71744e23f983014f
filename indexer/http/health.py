"""Whether a process does its work: not that it runs, but that changes arrive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from indexer import changes, entries, indexes
from indexer.embedded import Services
from indexer.errors import TwinspanError
from indexer.http.models import HealthOut

LATE_S = 30.0  # a change that waits longer is a problem; a busy queue takes well under a second


class Health:
    """Asks database and store each time, and remembers when all was well."""

    def __init__(self, services: Services, worker_alive: Callable[[], bool]) -> None:
        self._services = services
        self._worker_alive = worker_alive
        self._lock = threading.Lock()
        self._last_ready_at: datetime | None = None

    def look(self) -> HealthOut:
        problems: list[str] = []
        oldest_s: float | None = None
        try:
            oldest_s = oldest_change_s(self._services)
        except TwinspanError as cause:
            problems.append(str(cause))
        try:
            self._services.store.aliases()
        except TwinspanError as cause:
            problems.append(str(cause))
        if not self._worker_alive():
            problems.append("the worker is not running")
        if oldest_s is not None and oldest_s > LATE_S:
            problems.append(f"a change has been waiting for {oldest_s:.0f} s")
        with self._lock:
            if not problems:
                self._last_ready_at = datetime.now(UTC)
            return HealthOut(
                ready=not problems,
                problems=problems,
                oldest_change_s=oldest_s,
                last_ready_at=self._last_ready_at,
            )


def oldest_change_s(services: Services) -> float | None:
    """The age of the oldest change or delete that an active index does not have yet; None when
    they have them all. Backfill is no change, and what is quarantined waits for its row."""
    active = {one.id for one in indexes.active(services.engine)}
    ages = [
        summary.oldest_s
        for id_, summary in entries.summary(services.engine).items()
        if id_ in active and summary.oldest_s is not None
    ]
    unrouted = changes.oldest_age_s(services.engine)
    return max([*ages, *([] if unrouted is None else [unrouted])], default=None)
