"""A Qdrant server, or the client's in-memory mode in tests.

Nothing is sent before the first verb, so that a store may be made before a fork. Writes are waited
for (`wait=true`): the server has logged and applied them when a verb returns, and says so where a
point is wrong. Nothing is retried here: an outage raises StoreUnavailable.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from qdrant_client import models

from encoders.types import VectorSpec
from indexer.errors import (
    CollectionMissing,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)
from indexer.filters import Filter
from indexer.stores import (
    FENCE_FIELD,
    Collection,
    CollectionSpec,
    CollectionStatus,
    Point,
    ScoredPoint,
    Search,
    StoredPoint,
    WriteMode,
    mismatch,
    points,
    qdrant_collections,
    qdrant_filters,
    qdrant_points,
    qdrant_search,
    qdrant_server,
)
from indexer.stores.paths import can_exist, checked_name
from indexer.stores.qdrant_server import Server

BATCH_ITEMS = 512
BATCH_BYTES = 4_000_000
TIMEOUT_S = 10.0
OPTIMIZE_TIMEOUT_S = 3_600.0
POLL_S = 0.5
T = TypeVar("T")


class QdrantStore:
    """The vector store on a Qdrant server. Thread-safe; open it after a fork, or before any use."""

    def __init__(
        self,
        *,
        url: str,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        batch_bytes: int = BATCH_BYTES,
        ca_file: Path | None = None,
    ) -> None:
        server = qdrant_server.at(url, api_key=api_key, timeout_s=timeout_s, ca_file=ca_file)
        self._use(server, batch_bytes)

    @classmethod
    def in_memory(cls) -> QdrantStore:
        """The client's own in-memory mode: exact, slow, gone at the end. For tests."""
        store = cls.__new__(cls)
        store._use(qdrant_server.in_memory(), BATCH_BYTES)
        return store

    def _use(self, server: Server, batch_bytes: int) -> None:
        self._server = server
        self._batch_bytes = batch_bytes
        self._specs: dict[str, points.Specs] = {}  # of collections written or searched

    @property
    def name(self) -> str:
        return self._server.name

    # -- collections ------------------------------------------------------------------------

    def ensure_collection(self, spec: CollectionSpec) -> None:
        name = checked_name(spec.collection.name)
        if name in self.aliases():
            raise StoreError(f"{name!r} is an alias, so no collection can be called that.")
        if name not in self.collections():
            self._create(spec)
        self.adapt_collection(spec)

    def adapt_collection(self, spec: CollectionSpec) -> None:
        self._adapt(spec)
        self._specs.pop(spec.collection.name, None)

    def status(self, name: str) -> CollectionStatus:
        info = self._info(name)
        spec = qdrant_collections.spec_of(name, info)
        green = info.status == models.CollectionStatus.GREEN
        return CollectionStatus(
            spec=spec,
            points=self.count(spec.collection),
            indexed=green,
            payload_indexes=(
                None if self._server.local else qdrant_collections.payload_indexes(info)
            ),
        )

    def vectors_of(self, name: str) -> tuple[VectorSpec, ...]:
        return qdrant_collections.vectors(self._info(name))

    def collections(self) -> list[str]:
        with self._server.calling() as client:
            return sorted(one.name for one in client.get_collections().collections)

    def drop_collection(self, name: str) -> None:
        naming = sorted(alias for alias, target in self.aliases().items() if target == name)
        if naming:
            raise StoreError(f"collection {name!r} is not dropped: alias {naming[0]!r} names it.")
        self._specs.pop(name, None)
        if name in self.collections():
            with self._server.calling() as client:
                client.delete_collection(name)

    # -- writes -----------------------------------------------------------------------------

    def write_if_newer(
        self, collection: Collection, points: Sequence[Point], *, fence: int, mode: WriteMode
    ) -> None:
        specs = self._specs_of(collection.name)
        how = models.UpdateMode.UPDATE_ONLY if mode == "update_only" else models.UpdateMode.UPSERT
        built = [
            (
                qdrant_points.built(collection.point_id(point.key), point, fence, specs),
                qdrant_points.size(point),
            )
            for point in {point.key: point for point in points}.values()
        ]
        for batch in self._batches(built):
            with self._server.calling() as client:
                client.upsert(
                    collection.name,
                    batch,
                    wait=True,
                    update_filter=qdrant_filters.older_than(fence),
                    update_mode=how,
                )

    def set_payload_if_newer(
        self, collection: Collection, payloads: Mapping[str, Mapping[str, object]], *, fence: int
    ) -> None:
        built = [
            (_payload_update(collection, key, payload, fence), points.payload_bytes(payload) + 300)
            for key, payload in payloads.items()
        ]
        for batch in self._batches(built):
            with self._server.calling() as client:
                client.batch_update_points(collection.name, batch, wait=True)

    def delete_if_newer(self, collection: Collection, keys: Sequence[str], *, fence: int) -> None:
        ids = [(collection.point_id(key), 40) for key in dict.fromkeys(keys)]
        for batch in self._batches(ids):
            which = qdrant_filters.older_among(batch, fence)
            with self._server.calling() as client:
                client.delete(collection.name, models.FilterSelector(filter=which), wait=True)

    def bury_if_newer(self, collection: Collection, keys: Sequence[str], *, fence: int) -> None:
        buried = [
            (qdrant_points.tombstone(collection.point_id(key), fence), 150)
            for key in dict.fromkeys(keys)
        ]
        for batch in self._batches(buried):
            with self._server.calling() as client:
                client.upsert(
                    collection.name,
                    batch,
                    wait=True,
                    update_filter=qdrant_filters.older_than(fence),
                )

    def flush(self, collection: Collection) -> None:
        """Nothing to do: every write has been waited for, so the server has it in its log."""

    # -- reads ------------------------------------------------------------------------------

    def search(self, collection: Collection, searches: Sequence[Search]) -> list[list[ScoredPoint]]:
        if not searches:
            return []
        specs = self._specs_of(collection.name)
        for one in searches:
            points.check_search(one, specs, collection.name)
        return qdrant_search.answers(self._server, collection, searches)

    def fetch(
        self,
        collection: Collection,
        keys: Sequence[str],
        *,
        vectors: Sequence[str] = (),
        payload: bool | Sequence[str] = True,
    ) -> dict[str, StoredPoint]:
        points.check_names(vectors, self._specs_of(collection.name), collection.name)
        ids = [collection.point_id(key) for key in dict.fromkeys(keys)]
        if not ids:
            return {}
        with self._server.calling() as client:
            records = client.retrieve(
                collection.name,
                ids,
                with_payload=points.selection(payload),
                with_vectors=list(vectors) or False,
            )
        return {point.key: point for point in qdrant_points.all_stored(records, payload)}

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
        points.check_names(vectors, self._specs_of(collection.name), collection.name)
        known = None if after is None else collection.point_id(after)
        offset: Any = known  # a point id, of the client's many types
        while True:
            with self._server.calling() as client:
                records, offset = client.scroll(
                    collection.name,
                    scroll_filter=qdrant_filters.build(where),
                    limit=batch,
                    offset=offset,
                    with_payload=points.selection(payload),
                    with_vectors=list(vectors) or False,
                )
            new = [record for record in records if str(record.id) != known]
            if found := qdrant_points.all_stored(new, payload):
                yield found
            if offset is None:
                return

    def count(self, collection: Collection, where: Filter | None = None) -> int:
        with self._server.calling() as client:
            return client.count(
                collection.name, count_filter=qdrant_filters.present(where), exact=True
            ).count

    def last_fence(self, collection: Collection) -> int:
        with self._server.calling() as client:
            found, _ = client.scroll(
                collection.name,
                limit=1,
                order_by=models.OrderBy(key=FENCE_FIELD, direction=models.Direction.DESC),
                with_payload=[FENCE_FIELD],
                with_vectors=False,
            )
        return next((int((one.payload or {})[FENCE_FIELD]) for one in found), 0)

    def optimize(self, collection: Collection) -> None:
        """The server optimises by itself: this waits until it has, for an hour at most."""
        deadline = time.monotonic() + OPTIMIZE_TIMEOUT_S
        while (status := self._info(collection.name).status) != models.CollectionStatus.GREEN:
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"{self.name} has not finished optimising {collection.name!r} "
                    f"within {OPTIMIZE_TIMEOUT_S:.0f} s (status {status.value})."
                )
            if status == models.CollectionStatus.GREY:  # waits for an update, whatever it is
                with self._server.calling() as client:
                    nothing = models.OptimizersConfigDiff()
                    client.update_collection(collection.name, optimizers_config=nothing)
            time.sleep(POLL_S)

    # -- aliases ----------------------------------------------------------------------------

    def aliases(self) -> dict[str, str]:
        with self._server.calling() as client:
            found = client.get_aliases().aliases
        return {one.alias_name: one.collection_name for one in found}

    def point_alias(self, alias: str, name: str) -> None:
        checked_name(alias)
        present = self.collections()
        if name not in present:
            raise CollectionMissing(f"no collection {name!r} for alias {alias!r} to name.")
        if alias in present:
            raise StoreError(f"{alias!r} is a collection, so no alias can be called that.")
        create = models.CreateAlias(collection_name=name, alias_name=alias)
        changes: list[models.AliasOperations] = [models.CreateAliasOperation(create_alias=create)]
        if alias in self.aliases():
            changes.insert(0, _alias_dropped(alias))
        with self._server.calling() as client:
            client.update_collection_aliases(changes)
        if (found := self.aliases().get(alias)) != name:
            raise StoreError(
                f"alias {alias!r} names {found!r} after it was pointed to {name!r}: "
                "somebody else changes aliases on this server. Try again."
            )

    def drop_alias(self, alias: str) -> None:
        if alias in self.aliases():
            with self._server.calling() as client:
                client.update_collection_aliases([_alias_dropped(alias)])

    def close(self) -> None:
        self._server.close()

    # -- inside -----------------------------------------------------------------------------

    def _create(self, spec: CollectionSpec) -> None:
        try:
            with self._server.calling() as client:
                client.create_collection(
                    spec.collection.name,
                    vectors_config=qdrant_collections.dense_config(spec),
                    sparse_vectors_config=qdrant_collections.sparse_config(spec),
                    hnsw_config=qdrant_collections.hnsw_config(),
                    strict_mode_config=qdrant_collections.strict_mode(),
                    metadata=qdrant_collections.metadata(spec),
                )
        except StoreRejected:
            if spec.collection.name not in self.collections():  # else: another was faster
                raise

    def _adapt(self, wanted: CollectionSpec) -> None:
        """Payload indexes and metadata are as wanted, or CollectionMismatch."""
        name = wanted.collection.name
        info = self._info(name)
        found = qdrant_collections.spec_of(name, info)
        merged = mismatch.merged(found, wanted)
        if not self._server.local:  # which has no indexes
            for path, index in qdrant_collections.missing_indexes(merged, info).items():
                with self._server.calling() as client:
                    client.create_payload_index(name, path, field_schema=index, wait=True)
        if merged != found:
            with self._server.calling() as client:
                client.update_collection(name, metadata=qdrant_collections.metadata(merged))

    def _info(self, name: str) -> models.CollectionInfo:
        if not can_exist(name):  # the server would refuse the request, not miss the name
            raise CollectionMissing(f"{self.name} has no collection {name!r}.")
        with self._server.calling() as client:
            return client.get_collection(name)

    def _specs_of(self, name: str) -> points.Specs:
        """The collection's vectors, asked for once."""
        if name not in self._specs:
            self._specs[name] = {one.name: one for one in self.vectors_of(name)}
        return self._specs[name]

    def _batches(self, things: Sequence[tuple[T, int]]) -> Iterator[list[T]]:
        return qdrant_points.batches(things, max_items=BATCH_ITEMS, max_bytes=self._batch_bytes)


def _payload_update(
    collection: Collection, key: str, payload: Mapping[str, object], fence: int
) -> models.UpdateOperation:
    points.check_payload(key, payload)
    older = qdrant_filters.older_among([collection.point_id(key)], fence)
    return models.OverwritePayloadOperation(
        overwrite_payload=models.SetPayload(
            payload=points.stamped(key, payload, fence),
            filter=models.Filter(must=[older, qdrant_filters.present(None)]),
        )
    )


def _alias_dropped(alias: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
