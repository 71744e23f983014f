"""How fast indexes are being built: what the workers did lately, by their own account.

Owner of table `paces`: each worker adds a row about once a second while it works on an index that
is being built. The rate is what all of them did within the last minute, so it falls to nothing when
nobody works, and is unknown after that.
"""

from __future__ import annotations

import time
from collections import Counter

import sqlalchemy as sa

from indexer import database
from indexer.indexes import Index

NOTE_S = 1.0  # between two rows of one worker
WINDOW_S = 60.0  # low: jumps with every batch; high: slow to notice a change
KEPT_S = 600.0

_NOTE = sa.text("""
    INSERT INTO indexer.paces (index_id, seconds, items)
    SELECT index_id, :seconds, items
    FROM unnest(CAST(:index_ids AS integer[]), CAST(:items AS integer[])) AS one (index_id, items)
""")
_FORGET = sa.text("""
    DELETE FROM indexer.paces WHERE id IN (
        SELECT id FROM indexer.paces WHERE at < now() - make_interval(secs => :kept_s)
        FOR UPDATE SKIP LOCKED
    )
""")
_RATE = sa.text("""
    SELECT sum(items) / greatest(
        extract(epoch FROM clock_timestamp() - min(at - make_interval(secs => seconds))), 0.001)
    FROM indexer.paces
    WHERE index_id = :index_id AND at > now() - make_interval(secs => :window_s)
""")


class Pace:
    """The account of one drain. Not for several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._items: Counter[int] = Counter()
        self._since = time.monotonic()

    def add(self, index: Index, items: int) -> None:
        """So many items of the index are done; noted where it is being built, once in a while."""
        if index.state != "building":
            return
        self._items[index.id] += items
        if time.monotonic() - self._since >= NOTE_S:
            self.note()

    def note(self) -> None:
        """What was added is in the database."""
        seconds, self._since = time.monotonic() - self._since, time.monotonic()
        items, self._items = self._items, Counter()
        if not items:
            return
        parameters = {"index_ids": list(items), "items": list(items.values()), "seconds": seconds}
        with database.begin(self._engine) as connection:
            connection.execute(_NOTE, parameters)
            connection.execute(_FORGET, {"kept_s": KEPT_S})


def rate(engine: sa.Engine, index_id: int) -> float | None:
    """Items a second over the last minute, by all workers; None when nobody did any."""
    with database.begin(engine) as connection:
        found = connection.scalar(_RATE, {"index_id": index_id, "window_s": WINDOW_S})
    return None if found is None else float(found)
