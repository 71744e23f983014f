"""Is everything there? The backfill, the changes up to the watermark, and the counts of all three.

Changes go on while the gate looks, so nothing here asks for an empty queue: what was committed
before the gate began must be written; what came later may be on its way, and is counted as such.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from indexer import catalog, changes, indexes, ledger
from indexer.gate.report import Check
from indexer.gate.subject import Subject
from indexer.ledger import Standing

FEW = 0.001  # of the rows: so many may be in flight without another look
LOOKS = 10  # at the counts of a catalog that never rests
BACKFILL, QUARANTINE, COUNTS = "backfill complete", "quarantined items", "counts equal"


def backfill(subject: Subject) -> Check:
    """Every item has been listed, and no change from before the watermark is unwritten; waits for
    the second as long as gate_wait_s."""
    deadline = subject.deadline()
    while True:
        filled = indexes.get(subject.engine, subject.index.id).backfill_done
        unrouted = changes.pending_before(subject.engine, subject.catalog.id, subject.mark)
        overdue = _standing(subject).overdue
        if not filled or not (unrouted or overdue) or time.monotonic() > deadline:
            break
        subject.pause()
    listed = "the whole catalog is listed" if filled else "the catalog is not listed to its end"
    return Check(
        name=BACKFILL,
        passed=filled and not unrouted and not overdue,
        value=float(overdue),
        threshold=0.0,
        measured=f"{listed}, {overdue:,} items and {unrouted:,} unrouted changes are older than "
        "the gate",
        meaning="Every item of the catalog, and every change that was committed before the gate "
        "began, is in the index.",
        remedy="Let a worker finish (`twinspan reindex --resume` works here); look at `twinspan "
        "failures` for items that cannot be indexed.",
        figures={"filled": filled, "overdue": overdue, "unrouted_changes": unrouted},
    )


def quarantined(subject: Subject) -> Check:
    """So many items at most are given up."""
    standing = _standing(subject)
    share = standing.quarantined / max(1, standing.entries)
    return Check(
        name=QUARANTINE,
        passed=share <= subject.settings.gate_quarantined,
        value=share,
        threshold=subject.settings.gate_quarantined,
        measured=f"{standing.quarantined:,} of {standing.entries:,} items ({share:.2%}), "
        f"at most {subject.settings.gate_quarantined:.2%}",
        meaning="Items that cannot be indexed are missing from every answer.",
        remedy="See `twinspan failures`, mend the rows or the encoder, then `twinspan retry`.",
        figures={"quarantined": standing.quarantined, "entries": standing.entries},
    )


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """One count of the three. `in_flight` items may differ, for they were changed while it was
    made; None when a TRUNCATE is on its way, which may concern all."""

    rows: int
    ledger: int
    unusable: int  # rows that are rightly without a point
    store: int
    in_flight: int | None

    @property
    def apart(self) -> int:
        return max(
            abs(self.rows - self.unusable - self.ledger),
            abs(self.ledger - self.store),
            abs(self.rows - self.unusable - self.store),
        )

    @property
    def equal(self) -> bool:
        return self.in_flight is not None and self.apart <= self.in_flight


def counts(subject: Subject) -> Check:
    """Catalog, ledger and store hold the same number of items, up to those that change while they
    are counted; counted several times, for a moment in which nothing does."""
    deadline, looks = subject.deadline(), 0
    while True:
        seen, looks = _count(subject), looks + 1
        few = seen.equal and (seen.in_flight or 0) <= FEW * seen.rows
        settled = seen.in_flight == 0 or few or (seen.in_flight is not None and looks >= LOOKS)
        if settled or time.monotonic() > deadline:
            break
        subject.pause()
    usable = seen.rows - seen.unusable
    return Check(
        name=COUNTS,
        passed=seen.equal,
        value=float(seen.apart),
        threshold=float(seen.in_flight or 0),
        measured=f"{usable:,} usable rows in the catalog, {seen.ledger:,} items in the ledger, "
        f"{seen.store:,} points in the store"
        + (f" ({seen.in_flight:,} changing meanwhile)" if seen.in_flight else "")
        + (" (a TRUNCATE is on its way)" if seen.in_flight is None else ""),
        meaning="No item is missing from the index and none is in it that should not be.",
        remedy="`twinspan verify --repair` finds and mends the difference.",
        figures=asdict(seen),
    )


def _count(subject: Subject) -> _Counts:
    engine, index = subject.engine, subject.index
    since = changes.watermark(engine).at
    before, waiting = _standing(subject).dirty, changes.pending_keys(engine, subject.catalog.id)
    rows = catalog.count(engine, subject.catalog)
    store = subject.store.count(index.ref)
    still = changes.pending_keys(engine, subject.catalog.id)
    after = ledger.standing(engine, index.id, since=since)
    flight = None
    if waiting is not None and still is not None:
        flight = before + waiting + still + after.recent + max(0, after.dirty - before)
    return _Counts(
        rows=rows,
        ledger=after.present,
        unusable=after.quarantined_absent,
        store=store,
        in_flight=flight,
    )


def _standing(subject: Subject) -> Standing:
    return ledger.standing(subject.engine, subject.index.id, since=subject.mark.at)
