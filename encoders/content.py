"""Content towers: what an item says about itself, and the mean of what a user liked. No training.

One unit vector `content` per item, in blocks that never mix: frozen text embeddings, a signed hash
of its categories weighted by rarity, its numbers by where they lie in the catalogue, and one last
entry for an item of which nothing is known (it is like no other). Each block is a unit vector
times the square root of its weight, so a dot product is the weighted mean of the blocks' cosines.
A user is the recency-weighted mean of the history's vectors; without a history, the mean of what
is popular. Works on day one, with no events and even before the first item, and is the baseline
that a trained tower must beat on cold items.

Shapes: B users, N items, D width of the vector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from encoders import features, text
from encoders.errors import EncodeFailed, TrainingFailed
from encoders.features import Bag, Columns, Pipeline, Pipelines
from encoders.options import require
from encoders.text import FrozenText
from encoders.types import (
    EncodedItems,
    Feature,
    FloatArray,
    HistoryNeeds,
    ItemRecord,
    UserQuery,
    UserState,
    VectorSpec,
)

FAMILY = "content"
CONFIGS: Mapping[str, Mapping[str, object]] = {"full": {}}  # there is but one
VECTOR = "content"
CHUNK = 1_024  # items encoded together while fitting
FEWEST_TEXTS = 10  # whose mean says something; with fewer none is taken off
_GOLDEN = 0x9E3779B97F4A7C15
SAMPLE = 10_000  # items that the mean text is taken from

_BOUNDS = {
    **dict.fromkeys(("text_weight", "category_weight", "number_weight"), (0, 1_000)),
    **dict.fromkeys(("text_width", "category_width", "number_width", "history"), (1, 4_096)),
    "vocabulary": (1, 10_000_000),
    "half_life": (0.1, 1e6),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Weights say how much of the likeness of two items each kind decides."""

    text_model: str = text.DEFAULT
    text_weight: float = 0.5
    category_weight: float = 0.4
    number_weight: float = 0.1
    text_width: int = 256  # wider text vectors are projected to it
    category_width: int = 96
    number_width: int = 32
    vocabulary: int = 100_000  # values per feature whose rarity is known; others count as rare
    history: int = 50  # newest events read
    half_life: float = 10.0  # events after which an event counts half

    def __post_init__(self) -> None:
        require(self, _BOUNDS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """What is fitted: `rarity` per table, one weight per row; `mean_text` (text width), taken off
    each text so that what all have in common does not count; `centre` (D,), for users without a
    history."""

    rarity: Mapping[str, FloatArray]
    mean_text: FloatArray
    centre: FloatArray


class ContentEncoder:
    """Implements encoders.types.Encoder. Not thread-safe: the text model is shared state."""

    family = FAMILY
    similar_vector = VECTOR
    payload_fields: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        config: Config,
        pipeline: Pipeline,
        frozen: FrozenText | None,
        statistics: Statistics,
    ) -> None:
        self.config = config
        self.item_features = pipeline.features
        self.user_features: tuple[Feature, ...] = ()
        self.history = HistoryNeeds(vectors=(VECTOR,), limit=config.history)
        self.pipeline = pipeline
        self._frozen = frozen
        self._statistics = statistics

    @property
    def vectors(self) -> tuple[VectorSpec, ...]:
        return (VectorSpec(name=VECTOR, dimension=self._width),)

    def encode_items(self, records: Sequence[ItemRecord]) -> EncodedItems:
        columns = self.pipeline.read([(f"item {r.key!r}", r.features) for r in records])
        vectors = self._assemble(columns)
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            raise EncodeFailed(f"item {records[int(bad.argmax())].key!r}: no finite vector")
        return EncodedItems(vectors={VECTOR: vectors})

    def encode_users(self, states: Sequence[UserState]) -> list[UserQuery]:
        return [UserQuery(vector=VECTOR, values=self._user(state)) for state in states]

    def write(self, folder: Path) -> None:
        stored = features.to_json(Pipelines(items=self.pipeline, users=Pipeline((), {}, {})))
        (folder / "vocabularies.json").write_text(json.dumps(stored), encoding="ascii")
        tensors = {f"rarity.{name}": row for name, row in self._statistics.rarity.items()}
        tensors |= {"mean_text": self._statistics.mean_text, "centre": self._statistics.centre}
        cast(Any, safetensors.numpy).save_file(tensors, folder / "model.safetensors")
        if self._frozen is not None:
            (folder / "text").mkdir()
            self._frozen.write(folder / "text")

    def check(self) -> None:
        """Raises ValueError when statistics and vocabularies are not of one fit."""
        rows = {table: (len(known),) for table, known in self.pipeline.vocabularies.items()}
        found = {table: rarity.shape for table, rarity in self._statistics.rarity.items()}
        if any(rows.get(table) != shape for table, shape in found.items()):
            raise ValueError(f"rarity of shapes {found} for vocabularies of shapes {rows}")
        if self._statistics.centre.shape != (self._width,):
            raise ValueError(f"a centre of shape {self._statistics.centre.shape}")

    def mean_item(self, items: Sequence[ItemRecord], popularity: FloatArray) -> FloatArray:
        """(D,), of length one: the mean by popularity, or the plain mean where nothing is popular
        yet. Items that say nothing count for nothing."""
        weights = popularity if popularity.any() else np.ones(len(items), dtype=np.float32)
        total = np.zeros((1, self._width), dtype=np.float32)
        for start in range(0, len(items), CHUNK):
            part = self.encode_items(items[start : start + CHUNK]).vectors[VECTOR]
            total += weights[None, start : start + CHUNK] @ cast(FloatArray, part)
        total[0, -1] = 0.0 if total[0, :-1].any() else 1.0
        return unit(total)[0]

    @cached_property
    def _width(self) -> int:
        return 1 + sum(width for width, _ in self._blocks.values())

    @cached_property
    def _blocks(self) -> Mapping[str, tuple[int, float]]:
        """kind -> (width, weight) of the kinds that the catalogue has, in their order."""
        config, kinds = self.config, {feature.kind for feature in self.item_features}
        blocks: dict[str, tuple[int, float]] = {}
        if "text" in kinds and self._frozen is not None:
            blocks["text"] = (min(config.text_width, self._frozen.dimension), config.text_weight)
        if kinds & {"category", "categories"}:
            blocks["category"] = (config.category_width, config.category_weight)
        if "number" in kinds:
            blocks["number"] = (config.number_width, config.number_weight)
        return blocks

    def _assemble(self, columns: Columns) -> FloatArray:
        """(N, D): the blocks by weight, then 1 in the last entry where every block is empty."""
        make = {"text": self._texts, "category": self._categories, "number": self._numbers}
        parts = [
            unit(make[kind](columns)) * np.float32(weight**0.5)
            for kind, (_, weight) in self._blocks.items()
        ]
        parts.append(np.zeros((columns.rows, 1), dtype=np.float32))
        vectors = np.concatenate(parts, axis=1)  # (N, D)
        vectors[~vectors.any(axis=1), -1] = 1.0
        return unit(vectors)

    def _texts(self, columns: Columns) -> FloatArray:
        """(N, W): the mean over the item's text features, each without the catalogue's mean."""
        assert self._frozen is not None, "no text block without a text model"
        width, _ = self._blocks["text"]
        names = list(columns.texts)
        flat = self._frozen.encode([one for name in names for one in columns.texts[name]])
        present = flat.any(axis=1, keepdims=True)
        flat = unit((flat - self._statistics.mean_text) * present)
        total = flat.reshape(len(names), columns.rows, self._frozen.dimension).sum(
            axis=0
        )  # (N, text width)
        if width == total.shape[1]:
            return total
        return total @ _directions("text", np.arange(total.shape[1], dtype=np.uint64), width)

    def _categories(self, columns: Columns) -> FloatArray:
        """(N, W): each value is a fixed random direction as long as it is rare."""
        width, _ = self._blocks["category"]
        total = np.zeros((columns.rows, width), dtype=np.float32)
        for feature in self.item_features:
            if feature.kind in ("category", "categories"):
                table = self._tables[features.table_of(feature)]
                total += unit(_sums(columns.bags[feature.name], table))
        return total

    def _numbers(self, columns: Columns) -> FloatArray:
        """(N, W): where the number lies among the catalogue's, in a fixed random projection."""
        width, _ = self._blocks["number"]
        total = np.zeros((columns.rows, width), dtype=np.float32)
        for name, scale in self.pipeline.scales.items():
            pieces = np.nan_to_num(scale.encode(columns.numbers[name])[:, 1:] - 0.5)  # (N, K)
            seeds = np.arange(pieces.shape[1], dtype=np.uint64)
            total += unit(pieces.astype(np.float32) @ _directions(name, seeds, width))
        return total

    @cached_property
    def _tables(self) -> Mapping[str, FloatArray]:
        """(rows, W) per table of values. Directions hang on the value, not on its row."""
        width, _ = self._blocks["category"]
        tables: dict[str, FloatArray] = {}
        for table, rarity in self._statistics.rarity.items():
            vocabulary = self.pipeline.vocabularies[table]
            seeds = [*vocabulary.values, *(f"\0{i}" for i in range(vocabulary.buckets))]
            hashes = np.asarray([features.stable_hash(s) for s in seeds], dtype=np.uint64)
            tables[table] = _directions(table, hashes, width) * rarity[:, None]
        return tables

    def _user(self, state: UserState) -> FloatArray:
        known = [
            event.vectors[VECTOR]
            for event in state.history[-self.config.history :]
            if VECTOR in event.vectors and np.isfinite(event.vectors[VECTOR]).all()
        ]
        if not known:
            return self._statistics.centre.copy()
        ages = np.arange(len(known) - 1, -1, -1)
        weights = (0.5 ** (ages / self.config.half_life)).astype(np.float32)
        mean = weights @ np.stack(known)  # (D,)
        return unit(mean[None])[0] if np.linalg.norm(mean) > 1e-6 else known[-1].copy()


