"""How long one user waits: single queries, from the history to the hits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from indexer.gate import people, recall
from indexer.gate.people import DEPTH
from indexer.gate.report import Check
from indexer.gate.subject import Subject
from indexer.query import Query

LATENCY = "query latency"
WARM_UP = 5  # queries that are not counted: caches, threads, the first pass of a tower
HISTORY = 10  # items of an invented user


def p95(subject: Subject) -> Check:
    """Nineteen in twenty queries are answered within gate_p95_ms; every other one has a filter."""
    asking = people.retriever(subject, subject.index)
    queries = _queries(subject)
    for query in queries[:WARM_UP]:
        asking.recommend_many([query])
    times_ms = [_timed_ms(lambda query=query: asking.recommend_many([query])) for query in queries]
    within = subject.settings.gate_p95_ms
    median, value, worst = (float(np.quantile(times_ms, q)) for q in (0.5, 0.95, 1.0))
    return Check(
        name=LATENCY,
        passed=value <= within,
        value=value,
        threshold=within,
        measured=f"p95 {value:.1f} ms (median {median:.1f}, worst {worst:.1f}) over "
        f"{len(queries):,} queries, at most {within:g} ms",
        meaning="Users do not wait longer than you allow: history, user tower and search together.",
        remedy="See whether the machine is busy; a smaller tower, a GPU or more memory for the "
        "store helps, or allow more with gate_p95_ms.",
        figures={"p50_ms": median, "p95_ms": value, "max_ms": worst, "queries": len(queries)},
    )


def _queries(subject: Subject) -> Sequence[Query]:
    """Those of real users, and as many more of invented ones as are missing."""
    count = subject.settings.gate_queries
    persons = [one for batch in people.held_out(subject, limit=count) for one in batch]
    encoder = subject.tower.encoder
    wheres = [None, *(sieve.where for sieve in recall.made(subject))]
    filters = [wheres[0] if n % 2 else wheres[(n // 2) % len(wheres)] for n in range(count)]
    known = [person.query(encoder, where=w) for person, w in zip(persons, filters, strict=False)]
    rng = np.random.default_rng(subject.seed)
    histories = [rng.permutation(subject.sample)[:HISTORY].tolist() for _ in filters[len(known) :]]
    return known + [
        Query(history=history, where=where, k=DEPTH)
        for history, where in zip(histories, filters[len(known) :], strict=True)
    ]


def _timed_ms(ask: Callable[[], object]) -> float:
    started = time.perf_counter()
    ask()
    return 1_000 * (time.perf_counter() - started)
