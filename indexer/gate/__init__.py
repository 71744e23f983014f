"""The gate: what an index must show before it answers users, as code with a report.

It reads the index, its catalog and the live index beside it, asks the store to optimise, and writes
nothing. No transaction is open while a model or the store works. Every threshold is a setting.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import sqlalchemy as sa

from encoders.errors import EncoderError
from indexer import catalog, changes, indexes, metrics
from indexer.encoding import TowerFailed
from indexer.errors import CollectionMismatch, CollectionMissing, StoreRejected
from indexer.gate import latency, ledger, quality, recall, shadows, stored
from indexer.gate.report import Check, Report, from_dict
from indexer.gate.subject import Pause, Subject, sleep
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Towers

__all__ = ["Check", "Pause", "Report", "from_dict", "run", "sleep"]

CheckFunction = Callable[[Subject], Check]

# In this order: what is missing explains what comes after it.
CHECKS: tuple[tuple[str, CheckFunction], ...] = (
    (ledger.BACKFILL, ledger.backfill),
    (ledger.QUARANTINE, ledger.quarantined),
    (ledger.COUNTS, ledger.counts),
    (stored.COLLECTION, stored.described),
    (stored.VECTORS, stored.vectors),
    (stored.OPTIMISED, stored.optimised),
    (recall.RECALL, recall.unfiltered),
    (recall.FILTERED, recall.filtered),
    (quality.QUALITY, quality.offline),
    (latency.LATENCY, latency.p95),
    (shadows.SHADOWS, shadows.advice),
)
# What makes this index unfit, rather than the moment: an outage is raised instead.
UNFIT = (CollectionMissing, CollectionMismatch, StoreRejected, EncoderError, TowerFailed)


def run(
    engine: sa.Engine,
    store: VectorStore,
    towers: Towers,
    settings: Settings,
    index: Index,
    *,
    seed: int | None = None,
    pause: Pause = sleep,
) -> Report:
    """All checks of this index, in order, each asked whatever the others say. `seed` draws the
    samples (None: at random, and reported). `pause` is called while the gate waits for what is on
    its way: it sleeps, or does some of the work. Raises EncoderError when the index's tower cannot
    be loaded, StoreUnavailable and DatabaseError for outages: then nothing is said of the index."""
    started = time.monotonic()
    towers.get(index.encoder_id, index.encoder_uri)
    subject = Subject(
        engine=engine,
        store=store,
        towers=towers,
        settings=settings,
        index=index,
        catalog=catalog.get_by_id(engine, index.catalog_id),
        live=_other_live(engine, index),
        mark=changes.watermark(engine),
        seed=random.SystemRandom().randrange(2**31) if seed is None else seed,
        pause=pause,
    )
    checks = tuple(_asked(name, check, subject) for name, check in CHECKS)
    verdicts = {check.name: check.passed for check in checks if check.passed is not None}
    metrics.judged(alias=index.alias, checks=verdicts)
    return Report(
        index_id=index.id,
        encoder_id=index.encoder_id,
        live_index_id=subject.live.id if subject.live else None,
        seed=subject.seed,
        started_at=subject.mark.at,
        took_s=time.monotonic() - started,
        checks=checks,
    )


def _other_live(engine: sa.Engine, index: Index) -> Index | None:
    found = indexes.find_live(engine, index.alias)
    return None if found is None or found.id == index.id else found


def _asked(name: str, check: CheckFunction, subject: Subject) -> Check:
    """The check's answer; where the index cannot even be asked, that is the answer."""
    try:
        return check(subject)
    except UNFIT as cause:
        return Check(
            name=name,
            passed=False,
            measured=f"{type(cause).__name__}: {cause}",
            meaning="The index cannot be asked.",
            remedy="Mend what the message names, or build the index anew: `twinspan reindex`.",
        )