def fit(
    config: Config,
    items: Sequence[ItemRecord],
    item_features: Sequence[Feature],
    *,
    popularity: FloatArray,
    device: str = "cpu",
) -> ContentEncoder:
    """Towers for a catalogue that may still be empty; `popularity` (N,) counts events per item.
    Raises TrainingFailed when items have no features at all."""
    if not item_features:
        raise TrainingFailed("content needs at least one item feature; name some in the catalog")
    records = [(f"item {item.key!r}", item.features) for item in items]
    pipeline = features.fit(
        item_features, records, (), (), known=config.vocabulary, buckets=1_024, words="none"
    ).items
    columns = pipeline.read(records)
    readable = any(feature.kind == "text" for feature in item_features)
    frozen = text.load(config.text_model, device=device) if readable else None
    rarity = {
        features.table_of(feature): _rarity(
            columns.bags[feature.name], len(pipeline.vocabularies[features.table_of(feature)])
        )
        for feature in pipeline.features
        if feature.kind in ("category", "categories")
    }
    statistics = Statistics(
        rarity=rarity, mean_text=_mean_text(columns, frozen), centre=np.zeros(0, dtype=np.float32)
    )
    draft = ContentEncoder(config=config, pipeline=pipeline, frozen=frozen, statistics=statistics)
    return ContentEncoder(
        config=config,
        pipeline=pipeline,
        frozen=frozen,
        statistics=replace(statistics, centre=draft.mean_item(items, popularity)),
    )


