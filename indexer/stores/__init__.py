"""Vector stores: one protocol, a handful of verbs, two adapters (`qdrant`, `edge`).

Every write carries the fence of the claim it belongs to and changes an existing point only where
the stored fence is lower. A deleted item whose writer may still be out there keeps a tombstone: a
point without vectors that no verb shows, and that only a higher fence replaces. A write has been
accepted by the store when the verb returns, and is durable after `flush`. Errors are
StoreUnavailable (an outage: try later), StoreRejected (these points or this query are wrong:
bisect) and the other StoreErrors; no client's own error escapes.
"""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from encoders.types import FloatArray, SparseVector, VectorSpec
from indexer.filters import FieldKind, Filter

KEY_FIELD = "_key"  # the item's key, as its catalog writes it; keyword-indexed
VERSION_FIELD = "_version"  # `wanted` at the claim that wrote the point
FENCE_FIELD = "_fence"  # the fence of that claim; integer-indexed
GONE_FIELD = "_gone"  # true in a tombstone, which has nothing else but a fence; bool-indexed
CONTENT_FIELD = "_content"  # hex hash of the features that its vectors were made of

METADATA_FORMAT = 1  # of what an index keeps with its collection, for retrievers

NAMESPACE = uuid.UUID("9f0f2a3e-6b2c-5d0c-9a53-6f1d8a6f7d11")

Vector = FloatArray | SparseVector


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A physical collection and the catalog whose keys its point ids are made of."""

    name: str
    catalog: str

    def point_id(self, key: str) -> str:
        """uuid5(catalog, key): the same item has the same id in every index of its catalog."""
        return str(_uuid5(_namespace(self.catalog), key))


@functools.cache
def _namespace(catalog: str) -> bytes:
    return _uuid5(NAMESPACE.bytes, catalog).bytes


def _uuid5(namespace: bytes, name: str) -> uuid.UUID:
    """uuid.uuid5, also for names with lone surrogates: no item has them, but anyone may ask."""
    digest = hashlib.sha1(namespace + name.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    return uuid.UUID(bytes=digest.digest()[:16], version=5)


@dataclass(frozen=True, kw_only=True)
class CollectionSpec:
    """What a collection must be. `fields` are the filterable payload fields; `metadata` is kept
    with the collection and says what a retriever needs (encoder id and uri, index id, catalog)."""

    collection: Collection
    vectors: tuple[VectorSpec, ...]
    fields: Mapping[str, FieldKind]
    metadata: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class CollectionStatus:
    """What a collection is. `indexed` is False while a search may have to scan unindexed vectors
    that are beyond the size for which a scan is fine. `payload_indexes` are those that the engine
    has in fact, our own fields' included; None for an engine that keeps none."""

    spec: CollectionSpec
    points: int
    indexed: bool
    payload_indexes: Mapping[str, FieldKind] | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """An item to write: all of its vectors and its whole payload, reserved fields included."""

    key: str
    vectors: Mapping[str, Vector]
    payload: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class StoredPoint:
    """An item as it lies in the store; vectors only where they were asked for."""

    key: str
    vectors: Mapping[str, Vector] = field(default_factory=dict[str, Vector])
    payload: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search: the best `limit` points by dot product with the named vector, under `where`,
    without the items in `exclude`. `exact` forces a full scan."""

    vector: str
    values: Vector
    limit: int
    where: Filter | None = None
    exclude: Sequence[str] = ()  # keys
    payload: bool | Sequence[str] = True  # all fields, none, or these
    exact: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoredPoint:
    key: str
    score: float
    payload: Mapping[str, object]


WriteMode = Literal["upsert", "update_only"]


class VectorStore(Protocol):
    """Safe for several threads of one process."""

    @property
    def name(self) -> str:
        """For messages: "Qdrant at http://...", "Qdrant Edge in /path"; never a secret."""
        ...

    def ensure_collection(self, spec: CollectionSpec) -> None:
        """The collection exists with these vectors and payload indexes, made before any point.
        Raises CollectionMismatch when one of that name has other vectors or belongs to another
        encoder; adds payload indexes that are missing."""
        ...

    def adapt_collection(self, spec: CollectionSpec) -> None:
        """As `ensure_collection` where it exists; raises CollectionMissing where it does not."""
        ...

    def status(self, name: str) -> CollectionStatus:
        """Raises CollectionMissing."""
        ...

    def vectors_of(self, name: str) -> tuple[VectorSpec, ...]:
        """The named vectors of a collection, whoever made it. Raises CollectionMissing."""
        ...

    def collections(self) -> list[str]: ...

    def drop_collection(self, name: str) -> None:
        """Gone afterwards, also when it never was. Raises StoreError while an alias names it."""
        ...

    def write_if_newer(
        self, collection: Collection, points: Sequence[Point], *, fence: int, mode: WriteMode
    ) -> None:
        """Each point is stored whole, unless its stored fence is `fence` or higher. "update_only"
        creates nothing, so that a late writer cannot bring a deleted item back."""
        ...

    def set_payload_if_newer(
        self, collection: Collection, payloads: Mapping[str, Mapping[str, object]], *, fence: int
    ) -> None:
        """key -> whole new payload; vectors stay. Unknown keys are left unknown."""
        ...

    def delete_if_newer(self, collection: Collection, keys: Sequence[str], *, fence: int) -> None:
        """Those whose stored fence is lower are gone, tombstones included."""
        ...

    def bury_if_newer(self, collection: Collection, keys: Sequence[str], *, fence: int) -> None:
        """Each key has a tombstone, unless its stored fence is `fence` or higher: a write of a
        lower fence that arrives later, a first insert included, finds it and does nothing."""
        ...

    def flush(self, collection: Collection) -> None:
        """Everything accepted before is durable afterwards."""
        ...

    def search(self, collection: Collection, searches: Sequence[Search]) -> list[list[ScoredPoint]]:
        """One list per search, best first; ties in no stated order. An empty batch gives []."""
        ...

    def fetch(
        self,
        collection: Collection,
        keys: Sequence[str],
        *,
        vectors: Sequence[str] = (),
        payload: bool | Sequence[str] = True,
    ) -> dict[str, StoredPoint]:
        """key -> point, for those that exist."""
        ...

    def scroll(
        self,
        collection: Collection,
        *,
        where: Filter | None = None,
        vectors: Sequence[str] = (),
        payload: bool | Sequence[str] = True,
        batch: int = 1_000,
        after: str | None = None,
    ) -> Iterator[list[StoredPoint]]:
        """Every point once, in batches, in the order of point ids; with `after` (a key, whether or
        not it has a point) only those behind that item's."""
        ...

    def count(self, collection: Collection, where: Filter | None = None) -> int:
        """Exact."""
        ...

    def last_fence(self, collection: Collection) -> int:
        """The highest fence that a write has left, tombstones included; 0 when there is none."""
        ...

    def optimize(self, collection: Collection) -> None:
        """Searches are as fast as they get afterwards; reads and writes go on meanwhile."""
        ...

    def aliases(self) -> dict[str, str]:
        """alias -> collection name."""
        ...

    def point_alias(self, alias: str, name: str) -> None:
        """The alias names that collection, switched in one step and verified. Raises
        CollectionMissing for an unknown collection, StoreError for an alias that is a
        collection's name."""
        ...

    def drop_alias(self, alias: str) -> None: ...

    def close(self) -> None: ...
