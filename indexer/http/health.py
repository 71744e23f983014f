"""Whether a process does its work: not that it runs, but that changes arrive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from indexer import readiness
from indexer.embedded import Services
from indexer.http.models import HealthOut


class Health:
    """Asks database and store each time, and remembers when all was well."""

    def __init__(self, services: Services, worker_alive: Callable[[], bool]) -> None:
        self._services = services
        self._worker_alive = worker_alive
        self._lock = threading.Lock()
        self._last_ready_at: datetime | None = None

    def look(self, *, max_age_s: float | None = None) -> HealthOut:
        """`max_age_s` seconds a change may wait; None takes the setting."""
        services = self._services
        problems, picture = readiness.problems(
            services.engine,
            services.store,
            max_age_s=max_age_s or services.settings.ready_max_age_s,
            leader_s=None,  # the worker is asked itself
        )
        if not self._worker_alive():
            problems.append("the worker is not running")
        with self._lock:
            if not problems:
                self._last_ready_at = datetime.now(UTC)
            return HealthOut(
                ready=not problems,
                problems=problems,
                oldest_change_s=readiness.oldest_change_s(picture) if picture else None,
                last_ready_at=self._last_ready_at,
                last_writes={
                    one.alias: one.written_at
                    for one in (picture.indexes if picture else ())
                    if one.state == "live"
                },
            )
