"""The seam between the towers and everything else: records and arrays in, vectors out.

Encoders never see a connection, stores never see a model. Everything is a batch. This module
imports no torch, so that the command line and the watcher stay light.

Shapes: B users, N items, L history length, D vector width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FeatureKind = Literal["category", "categories", "number", "text"]
FEATURE_KINDS: tuple[FeatureKind, ...] = ("category", "categories", "number", "text")

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One field of an item or a user that a tower reads.

    `category` is one str (numbers and bools are taken by their text), `categories` a list of
    them, `number` a finite float, `text` free text. A missing feature is None or absent.
    """

    name: str
    kind: FeatureKind


@dataclass(frozen=True, kw_only=True)
class VectorSpec:
    """One named vector that an encoder writes per item. `dimension` is None for a sparse one."""

    name: str
    dimension: int | None

    @property
    def sparse(self) -> bool:
        return self.dimension is None


@dataclass(frozen=True, kw_only=True)
class SparseVector:
    """Non-zero entries of a sparse vector; `indices` ascend, each once, as many as `values`."""

    indices: NDArray[np.uint32]
    values: FloatArray


@dataclass(frozen=True, kw_only=True)
class ItemRecord:
    """An item as the item tower sees it: feature name -> value (None or absent = missing)."""

    key: str
    features: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class EncodedItems:
    """What the item tower says about N records, in their order.

    `vectors` maps a vector's name to (N, D) float32, or to N sparse vectors. `payload` holds N
    mappings of the encoder's `payload_fields`, all of them in each, or is empty when it has none.
    """

    vectors: Mapping[str, FloatArray | Sequence[SparseVector]]
    payload: Sequence[Mapping[str, object]] = ()


@dataclass(frozen=True, kw_only=True)
class HistoryItem:
    """One past event of a user, its item as it lies in the index right now."""

    key: str
    vectors: Mapping[str, FloatArray]  # name -> (D,)
    payload: Mapping[str, object] = field(default_factory=dict[str, object])
    event: str | None = None  # "view", "click", "purchase", "rating", ...
    value: float | None = None  # the rating, where the event has one
    occurred_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class UserState:
    """A user as the user tower sees it. `history` is oldest first and may be empty."""

    features: Mapping[str, object]
    history: Sequence[HistoryItem]


@dataclass(frozen=True, kw_only=True)
class UserQuery:
    """What to ask the store for one user: the best items by dot product with this named vector."""

    vector: str
    values: FloatArray | SparseVector  # (D,) float32, or sparse


@dataclass(frozen=True, kw_only=True)
class HistoryNeeds:
    """What the user tower wants fetched for each history item, and how many events it reads."""

    vectors: tuple[str, ...]
    payload: tuple[str, ...] = ()
    limit: int = 50  # the newest events; older ones are not fetched


class Encoder(Protocol):
    """A trained pair of towers. Deterministic: the same record gives the same vectors, whatever
    else is in its batch (to float tolerance), and whichever process runs it. Not thread-safe unless
    the family says so; callers hold one per thread or a lock."""

    @property
    def family(self) -> str: ...

    @property
    def vectors(self) -> tuple[VectorSpec, ...]: ...

    @property
    def payload_fields(self) -> tuple[str, ...]:
        """Payload fields that it stores with each item beside the vectors: values that JSON can
        say, made of the same features. Their names start with `_` and the family's name."""
        ...

    @property
    def item_features(self) -> tuple[Feature, ...]: ...

    @property
    def user_features(self) -> tuple[Feature, ...]: ...

    @property
    def history(self) -> HistoryNeeds: ...

    @property
    def similar_vector(self) -> str:
        """The dense vector whose dot product means "items like this one"."""
        ...

    def encode_items(self, records: Sequence[ItemRecord]) -> EncodedItems:
        """Vectors for N records. Raises EncodeFailed (or anything) when one of them is unusable:
        the caller bisects and asks again. Dense vectors come L2-normalised unless the family says
        otherwise, because collections compare by dot product."""
        ...

    def encode_users(self, states: Sequence[UserState]) -> list[UserQuery]:
        """One query per state, in order. A state without history or features still gets one."""
        ...


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """What `encoder.json` says: everything that is known of an encoder without loading it.

    `id` is the hex digest of the artifact's files, `uri` the folder that holds them.
    """

    id: str
    family: str
    uri: str
    vectors: tuple[VectorSpec, ...]
    item_features: tuple[Feature, ...]
    user_features: tuple[Feature, ...]
    history: HistoryNeeds
    facts: Mapping[str, object]  # training data, seed, durations
    metrics: Mapping[str, float]
    created_at: datetime
