"""What an index makes of an offline evaluation: where its hits have the item that was wanted.

The exact ranking of the same users by the same encoder stands beside it, so what the graph, the
store and the way through `Retriever` cost is known apart from how good the encoder is.

Shapes: U users asked, B of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from encoders import evaluate
from encoders.dataset import Dataset, IntArray, Split
from encoders.evaluate import Ranks, Scored
from encoders.types import Encoder, FloatArray
from indexer.query import Hits, Past, Query, Retriever
from indexer.query.asked import HISTORY_MAX, usable_features

DEPTH = 20  # hits that count
TIE = 1e-6  # scores nearer than that are equal: which of them comes first means nothing
AT_ONCE = 64  # queries of one recommend_many

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Places = NDArray[np.float64]  # 1 is the first hit, infinite what is not among the hits


def places(answers: Sequence[Sequence[str]], targets: Sequence[str]) -> Places:
    """(U,): where the keys of each answer have its target."""
    return np.array(
        [
            keys.index(target) + 1 if target in keys else np.inf
            for keys, target in zip(answers, targets, strict=True)
        ],
        dtype=np.float64,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """The same users ranked exactly and by the index. An overlap (U,) is the share of the exact
    first DEPTH that the index found; another item of the same score is as good."""

    exact: Ranks
    index: Ranks
    overlap: NDArray[np.float64]
    overlap_unmasked: NDArray[np.float64]


def compare(
    retriever: Retriever,
    encoder: Encoder,
    split: Split,
    targets: IntArray,
    *,
    limit: int | None = None,
    seed: int = 0,
    told: Callable[[int], None] = lambda _: None,
) -> Compared:
    """Every user's target as `evaluate.rank_with` has it, and as the index that `retriever` asks
    answers: once with `exclude_seen`, once without. `encoder` is the one that built the index.
    `told` hears how many users were asked. What a user wants again is never left out as seen."""
    users = evaluate.asked_users(targets, limit, seed)
    exact, found = (np.zeros((2, len(users))) for _ in range(2))  # masked, unmasked
    overlap = np.zeros((2, len(users)))
    done = 0
    for scored in evaluate.scored_with(encoder, split, targets, users):
        part = slice(done, done := done + len(scored.users))
        exact[:, part] = scored.ranks()
        asker = _Asker(retriever, encoder, split.dataset, targets, scored)
        for row, masked in enumerate((True, False)):
            answers = asker.answers(masked=masked)
            found[row, part] = places(answers, asker.wanted)
            overlap[row, part] = asker.overlaps(answers, masked=masked)
        told(done)
    return Compared(
        exact=Ranks(users=users, masked=exact[0], unmasked=exact[1]),
        index=Ranks(users=users, masked=found[0], unmasked=found[1]),
        overlap=overlap[0],
        overlap_unmasked=overlap[1],
    )


class _Asker:
    """Some users, as they would ask the index."""

    def __init__(
        self,
        retriever: Retriever,
        encoder: Encoder,
        data: Dataset,
        targets: IntArray,
        scored: Scored,
    ) -> None:
        self._retriever = retriever
        self._encoder = encoder
        self._data = data
        self._targets = targets
        self._scored = scored
        self.wanted = self._keys(scored.targets)

    def answers(self, *, masked: bool) -> list[list[str]]:
        """The keys of the first DEPTH hits of each user."""
        queries = [self._query(row, masked=masked) for row in range(len(self.wanted))]
        found: list[Hits] = []
        for start in range(0, len(queries), AT_ONCE):
            found += self._retriever.recommend_many(queries[start : start + AT_ONCE])
        return [self._kept(row, hits.keys, masked=masked) for row, hits in enumerate(found)]

    def overlaps(self, answers: Sequence[Sequence[str]], *, masked: bool) -> NDArray[np.float64]:
        return np.array(
            [
                self._overlap(self._scores(row, masked=masked), keys)
                for row, keys in enumerate(answers)
            ]
        )

    def _query(self, row: int, *, masked: bool) -> Query:
        """Who wants a seen item is asked for so many more hits that the seen ones can be left out
        of them but for that one."""
        user = int(self._scored.users[row])
        again = masked and self._again(row)
        return Query(
            history=self._history(user),
            features=usable_features(self._data.user_records[user], self._encoder.user_features),
            k=DEPTH + (len(np.unique(self._scored.seen[row])) if again else 0),
            exclude_seen=masked and not again,
        )

    def _again(self, row: int) -> bool:
        return bool((self._scored.seen[row] == self._scored.targets[row]).any())

    def _kept(self, row: int, keys: list[str], *, masked: bool) -> list[str]:
        if masked and self._again(row):
            hidden = {*self._keys(self._scored.seen[row])} - {self.wanted[row]}
            keys = [key for key in keys if key not in hidden]
        return keys[:DEPTH]

    def _keys(self, items: NDArray[np.integer]) -> list[str]:
        return [self._data.items[int(item)].key for item in items]

    def _history(self, user: int) -> list[Past]:
        data, target = self._data, int(self._targets[user])
        first = max(int(data.starts[user]), target - HISTORY_MAX)
        return [
            Past(
                item_key=data.items[int(data.item[event])].key,
                event=data.event_names[kind] if (kind := int(data.event[event])) >= 0 else None,
                value=None if np.isnan(value := float(data.value[event])) else value,
                occurred_at=_EPOCH + timedelta(microseconds=int(data.occurred_at[event])),
            )
            for event in range(first, target)
        ]

    def _scores(self, row: int, *, masked: bool) -> FloatArray:
        """(N,)"""
        scores = self._scored.scores[row].copy()
        if masked:
            own = scores[self._scored.targets[row]]
            scores[self._scored.seen[row]] = -np.inf
            scores[self._scored.targets[row]] = own
        return scores

    def _overlap(self, scores: FloatArray, keys: Sequence[str]) -> float:
        best = min(DEPTH, int(np.isfinite(scores).sum()))
        if not best:
            return 1.0
        least = np.partition(scores, len(scores) - best)[len(scores) - best]
        rows = self._data.item_index
        right = sum(key in rows and scores[rows[key]] >= least - TIE for key in keys)
        return min(1.0, right / best)
