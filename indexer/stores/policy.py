"""How graphs are built, and how a search is done so that it finds what an exact one finds.

A graph walk under a filter can lose its way without a word: recall@20 of 0.08 was measured where
10% of 100,000 clustered items pass, 0.67 under two combined filters of 1,000,000 even with ACORN.
An exact scan of what passes is always right, so it is taken while it is fast: the store's own
estimate of how many points pass decides (benchmarks/bench_search.py).
"""

from __future__ import annotations

from dataclasses import dataclass

EXACT_POINTS = 200_000  # scanning so many passing points of 64 floats takes a few milliseconds
FULL_SCAN_KB = 10_000  # the engine itself scans so much that passes, where we ask for a walk
GRAPH_KB = 24_000  # of vectors in no graph: an exact scan of them takes about 2 ms
GRAPH_M, GRAPH_EF_CONSTRUCT = 16, 128  # links of a point, and candidates for them
GRAPH_EF = 384  # unfiltered: recall@20 of 0.9998 where 128 has 0.98 (300,000 of 194 floats)
FILTERED_EF = 512


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`exact`: score every point that passes. Otherwise walk the graph with this `ef`, and with
    ACORN (looking two links far through points that don't pass) where a filter is set."""

    exact: bool
    ef: int = GRAPH_EF
    acorn: bool = False


def plan(*, exact: bool, limit: int, passing: int | None) -> Plan:
    """`passing` estimates how many points pass the filter; None says that there is no filter."""
    if exact or (passing is not None and passing <= EXACT_POINTS):
        return Plan(exact=True)
    if passing is None:
        return Plan(exact=False, ef=max(GRAPH_EF, 2 * limit))
    return Plan(exact=False, ef=max(FILTERED_EF, 4 * limit), acorn=True)
