"""What is counted, under which names, and the verbs with which the other modules record it.

Everything recorded goes into `prometheus_client`'s default registry, so that an application which
serves that registry already has what a `Retriever` in it measures. Labels come from small closed
sets: an index is named by its alias and state, never by its id, because a series lives as long as
its process. What the ledger knows is no process's to count: those gauges (`LEDGER`) are asked for
at the scrape, by `indexer.scraping`.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from prometheus_client import Counter, Histogram

LANES = ("delete", "live", "backfill")  # by number

FRESHNESS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 86_400)
STAGE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
QUERY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
OVERLAP = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)


class BatchHistogram(Histogram):
    """A histogram that takes a whole batch at once: two locks a bucket instead of two an item."""

    def observe_many(self, amounts: Iterable[float]) -> None:
        """As `observe` for each, at the cost of one for each bucket that they fall into."""
        kept = list(amounts)
        if not kept:
            return
        self._raise_if_not_observable()
        self._sum.inc(sum(kept))  # pyright: ignore[reportUnknownMemberType]
        buckets = cast("list[Any]", self._buckets)  # pyright: ignore[reportUnknownMemberType]
        falling = Tally(bisect_left(self._upper_bounds, amount) for amount in kept)
        for bucket, count in falling.items():
            buckets[bucket].inc(count)


FRESHNESS = BatchHistogram(
    "twinspan_freshness_seconds",
    "From the change in the catalog to the acknowledged write, per item.",
    ("alias", "state", "lane"),
    buckets=FRESHNESS_S,
)
ITEMS = Counter(
    "twinspan_items_total",
    "Items that left a batch: encoded, payload_only, skipped, adopted, deleted, failed, "
    "quarantined, lost (another held the lease by then) or released (given back untouched).",
    ("alias", "state", "outcome"),
)
STAGES = Histogram(
    "twinspan_stage_seconds",
    "Seconds of one stage of one batch: route, load, claim, read, plan, encode, write, ack.",
    ("stage",),
    buckets=STAGE_S,
)
OUTAGES = Counter(
    "twinspan_left_alone_total",
    "Turns of an index that ended because its store, collection or encoder was not available.",
    ("alias", "state"),
)
STORE = Histogram(
    "twinspan_store_seconds",
    "Seconds of one call of the vector store, failed ones included.",
    ("verb",),
    buckets=STAGE_S,
)
STORE_ERRORS = Counter(
    "twinspan_store_errors_total",
    "Calls of the vector store that raised, by class of the error.",
    ("verb", "error"),
)
DATABASE_ERRORS = Counter(
    "twinspan_database_errors_total",
    "Statements that PostgreSQL did not serve, by class of the error.",
    ("error",),
)
DRIFT = Counter(
    "twinspan_drift_items_total",
    "Items that a verification found to differ from the catalog, by cause.",
    ("alias", "state", "cause"),
)
VERIFIED = Counter(
    "twinspan_verified_items_total",
    "Items that a verification compared.",
    ("alias", "state"),
)
GATE_CHECKS = Counter(
    "twinspan_gate_checks_total",
    "Verdicts of the gate before a promotion, by check; result is passed or failed.",
    ("alias", "check", "result"),
)
QUERIES = Histogram(
    "twinspan_query_seconds",
    "Seconds of one stage of one query: resolve, history, encode, search, total.",
    ("alias", "stage"),
    buckets=QUERY_S,
)
QUERY_ERRORS = Counter(
    "twinspan_query_errors_total",
    "Queries that raised, by class of the error.",
    ("error",),
)
SHADOW_OVERLAP = Histogram(
    "twinspan_shadow_overlap_ratio",
    "Share of a live query's answer that an index being built gave, too.",
    ("alias",),
    buckets=OVERLAP,
)
RECORDED = (
    FRESHNESS,
    ITEMS,
    STAGES,
    OUTAGES,
    STORE,
    STORE_ERRORS,
    DATABASE_ERRORS,
    DRIFT,
    VERIFIED,
    GATE_CHECKS,
    QUERIES,
    QUERY_ERRORS,
    SHADOW_OVERLAP,
)


@dataclass(frozen=True, kw_only=True)
class LedgerGauge:
    """A gauge that is read from the database at the scrape: the same from whichever process."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


