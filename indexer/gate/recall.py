"""Does a search find what an exact one finds, also under filters?

Asked with vectors of sampled items and, where there are interactions, with real users' queries. The
filters are made of what the catalog lets its users filter by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from indexer.gate import people, sieves
from indexer.gate.people import DEPTH, Person
from indexer.gate.report import Check
from indexer.gate.sieves import Sieve
from indexer.gate.subject import Subject
from indexer.offline import TIE
from indexer.query import Retriever
from indexer.stores import Search, Vector

RECALL, FILTERED = "recall", "filtered recall"
AT_ONCE = 32  # searches of one request
SHOWN = 5  # filters named in a report, the worst first
UNDER_FILTER = 4  # a filter gets that part of the queries

Found = Sequence[tuple[str, float]]


class Asker(Protocol):
    """A set of queries that can be asked under any filter, exactly or not."""

    def __call__(self, sieve: Sieve | None, *, exact: bool) -> list[Found]: ...


@dataclass(frozen=True, kw_only=True)
class Items:
    """Queries that are the vectors of items."""

    subject: Subject
    vectors: Sequence[Vector]

    def __call__(self, sieve: Sieve | None, *, exact: bool) -> list[Found]:
        name = self.subject.tower.encoder.similar_vector
        where = sieve.filter if sieve else None
        searches = [
            Search(vector=name, values=values, limit=DEPTH, where=where, payload=False, exact=exact)
            for values in self.vectors
        ]
        found: list[Found] = []
        for start in range(0, len(searches), AT_ONCE):
            some = searches[start : start + AT_ONCE]
            answers = self.subject.store.search(self.subject.index.ref, some)
            found += [[(hit.key, hit.score) for hit in answer] for answer in answers]
        return found


@dataclass(frozen=True, kw_only=True)
class Users:
    """Queries that real users would make."""

    subject: Subject
    retriever: Retriever
    persons: Sequence[Person]

    def __call__(self, sieve: Sieve | None, *, exact: bool) -> list[Found]:
        encoder = self.subject.tower.encoder
        where = sieve.where if sieve else None
        queries = [person.query(encoder, where=where, exact=exact) for person in self.persons]
        found: list[Found] = []
        for start in range(0, len(queries), AT_ONCE):
            answers = self.retriever.recommend_many(queries[start : start + AT_ONCE])
            found += [[(hit.key, hit.score) for hit in answer] for answer in answers]
        return found


def unfiltered(subject: Subject) -> Check:
    """Without a filter."""
    wanted = subject.settings.gate_recall
    asked = _askers(subject, subject.settings.gate_queries)
    recalls = {name: _recall(ask, None) for name, ask in asked.items()}
    value = min((found for found in recalls.values() if found is not None), default=None)
    shown = ", ".join(f"{r:.3f} for {name}" for name, r in recalls.items() if r is not None)
    return Check(
        name=RECALL,
        passed=None if value is None else value >= wanted,
        value=value,
        threshold=wanted,
        measured=f"recall@{DEPTH} of an exact search: {shown or 'the index is empty'}, "
        f"at least {wanted:g}",
        meaning="The graph finds what a scan of all items would find.",
        remedy="Wait until the store has optimised, or raise the graph's `ef` and `m`.",
        figures={f"recall of {name}": found for name, found in recalls.items()},
    )


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """What a filter did to recall; `points` is how many items pass it."""

    sieve: Sieve
    points: int
    recall: float

    def __str__(self) -> str:
        return f"{self.recall:.3f} under {self.sieve.where} ({self.points:,} items)"


def filtered(subject: Subject) -> Check:
    """Under each of the generated filters."""
    tried = sorted(_tried(subject), key=lambda one: one.recall)
    if not tried:
        return _nothing_to_filter_by(subject)
    mean, worst = float(np.mean([one.recall for one in tried])), tried[0]
    wanted, least = subject.settings.gate_recall, subject.settings.gate_recall_worst
    return Check(
        name=FILTERED,
        passed=mean >= wanted and worst.recall >= least,
        value=mean,
        threshold=wanted,
        measured=f"recall@{DEPTH} of an exact search: {mean:.3f} on average over {len(tried)} "
        f"filters, at least {wanted:g}; worst {worst}, at least {least:g}",
        meaning="A filter does not make the search lose items that pass it.",
        remedy="Build the index anew, so that payload indexes exist before its graph is built; "
        "where filters pass very many items, let the store search them exactly.",
        figures={
            "mean": mean,
            "worst": [
                {"where": dict(one.sieve.where), "points": one.points, "recall": one.recall}
                for one in tried[:SHOWN]
            ],
            "filters": len(tried),
        },
    )


def _tried(subject: Subject) -> Iterator[_Tried]:
    asked = _askers(subject, max(1, subject.settings.gate_queries // UNDER_FILTER))
    for sieve in made(subject):
        found = [_recall(ask, sieve) for ask in asked.values()]
        known = [recall for recall in found if recall is not None]
        if known:
            points = subject.store.count(subject.index.ref, sieve.filter)
            yield _Tried(sieve=sieve, points=points, recall=float(np.mean(known)))


def made(subject: Subject) -> list[Sieve]:
    """The filters to try in this index."""
    fields = subject.catalog.spec.fields
    stored = subject.store.fetch(subject.index.ref, subject.sample, payload=sorted(fields))
    payloads = [point.payload for point in stored.values()]
    return sieves.make(payloads, fields, np.random.default_rng(subject.seed)) if payloads else []


def _askers(subject: Subject, queries: int) -> Mapping[str, Asker]:
    """Half of the queries are items, half real users, where there are any."""
    name = subject.tower.encoder.similar_vector
    persons = [one for batch in people.held_out(subject, limit=queries // 2) for one in batch]
    rng = np.random.default_rng(subject.seed)
    keys = rng.permutation(subject.sample)[: queries - len(persons)].tolist()
    points = subject.store.fetch(subject.index.ref, keys, vectors=[name], payload=False)
    askers: dict[str, Asker] = {
        "items": Items(
            subject=subject, vectors=[points[key].vectors[name] for key in keys if key in points]
        )
    }
    if persons:
        asking = people.retriever(subject, subject.index)
        askers["users"] = Users(subject=subject, retriever=asking, persons=persons)
    return askers


def _recall(ask: Asker, sieve: Sieve | None) -> float | None:
    """The mean over queries; None where even the exact search finds nothing."""
    exact, found = ask(sieve, exact=True), ask(sieve, exact=False)
    values = [_of_one(e, f) for e, f in zip(exact, found, strict=True) if e]
    return float(np.mean(values)) if values else None


def _of_one(exact: Found, found: Found) -> float:
    """The share of the exact answer that was found; another item of the same score is as good."""
    best, last = {key for key, _ in exact}, exact[-1][1]
    right = sum(key in best or score >= last - TIE for key, score in found)
    return min(1.0, right / len(exact))


def _nothing_to_filter_by(subject: Subject) -> Check:
    reason = "the catalog has no filters" if not subject.catalog.spec.fields else "no values occur"
    return Check(
        name=FILTERED,
        passed=None,
        measured=f"not asked: {reason}",
        meaning="A filter does not make the search lose items that pass it.",
        remedy="None is needed.",
    )
