"""From records to columns of numbers: what every family does with features before its tower.

A pipeline is fitted once, on all items and users, and kept with the encoder. Categories become
rows of a table: the known values of a vocabulary, then reserved buckets into which unknown values
are hashed (BLAKE2b: the same in every process). Texts become bags of words the same way, and stay
texts for a frozen text model. Numbers are scaled by quantiles. A missing value is an empty bag, a
NaN or an empty text; it never becomes a number that could be mistaken for a value.

Items and users share the vocabulary (and so the table) of a feature that has the same name and
kind on both sides. This module imports no torch.

Shapes: N records, V known values, K pieces of a number.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from encoders import values
from encoders.types import Feature, FloatArray

VALUES = 64  # of a multi-valued feature, the most frequent ones first
PIECES = 8  # intervals of a number, each with as many training values
REMEMBERED = 100_000  # unknown values whose bucket is kept in memory
_WORDS = "words:"
SHARED_BY, SHARED_SHARE = 5, 0.001  # a word is shared that so many records have, at least
DESCRIBING = 2 / 3  # so much of what a feature's texts say is shared, where they describe

Words = Literal["none", "all", "shared"]  # those of texts that are read as bags, as values are


def stable_hash(value: str, seed: str = "") -> int:
    """64 bits that depend on the value only, not on process, platform or release."""
    digest = hashlib.blake2b(
        value.encode("utf-8", "surrogatepass"), digest_size=8, person=seed.encode()[:16]
    )
    return int.from_bytes(digest.digest(), "little")


@dataclass(frozen=True, kw_only=True, eq=False)
class Bag:
    """N sets of table rows: those of record i are ids[starts[i]:starts[i + 1]], ascending."""

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]  # (N + 1,)

    def take(self, rows: NDArray[np.int64]) -> Bag:
        """The sets of these records, in this order."""
        counts = (self.starts[1:] - self.starts[:-1])[rows]
        starts = np.concatenate(([0], np.cumsum(counts)))
        inner = np.arange(int(starts[-1])) - np.repeat(starts[:-1], counts)
        return Bag(ids=self.ids[np.repeat(self.starts[rows], counts) + inner], starts=starts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """N records, feature by feature. Missing: an empty bag, NaN, ""."""

    rows: int
    bags: Mapping[str, Bag]  # category, categories, and words of text where words are read
    numbers: Mapping[str, FloatArray]  # (N,)
    texts: Mapping[str, Sequence[str]]


class Vocabulary:
    """Known values are rows 0..V-1, the most frequent first; V.. are the buckets of the others."""

    def __init__(self, values: Sequence[str], buckets: int) -> None:
        assert buckets > 0, f"unknown values need at least one bucket, not {buckets}"
        self.values = tuple(values)
        self.buckets = buckets
        self._rows = {value: row for row, value in enumerate(values)}
        self._unknown: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.values) + self.buckets

    def row(self, value: str) -> int:
        row = self._rows.get(value)
        return self._bucket(value) if row is None else row

    def alias_rows(self) -> NDArray[np.int64]:
        """(V + buckets,): the bucket each row would have if it were unknown; its own for buckets.
        Training swaps rows for it now and then, so that buckets learn something."""
        known = [len(self.values) + stable_hash(v) % self.buckets for v in self.values]
        return np.asarray([*known, *range(len(self.values), len(self))], dtype=np.int64)

    def _bucket(self, value: str) -> int:
        row = self._unknown.get(value)
        if row is None:
            if len(self._unknown) >= REMEMBERED:
                self._unknown.clear()
            row = len(self.values) + stable_hash(value) % self.buckets
            self._unknown[value] = row
        return row


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How a number becomes K + 1 of them: how far it is through each of K intervals that hold
    equally many training values, and where it lies among them all (median 0, quartiles about
    ±0.7, never beyond ±4). Robust: one absurd value moves nothing."""

    edges: tuple[float, ...]  # ascending, distinct; at least two
    median: float
    spread: float

    @property
    def width(self) -> int:
        return len(self.edges)

    def encode(self, values: FloatArray) -> FloatArray:
        """(N,) -> (N, K + 1); rows of NaN where the value is missing."""
        exact = np.clip(values.astype(np.float64), -1e300, 1e300)[:, None]  # (N, 1)
        low, high = np.asarray(self.edges[:-1]), np.asarray(self.edges[1:])
        pieces = np.clip((exact - low) / (high - low), 0, 1)
        place = np.clip((exact - self.median) / self.spread, -4, 4)
        return np.concatenate((place, pieces), axis=1).astype(np.float32)  # (N, K + 1)

    def to_json(self) -> dict[str, Any]:
        return {"edges": list(self.edges), "median": self.median, "spread": self.spread}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Scale:
        """Raises ValueError for what `fit_scale` never makes."""
        edges = tuple(float(edge) for edge in stored["edges"])
        median, spread = float(stored["median"]), float(stored["spread"])
        sane = len(edges) >= 2 and all(low < high for low, high in itertools.pairwise(edges))
        if not sane or not all(map(math.isfinite, (*edges, median, spread))) or spread <= 0:
            raise ValueError("a scale of numbers that no numbers have")
        return Scale(edges=edges, median=median, spread=spread)


