"""What live queries said of the index while it was built: advice, never a reason to refuse."""

from __future__ import annotations

from dataclasses import asdict

from indexer import shadow_reads
from indexer.gate.report import Check
from indexer.gate.subject import Subject

SHADOWS = "shadow reads"


def advice(subject: Subject) -> Check:
    """How far the answers to live queries differ from the live index's."""
    found = shadow_reads.summary(subject.engine, subject.index.id)
    measured = "none: the setting shadow_share is 0, or no query came"
    if found is not None:
        measured = str(found)
    return Check(
        name=SHADOWS,
        passed=None,
        value=None if found is None else found.overlap,
        measured=measured,
        meaning="How much users would notice of the change. A better index differs, too.",
        remedy="Look at answers that differ with `twinspan recommend` of both.",
        figures={} if found is None else {**asdict(found), "since": found.since.isoformat()},
    )
