"""Does the new index rank what users did next as well as the live one does?

Leave-one-out: a user's last event is the target, everything before it the history. Both indexes
answer as they would answer that user, each with its own tower and the vectors that it stores, and
the differences are taken per user, so that luck with the sample hits both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from encoders import evaluate
from encoders.errors import EncoderError
from indexer import interactions
from indexer import offline as through
from indexer.errors import CollectionMismatch, CollectionMissing
from indexer.gate import people
from indexer.gate.people import DEPTH, Person
from indexer.gate.report import Check
from indexer.gate.subject import Subject
from indexer.indexes import Index
from indexer.query import Retriever

QUALITY = "offline quality"
POPULAR_MAX = people.EVENTS_MAX + DEPTH  # so that enough is left when all seen items are taken out
MEANING = "Users find what they did next at least as well as in the live index."

UNABLE = (EncoderError, CollectionMissing, CollectionMismatch)  # of the live index, to answer

Ranks = NDArray[np.float64]  # (U,): of the target among the hits, infinite where it is not one
Values = NDArray[np.float64]  # (U,)

Metric = Callable[[Ranks, int], Values]

METRICS: Mapping[str, Metric] = {
    f"recall@{DEPTH}": evaluate.hits,
    f"NDCG@{DEPTH}": evaluate.gains,
}


def offline(subject: Subject) -> Check:
    """Against the live index; where there is none, against recommending what is popular."""
    if not subject.settings.gate_users:
        return _not_asked("gate_users is 0")
    if subject.live is None:
        return _first(subject)
    theirs = people.retriever(subject, subject.live)
    try:
        theirs.load()
    except UNABLE as cause:
        return _not_asked(f"the live index cannot answer: {cause}")
    ours, ranks = people.retriever(subject, subject.index), list[tuple[Ranks, Ranks]]()
    for persons in _asked(subject, [subject.index, subject.live]):
        ranks.append((_ranks(ours, persons), _ranks(theirs, persons)))
    if not ranks:
        return _not_asked(
            "no user has three interactions with items of this catalog, the last at its own moment"
        )
    new, live = (np.concatenate(side) for side in zip(*ranks, strict=True))
    return _compared(subject, subject.live, new, live)


def _asked(subject: Subject, indexes: Sequence[Index]) -> Iterator[list[Person]]:
    """Users whose target one of the indexes holds: the catalog may have dropped it since. Among
    events of one moment training drew the last one, so a tied target may have been trained on."""
    for persons in people.held_out(subject, limit=subject.settings.gate_users):
        targets = [person.target for person in persons]
        there: set[str] = set()
        for index in indexes:
            there |= subject.store.fetch(index.ref, targets, payload=False).keys()
        if kept := [one for one in persons if one.target in there and not one.tied]:
            yield kept


def _ranks(retriever: Retriever, persons: Sequence[Person]) -> Ranks:
    encoder = retriever.encoder()
    answers = retriever.recommend_many([person.query(encoder) for person in persons])
    targets = [person.target for person in persons]
    return through.places([answer.keys for answer in answers], targets)


def _compared(subject: Subject, live: Index, new: Ranks, old: Ranks) -> Check:
    margin = subject.settings.gate_quality_margin
    found = {name: _difference(metric, new, old, subject.seed) for name, metric in METRICS.items()}
    worst = min(found.values(), key=lambda one: one.high)
    texts = [f"{name} {one}" for name, one in found.items()]
    return Check(
        name=QUALITY,
        passed=all(one.high >= -margin for one in found.values()),
        value=worst.high,
        threshold=-margin,
        measured=f"{'; '.join(texts)}, asked of {len(new):,} users; at most {margin:.1%} worse "
        f"than live index {live.id}",
        meaning=MEANING,
        remedy="Train again and look at `twinspan evaluate`; keep the live index meanwhile.",
        figures={"users": len(new), **{name: asdict(one) for name, one in found.items()}},
    )


@dataclass(frozen=True, kw_only=True)
class _Difference:
    """Of a metric between two indexes, as a share of the live one's; 95% certain between `low`
    and `high`."""

    new: float
    live: float
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.new:.3f} against {self.live:.3f} ({self.difference:+.1%}, "
            f"95% sure between {self.low:+.1%} and {self.high:+.1%})"
        )


def _difference(metric: Metric, new: Ranks, old: Ranks, seed: int) -> _Difference:
    ours, theirs = metric(new, DEPTH), metric(old, DEPTH)
    scale = float(theirs.mean()) or 1.0  # where the live index finds nothing, nothing is worse
    found = evaluate.paired_interval(ours, theirs, seed=seed)
    return _Difference(
        new=float(ours.mean()),
        live=float(theirs.mean()),
        difference=found.mean / scale,
        low=found.low / scale,
        high=found.high / scale,
    )


def _first(subject: Subject) -> Check:
    """Nothing is live, so nothing can be worse: the figures are for the reader."""
    ours = people.retriever(subject, subject.index)
    popular = interactions.most_frequent(
        subject.engine, catalog=subject.catalog.name, limit=POPULAR_MAX
    )
    ranks = [
        (_ranks(ours, persons), _popular_ranks(popular, persons))
        for persons in _asked(subject, [subject.index])
    ]
    if not ranks:
        return _not_asked("nothing is live under this alias, and there are no interactions")
    new, old = (np.concatenate(side) for side in zip(*ranks, strict=True))
    found = {name: _difference(metric, new, old, subject.seed) for name, metric in METRICS.items()}
    texts = [f"{name} {one.new:.3f} (popular items {one.live:.3f})" for name, one in found.items()]
    return Check(
        name=QUALITY,
        passed=None,
        measured=f"nothing is live to compare with; {', '.join(texts)}, "
        f"asked of {len(new):,} users",
        meaning=MEANING,
        remedy="An encoder that does not beat popular items is not worth serving: train again.",
        figures={"users": len(new), **{name: asdict(one) for name, one in found.items()}},
    )


def _popular_ranks(popular: Sequence[str], persons: Sequence[Person]) -> Ranks:
    offered: list[list[str]] = []
    for person in persons:
        hidden = person.seen - {person.target}
        offered.append([key for key in popular if key not in hidden][:DEPTH])
    return through.places(offered, [person.target for person in persons])


def _not_asked(why: str) -> Check:
    return Check(
        name=QUALITY,
        passed=None,
        measured=f"not asked: {why}",
        meaning=MEANING,
        remedy="None is needed; import interactions to have this checked.",
    )
