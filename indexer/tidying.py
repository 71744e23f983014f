"""What nobody has to ask for: crashes are healed, removals finished, old standbys retired."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from indexer import alias_lock, collection, indexes, rollout
from indexer.errors import TwinspanError
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import VectorStore

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Tidied:
    """What `tidy` found to do, by index id."""

    healed: list[int] = field(default_factory=list[int])
    removed: list[int] = field(default_factory=list[int])
    retired: list[int] = field(default_factory=list[int])


def tidy(engine: sa.Engine, store: VectorStore, settings: Settings) -> Tidied:
    """Aliases are healed, removals that were interrupted are finished, and indexes that were
    standby for `standby_s` are retired. What somebody else is changing is left for the next time.
    """
    tidied = Tidied()
    for alias in sorted({index.alias for index in indexes.active(engine)}):
        with _left_for_later(f"alias {alias}"):
            healed = rollout.heal(engine, store, alias)
            tidied.healed += [healed.id] if healed else []
    for index in indexes.leftovers(engine, store.collections()):
        with _left_for_later(f"what is left of index {index.id}"):
            _finish_removal(engine, store, index)
            tidied.removed.append(index.id)
    tidied.retired = retire_expired(engine, store, settings)
    return tidied


def retire_expired(
    engine: sa.Engine, store: VectorStore, settings: Settings, *, now: datetime | None = None
) -> list[int]:
    """Indexes that were standby for `standby_s` seconds are retired, unless something names them or
    nothing is live under their alias. Returns their ids."""
    expired = (now or datetime.now(UTC)) - timedelta(seconds=settings.standby_s)
    retired: list[int] = []
    for index in indexes.active(engine):
        if index.state != "standby" or index.standby_at is None or index.standby_at > expired:
            continue
        if indexes.find_live(engine, index.alias) is None:
            continue
        with _left_for_later(f"index {index.id}"):
            rollout.retire(engine, store, index.id, by="upkeep")
            retired.append(index.id)
    return retired


def _finish_removal(engine: sa.Engine, store: VectorStore, index: Index) -> None:
    with alias_lock.held(engine, index.alias):
        collection.remove(engine, store, index)


@contextmanager
def _left_for_later(what: str) -> Generator[None]:
    try:
        yield
    except TwinspanError as cause:
        log.info("%s is left for later: %s", what, cause)