def read(
    folder: Path,
    *,
    config: Config,
    item_features: tuple[Feature, ...],
    user_features: tuple[Feature, ...],
    device: str,
) -> ContentEncoder:
    """The encoder that `write` put there."""
    stored = json.loads((folder / "vocabularies.json").read_text(encoding="ascii"))
    tensors: dict[str, FloatArray] = cast(Any, safetensors.numpy).load_file(
        folder / "model.safetensors"
    )
    made = ContentEncoder(
        config=config,
        pipeline=features.from_json(stored, item_features, user_features).items,
        frozen=text.read(folder / "text", dimension=len(tensors["mean_text"]), device=device)
        if (folder / "text").is_dir()
        else None,
        statistics=Statistics(
            rarity={
                name.removeprefix("rarity."): tensor
                for name, tensor in tensors.items()
                if name.startswith("rarity.")
            },
            mean_text=tensors["mean_text"],
            centre=tensors["centre"],
        ),
    )
    made.check()
    return made


def _rarity(bag: Bag, rows: int) -> FloatArray:
    """(rows,): near 0 for a value that every item has, 1 for one that none has; never 0, so that
    a catalogue whose items all share a value still compares them by it."""
    items = len(bag.starts) - 1
    counts = np.bincount(bag.ids, minlength=rows)
    rarity = np.log((items + 2) / (counts + 1)) / np.log(items + 2)
    return np.maximum(rarity, 0.05).astype(np.float32)


def _mean_text(columns: Columns, frozen: FrozenText | None) -> FloatArray:
    """(text width,): the mean of the texts of items spread over the catalogue; 0 without any."""
    if frozen is None:
        return np.zeros(0, dtype=np.float32)
    step = max(1, columns.rows // SAMPLE)
    texts = [one for column in columns.texts.values() for one in column[::step] if one]
    if len(texts) < FEWEST_TEXTS:
        return np.zeros(frozen.dimension, dtype=np.float32)
    return frozen.encode(texts).mean(axis=0)


def _sums(bag: Bag, table: FloatArray) -> FloatArray:
    """(N, W): per set the sum of its rows of the table; 0 for an empty set."""
    total = np.zeros((len(bag.starts) - 1, table.shape[1]), dtype=np.float32)
    full = np.flatnonzero(np.diff(bag.starts))
    if len(full):
        total[full] = np.add.reduceat(table[bag.ids], bag.starts[full], axis=0)
    return total


def _directions(name: str, hashes: NDArray[np.uint64], width: int) -> FloatArray:
    """(V, width) of +1 and -1, one row per hash: as good as orthogonal, the same everywhere."""
    words = np.arange(-(-width // 64), dtype=np.uint64) * np.uint64(_GOLDEN)
    state = hashes[:, None] ^ np.uint64(features.stable_hash(name))
    state = state + words + np.uint64(_GOLDEN)  # wraps around, as splitmix64 wants
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = (state ^ (state >> np.uint64(31))).astype("<u8")
    bits = np.unpackbits(state.view(np.uint8), axis=1)[:, :width]
    return bits.astype(np.float32) * 2 - 1


def unit(vectors: FloatArray) -> FloatArray:
    """Rows of length one; rows of nothing stay 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6)