_OF_INDEX = ("alias", "index", "state")
INFO = LedgerGauge(
    name="twinspan_info",
    help="Always 1; the release that answers, and the revision of the schema that it is made for.",
    labels=("release", "schema"),
)
DATABASE_UP = LedgerGauge(
    name="twinspan_database_up",
    help="1 when the database answered this scrape; the other gauges are absent when it did not.",
)
LEADERS = LedgerGauge(
    name="twinspan_leaders",
    help="Watchers that lead: 1, or 0 while no worker of the fleet would notice a change.",
)
BACKLOG = LedgerGauge(
    name="twinspan_backlog_items",
    help="Items of the index that wait to be written, without the quarantined.",
    labels=(*_OF_INDEX, "lane"),
)
OLDEST = LedgerGauge(
    name="twinspan_backlog_oldest_seconds",
    help="Age of the oldest change that the index does not have; 0 when it has them all.",
    labels=(*_OF_INDEX, "lane"),
)
FAILING = LedgerGauge(
    name="twinspan_failing_items",
    help="Items with an error that are tried again.",
    labels=_OF_INDEX,
)
QUARANTINED = LedgerGauge(
    name="twinspan_quarantined_items",
    help="Items given up until their row changes or someone retries them.",
    labels=_OF_INDEX,
)
UNROUTED = LedgerGauge(
    name="twinspan_unrouted_changes",
    help="Statements whose changes no ledger has yet.",
)
UNROUTED_OLDEST = LedgerGauge(
    name="twinspan_unrouted_oldest_seconds",
    help="Age of the oldest of those; 0 without any.",
)
WRITTEN_AT = LedgerGauge(
    name="twinspan_last_write_timestamp_seconds",
    help="When a worker last wrote to the index, to a few seconds; absent before the first time.",
    labels=_OF_INDEX,
)
VERIFIED_AT = LedgerGauge(
    name="twinspan_last_verified_timestamp_seconds",
    help="When a verification of the index last came to its end; absent before the first time.",
    labels=_OF_INDEX,
)
LEDGER = (
    INFO,
    DATABASE_UP,
    LEADERS,
    BACKLOG,
    OLDEST,
    FAILING,
    QUARANTINED,
    UNROUTED,
    UNROUTED_OLDEST,
    WRITTEN_AT,
    VERIFIED_AT,
)

# A process that forks while another of its threads records would give its child a lock that nobody
# ever opens: forks wait for recordings, which take microseconds.
_recording = threading.RLock()
os.register_at_fork(
    before=_recording.acquire,
    after_in_parent=_recording.release,
    after_in_child=_recording.release,
)


def served(*, alias: str, state: str, ages: Iterable[tuple[int, float]]) -> None:
    """Items were acknowledged: the lane of each, and the seconds since its change."""
    by_lane: dict[int, list[float]] = {}
    for lane, seconds in ages:
        by_lane.setdefault(lane, []).append(seconds)
    with _recording:
        for lane, all_seconds in by_lane.items():
            FRESHNESS.labels(alias, state, LANES[lane]).observe_many(all_seconds)


def counted(*, alias: str, state: str, outcomes: Mapping[str, int]) -> None:
    """Items left a batch, by outcome."""
    with _recording:
        for outcome, count in outcomes.items():
            if count:
                ITEMS.labels(alias, state, outcome).inc(count)


def staged(stage: str, seconds: float) -> None:
    """A stage of a batch has ended."""
    with _recording:
        STAGES.labels(stage).observe(seconds)


def left_alone(*, alias: str, state: str) -> None:
    """A turn ended without work: store, collection or encoder is not available."""
    with _recording:
        OUTAGES.labels(alias, state).inc()


def asked_store(verb: str, seconds: float, error: BaseException | None = None) -> None:
    """A call of the vector store has ended, with that error or well."""
    with _recording:
        STORE.labels(verb).observe(seconds)
        if error is not None:
            STORE_ERRORS.labels(verb, type(error).__name__).inc()


def database_failed(error: BaseException) -> None:
    """PostgreSQL did not serve a statement."""
    with _recording:
        DATABASE_ERRORS.labels(type(error).__name__).inc()


def verified(*, alias: str, state: str, items: int, drift: Mapping[str, int]) -> None:
    """Another `items` items were compared, of which so many differ, by cause. Call it with what is
    new since the last call. A cause with 0 gets its series, so that its first rise can be seen."""
    with _recording:
        VERIFIED.labels(alias, state).inc(items)
        for cause, count in drift.items():
            DRIFT.labels(alias, state, cause).inc(count)


def judged(*, alias: str, checks: Mapping[str, bool]) -> None:
    """The gate has judged an index: check -> whether it passed."""
    with _recording:
        for check, passed in checks.items():
            GATE_CHECKS.labels(alias, check, "passed" if passed else "failed").inc()


def answered(*, alias: str, seconds: Mapping[str, float]) -> None:
    """A query has its answer; seconds by stage, to which their sum is added as `total`."""
    with _recording:
        for stage, value in seconds.items():
            QUERIES.labels(alias, stage).observe(value)
        QUERIES.labels(alias, "total").observe(sum(seconds.values()))


def query_failed(error: BaseException) -> None:
    """A query raised."""
    with _recording:
        QUERY_ERRORS.labels(type(error).__name__).inc()


def shadowed(*, alias: str, overlap: float) -> None:
    """A live query was also asked of an index that is being built."""
    with _recording:
        SHADOW_OVERLAP.labels(alias).observe(overlap)