def fit_scale(values: FloatArray) -> Scale:
    """The scale of these values; missing and infinite ones are left out."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not len(known):
        return Scale(edges=(-1.0, 1.0), median=0.0, spread=1.0)
    quarter, median, three = (float(q) for q in np.quantile(known, (0.25, 0.5, 0.75)))
    spread = (three - quarter) / 1.35 or float(known.std()) or abs(median) or 1.0
    edges = np.unique(np.quantile(known, np.linspace(0, 1, PIECES + 1)).astype(np.float32))
    if len(edges) < 2:
        edges = np.asarray((median - spread, median + spread))
    return Scale(edges=tuple(float(e) for e in edges), median=median, spread=spread)


class Pipeline:
    """The features of one side, items or users, and how each is read."""

    def __init__(
        self,
        features: Sequence[Feature],
        vocabularies: Mapping[str, Vocabulary],
        scales: Mapping[str, Scale],
    ) -> None:
        self.features = tuple(sorted(features, key=lambda feature: feature.name))
        self.vocabularies = {
            table_of(f): vocabularies[table_of(f)]
            for f in self.features
            if f.kind != "number" and (f.kind != "text" or table_of(f) in vocabularies)
        }
        self.scales = {f.name: scales[f.name] for f in self.features if f.kind == "number"}

    @property
    def reads_words(self) -> bool:
        """Of at least one text."""
        return any(table.startswith(_WORDS) for table in self.vocabularies)

    def read(self, records: Sequence[values.Record]) -> Columns:
        """The columns of N records. Raises EncodeFailed naming the record and the feature whose
        value is of no use."""
        bags: dict[str, Bag] = {}
        numbers: dict[str, FloatArray] = {}
        texts: dict[str, Sequence[str]] = {}
        for feature in self.features:
            column = values.column(feature, records)
            if feature.kind == "number":
                numbers[feature.name] = np.asarray(column, dtype=np.float32)
            elif table_of(feature) in self.vocabularies:
                bags[feature.name] = _bag(feature, column, self.vocabularies[table_of(feature)])
            if feature.kind == "text":
                texts[feature.name] = cast("list[str]", column)
        return Columns(rows=len(records), bags=bags, numbers=numbers, texts=texts)


@dataclass(frozen=True, kw_only=True)
class Pipelines:
    """Both sides, fitted together; `vocabularies` are by table, so what is shared is there once."""

    items: Pipeline
    users: Pipeline

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        return {**self.items.vocabularies, **self.users.vocabularies}


def said(features: Sequence[Feature], records: Sequence[values.Record]) -> tuple[Feature, ...]:
    """Those of the features that at least one of the records says anything of."""

    def says(cell: Any) -> bool:
        return not math.isnan(cell) if isinstance(cell, float) else bool(cell)

    return tuple(f for f in features if any(map(says, values.column(f, records))))


def fit(
    item_features: Sequence[Feature],
    items: Sequence[values.Record],
    user_features: Sequence[Feature],
    users: Sequence[values.Record],
    *,
    known: int,
    buckets: int,
    words: Words = "all",
) -> Pipelines:
    """Pipelines whose vocabularies hold at most `known` values each, the most frequent ones.

    With `words` "none" a text is a text only. With "shared" it has the words that several records
    share, where they are most of what it says, and all others are one: texts whose words are of few
    records name these, as titles of films do."""
    counts: dict[str, Counter[str]] = {}
    cells: Counter[str] = Counter()
    sides: list[tuple[Sequence[Feature], dict[str, Scale]]] = []
    for features, records in ((item_features, items), (user_features, users)):
        scales: dict[str, Scale] = {}
        for feature in features:
            column = values.column(feature, records)
            if feature.kind == "number":
                scales[feature.name] = fit_scale(np.asarray(column, dtype=np.float32))
            elif words != "none" or feature.kind != "text":
                counter = counts.setdefault(table_of(feature), Counter())
                counter.update(chain.from_iterable(map(_splitter(feature), column)))
                cells[table_of(feature)] += len(column)
        sides.append((features, scales))
    tables: dict[str, Vocabulary] = {}
    for table, counter in counts.items():
        if words == "all" or not table.startswith(_WORDS):
            tables[table] = Vocabulary(_most_frequent(counter, known), buckets)
        elif shared := _shared(counter, records=cells[table]):
            tables[table] = Vocabulary(_most_frequent(shared, known), buckets=1)
    item_side, user_side = (Pipeline(features, tables, scales) for features, scales in sides)
    return Pipelines(items=item_side, users=user_side)


def to_json(pipelines: Pipelines) -> dict[str, Any]:
    """All that was fitted, for `from_json`; surrogates survive ASCII JSON."""
    return {
        "vocabularies": {
            table: {"values": list(vocabulary.values), "buckets": vocabulary.buckets}
            for table, vocabulary in pipelines.vocabularies.items()
        },
        "scales": [
            {name: scale.to_json() for name, scale in side.scales.items()}
            for side in (pipelines.items, pipelines.users)
        ],
    }


def from_json(
    stored: Mapping[str, Any], item_features: Sequence[Feature], user_features: Sequence[Feature]
) -> Pipelines:
    """Raises KeyError, TypeError or ValueError for what `to_json` never writes."""
    vocabularies = {
        table: _vocabulary(one["values"], one["buckets"])
        for table, one in stored["vocabularies"].items()
    }
    items, users = (
        Pipeline(
            features,
            vocabularies,
            {name: Scale.from_json(s) for name, s in scales.items()},
        )
        for features, scales in zip((item_features, user_features), stored["scales"], strict=True)
    )
    return Pipelines(items=items, users=users)


def _vocabulary(values: object, buckets: object) -> Vocabulary:
    known = cast("list[object]", values)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in known):
        raise TypeError("a vocabulary is a list of texts")
    if isinstance(buckets, bool) or not isinstance(buckets, int) or not 0 <= buckets < 2**24:
        raise ValueError("a vocabulary has no such number of buckets")
    return Vocabulary(cast("list[str]", values), buckets)


def table_of(feature: Feature) -> str:
    """The name of the table that the feature's rows belong to: one for both sides, one for
    `category` and `categories` of the same name, another for words."""
    return f"{_WORDS if feature.kind == 'text' else 'values:'}{feature.name}"


def _shared(counter: Counter[str], *, records: int) -> Counter[str]:
    """Nothing where they are too little of all that is said."""
    least = max(SHARED_BY, math.ceil(SHARED_SHARE * records))
    shared = Counter({word: count for word, count in counter.items() if count >= least})
    return shared if shared.total() >= DESCRIBING * counter.total() else Counter()


def _splitter(feature: Feature) -> Callable[[Any], Sequence[str]]:
    return values.words if feature.kind == "text" else tuple


def _most_frequent(counter: Counter[str], limit: int) -> list[str]:
    """By falling count, then by value: the order of the records must not show."""
    return [value for value, _ in sorted(counter.items(), key=lambda one: (-one[1], one[0]))][
        :limit
    ]


def _bag(feature: Feature, column: Sequence[Any], vocabulary: Vocabulary) -> Bag:
    """Ascending rows: the order of values cannot show, and the first VALUES are the most
    frequent known ones."""
    split, row = _splitter(feature), vocabulary.row
    sets = [sorted({row(value) for value in split(cell)})[:VALUES] for cell in column]
    starts = np.fromiter(accumulate(map(len, sets), initial=0), np.int64, len(sets) + 1)
    return Bag(ids=np.fromiter(chain.from_iterable(sets), np.int64, int(starts[-1])), starts=starts)
