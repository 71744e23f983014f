"""Time under control: hours pass at once, for the database and for every process.

For the database, "a minute passes" is every stored time moving a minute into the past: all that the
code ever asks is how a stored time compares with now(). For processes, the monotonic clock by which
a batch knows how much of its lease is left moves ahead; one whose machine was suspended does not
notice (CLOCK_MONOTONIC stands still meanwhile): `behind_s` of the process.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from proof import baton

TIMES = {
    "entries": ("changed_at", "due_at", "lease_until", "lost_at"),
    "changes": ("changed_at",),
    "indexes": ("created_at", "live_at", "standby_at", "retired_at"),
}


class Clock:
    """Stands in for the module `time` where leases are reckoned."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        process = baton.current()
        behind_s = process.behind_s if process else 0.0
        return time.monotonic() + self.ahead_s - behind_s

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)

    def pass_for(self, connection: sa.Connection, seconds: float) -> None:
        """So many seconds have passed everywhere."""
        self.ahead_s += seconds
        for table, columns in TIMES.items():
            moved = ", ".join(f"{one} = {one} - make_interval(secs => :s)" for one in columns)
            connection.execute(sa.text(f"UPDATE indexer.{table} SET {moved}"), {"s": seconds})
