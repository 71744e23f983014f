"""How well an encoder ranks what users did next: leave-one-out, full ranking, exact.

A user's target is ranked among all items of the catalogue, once with the items of the history
taken out (`recall@20`) and once with them in (`recall@20_unmasked`). A tie counts as half: an
encoder that scores all items alike gets the middle rank, never the first. Ranks are kept per user,
so that two encoders can be compared pairwise.

Shapes: B users of one chunk, U users asked about, N items, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from encoders import batches
from encoders import dataset as datasets
from encoders.batches import Batch
from encoders.dataset import Dataset, IntArray, Split
from encoders.errors import EncoderError
from encoders.types import Encoder, FloatArray, HistoryItem, ItemRecord, UserState

DEPTHS = (5, 10, 20)
CHUNK_ITEMS = 1_024
CHUNK_SCORES = 2**24  # users times items ranked together

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranks:
    """Per user the rank of the target, 1 being the best; halves come from ties."""

    users: IntArray  # (U,)
    masked: NDArray[np.float64]  # (U,)
    unmasked: NDArray[np.float64]  # (U,)

    def metrics(self) -> dict[str, float]:
        """The means of `values`; empty when nobody was asked about."""
        if not len(self.users):
            return {}
        return {name: float(value.mean()) for name, value in self.values().items()}

    def values(self) -> dict[str, NDArray[np.float64]]:
        """recall@k and ndcg@k of each user (U,), masked and `_unmasked`."""
        named = (("", self.masked), ("_unmasked", self.unmasked))
        return {
            f"{metric}@{depth}{suffix}": value(ranks, depth)
            for suffix, ranks in named
            for depth in DEPTHS
            for metric, value in (("recall", hits), ("ndcg", gains))
        }


def hits(ranks: NDArray[np.float64], depth: int) -> NDArray[np.float64]:
    return (ranks <= depth).astype(np.float64)


def gains(ranks: NDArray[np.float64], depth: int) -> NDArray[np.float64]:
    return np.where(ranks <= depth, 1 / np.log2(ranks + 1), 0.0)


def rank(
    scores: FloatArray, targets: NDArray[np.integer], seen: Sequence[NDArray[np.integer]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Masked and unmasked ranks of one target per row of scores (B, N). An item that the user saw
    before and is the target again stays in."""
    rows = np.arange(len(scores))
    own = scores[rows, targets][:, None]  # (B, 1)
    better = (scores > own).astype(np.float32) + (scores == own) * np.float32(0.5)  # (B, N)
    unmasked = better.sum(axis=1, dtype=np.float64) + 0.5
    for row, items in enumerate(seen):
        better[row, items] = 0
    better[rows, targets] = 0.5
    return better.sum(axis=1, dtype=np.float64) + 0.5, unmasked


class Scorer(Protocol):
    """Scores of all items for users whose history is given as arrays."""

    @property
    def history(self) -> int:
        """How many of the newest events it reads."""
        ...

    def __call__(self, batch: Batch) -> FloatArray:
        """(B, N) for a batch of one target each, which must not be looked at."""
        ...


def rank_by(
    scorer: Scorer,
    data: Dataset,
    targets: IntArray,
    *,
    among: NDArray[np.bool_] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Ranks:
    """As `rank_with`, for what reads arrays: all items are scored by each call, and those ranked
    that `among` (N,) names, or all. It must name the targets."""
    users = asked_users(targets, limit, seed)
    masked, unmasked = np.zeros(len(users)), np.zeros(len(users))
    together = min(256, max(1, CHUNK_SCORES // max(1, len(data.items))))
    for start in range(0, len(users), together):
        chunk = users[start : start + together]
        spans = batches.asked(data, targets[chunk])
        scores = scorer(batches.gather(data, spans, history=scorer.history))
        if among is not None:
            scores = np.where(among, scores, -np.inf)
        part = slice(start, start + len(chunk))
        masked[part], unmasked[part] = rank(
            scores, data.item[targets[chunk]], [_seen(data, targets, u) for u in chunk]
        )
    return Ranks(users=users, masked=masked, unmasked=unmasked)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over users, and where it lies with some confidence."""

    mean: float
    low: float
    high: float


def paired_interval(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    *,
    resamples: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean difference of per-user values (U,), the same users in the same order, with its
    bootstrap interval: users are drawn again with replacement, both values of one together."""
    difference = ours - theirs
    return mean_interval(difference, resamples=resamples, level=level, seed=seed)


def mean_interval(
    values: NDArray[np.float64], *, resamples: int = 2_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The mean of per-user values (U,) with its bootstrap interval."""
    return mean_intervals(values[:, None], resamples=resamples, level=level, seed=seed)[0]


def mean_intervals(
    values: NDArray[np.float64], *, resamples: int = 2_000, level: float = 0.95, seed: int = 0
) -> list[Interval]:
    """The same for M values of each user (U, M), each by the same draws."""
    rng = np.random.default_rng(seed)
    count = len(values)
    drawn = np.empty((resamples, values.shape[1]))
    for row in drawn:
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        row[:] = times @ values / count
    lows, highs = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [
        Interval(mean=float(mean), low=float(low), high=float(high))
        for mean, low, high in zip(values.mean(axis=0), lows, highs, strict=True)
    ]


def rank_with(
    encoder: Encoder, split: Split, targets: IntArray, *, limit: int | None = None, seed: int = 0
) -> Ranks:
    """Ranks of the target events (U of all users; -1: none) by this encoder, for at most `limit`
    users drawn with the seed. A user's history is everything before the target."""
    users = asked_users(targets, limit, seed)
    masked, unmasked = np.zeros(len(users)), np.zeros(len(users))
    done = 0
    for one in scored_with(encoder, split, targets, users):
        part = slice(done, done := done + len(one.users))
        masked[part], unmasked[part] = one.ranks()
    return Ranks(users=users, masked=masked, unmasked=unmasked)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Some users, the scores of all items for each, and what each saw before the target."""

    users: IntArray  # (B,)
    scores: FloatArray  # (B, N)
    targets: NDArray[np.integer]  # (B,) items
    seen: Sequence[NDArray[np.integer]]  # B times items

    def ranks(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As `rank`."""
        return rank(self.scores, self.targets, self.seen)


def scored_with(
    encoder: Encoder, split: Split, targets: IntArray, users: IntArray
) -> Iterator[Scored]:
    """These users in order, some at a time, scored by the encoder without any index."""
    dataset, _ = datasets.readable(split.dataset)
    catalogue = _Catalogue(encoder, dataset.items)
    together = min(256, max(1, CHUNK_SCORES // max(1, len(dataset.items))))
    for start in range(0, len(users), together):
        chunk = users[start : start + together]
        states = [catalogue.state(dataset, int(u), int(targets[u])) for u in chunk]
        yield Scored(
            users=chunk,
            scores=catalogue.scores(encoder, states),
            targets=dataset.item[targets[chunk]],
            seen=[_seen(dataset, targets, u) for u in chunk],
        )


def asked_users(targets: IntArray, limit: int | None = None, seed: int = 0) -> IntArray:
    """The users whom something is asked of, at most `limit` of them, drawn with the seed."""
    users = np.flatnonzero(targets >= 0)
    if limit is not None and len(users) > limit:
        users = np.sort(np.random.default_rng(seed).choice(users, limit, replace=False))
    return users


def rank_by_popularity(
    split: Split, targets: IntArray, *, limit: int | None = None, seed: int = 0
) -> Ranks:
    """What everybody gets who recommends the most frequent items to everybody."""
    users = asked_users(targets, limit, seed)
    dataset = split.dataset
    counts = popularity(split)
    masked, unmasked = np.zeros(len(users)), np.zeros(len(users))
    for row, user in enumerate(users):
        masked[row : row + 1], unmasked[row : row + 1] = rank(
            counts[None], dataset.item[targets[[user]]], [_seen(dataset, targets, user)]
        )
    return Ranks(users=users, masked=masked, unmasked=unmasked)


def popularity(split: Split) -> FloatArray:
    """(N,): how many training events each item has."""
    events = split.dataset.item[split.train]
    return np.bincount(events, minlength=len(split.dataset.items)).astype(np.float32)


class _Catalogue:
    """All items as the encoder sees them: what a vector store would hold."""

    def __init__(self, encoder: Encoder, items: Sequence[ItemRecord]) -> None:
        self._limit = encoder.history.limit
        names = {spec.name for spec in encoder.vectors if not spec.sparse}
        parts: dict[str, list[FloatArray]] = {name: [] for name in names}
        self._payload: list[Mapping[str, object]] = []
        for start in range(0, len(items), CHUNK_ITEMS):
            encoded = encoder.encode_items(items[start : start + CHUNK_ITEMS])
            for name in names:
                parts[name].append(cast(FloatArray, encoded.vectors[name]))
            self._payload.extend(encoded.payload)
        self._vectors = {name: np.concatenate(part) for name, part in parts.items()}

    def state(self, dataset: Dataset, user: int, target: int) -> UserState:
        first = max(int(dataset.starts[user]), target - self._limit)
        return UserState(
            features=dataset.user_records[user],
            history=[self._event(dataset, number) for number in range(first, target)],
        )

    def scores(self, encoder: Encoder, states: Sequence[UserState]) -> FloatArray:
        """(B, N)"""
        queries = encoder.encode_users(states)
        names = {query.vector for query in queries}
        if len(names) != 1 or not names <= set(self._vectors):
            raise EncoderError(f"{encoder.family} asks for {names}: cannot be evaluated yet")
        vectors = self._vectors[names.pop()]
        return np.stack([cast(FloatArray, query.values) for query in queries]) @ vectors.T

    def _event(self, dataset: Dataset, number: int) -> HistoryItem:
        item, event, value = (
            int(dataset.item[number]),
            int(dataset.event[number]),
            float(dataset.value[number]),
        )
        return HistoryItem(
            key=dataset.items[item].key,
            vectors={name: vectors[item] for name, vectors in self._vectors.items()},
            payload=self._payload[item] if self._payload else {},
            event=dataset.event_names[event] if event >= 0 else None,
            value=None if np.isnan(value) else value,
            occurred_at=_EPOCH + timedelta(microseconds=int(dataset.occurred_at[number])),
        )


def _seen(dataset: Dataset, targets: IntArray, user: int) -> NDArray[np.integer]:
    return dataset.item[dataset.starts[user] : targets[user]]
