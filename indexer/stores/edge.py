"""Qdrant Edge: the server's own engine inside this process, one process per directory.

    DIR/lock            who holds the directory
    DIR/aliases.json    alias -> collection
    DIR/collections/    one folder each, see edge_shard

A search under a filter is an exact scan of what passes, up to policy.EXACT_POINTS points.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import qdrant_edge as edge

from encoders.types import VectorSpec
from indexer.errors import CollectionMissing, StoreError
from indexer.filters import Filter
from indexer.stores import (
    FENCE_FIELD,
    GONE_FIELD,
    Collection,
    CollectionSpec,
    CollectionStatus,
    Point,
    ScoredPoint,
    Search,
    StoredPoint,
    WriteMode,
    edge_files,
    edge_filters,
    edge_points,
    edge_shard,
    points,
    policy,
)
from indexer.stores.edge_shard import Shard
from indexer.stores.paths import COLLECTION_NAME, checked_name

T = TypeVar("T")

BATCH_ITEMS = 1_000
ALIASES = "aliases.json"


class EdgeStore:
    """The vector store in a directory that this process alone holds until `close`.

    Raises StoreLocked, with who holds it, where another process does."""

    def __init__(self, path: str | Path, *, graph_kb: int = policy.GRAPH_KB) -> None:
        self._graph_kb = graph_kb
        self._root = Path(path).resolve()
        self._lock = edge_files.DirectoryLock(self._root)
        self._guard = threading.RLock()  # of the two below
        self._shards: dict[str, Shard] = {}
        self._closed = False
        self._collections = self._root / "collections"
        self._collections.mkdir(exist_ok=True)
        self._clear_remains()

    @property
    def name(self) -> str:
        return f"Qdrant Edge in {self._root}"

    # -- collections ------------------------------------------------------------------------

    def ensure_collection(self, spec: CollectionSpec) -> None:
        name = checked_name(spec.collection.name)
        with self._guard:
            self._refuse_closed()
            if name in self.aliases():
                raise StoreError(f"{name!r} is an alias, so no collection can be called that.")
            if self._exists(name):
                self._shard(name).adapt(spec)
            else:
                self._shards[name] = edge_shard.create(
                    self._collections / name, spec, self._graph_kb
                )

    def adapt_collection(self, spec: CollectionSpec) -> None:
        self._shard(checked_name(spec.collection.name)).adapt(spec)

    def status(self, name: str) -> CollectionStatus:
        return self._shard(name).status()

    def vectors_of(self, name: str) -> tuple[VectorSpec, ...]:
        return self._shard(name).spec.vectors

    def collections(self) -> list[str]:
        with self._guard:
            return sorted(
                each.parent.name for each in self._collections.glob(f"*/{edge_shard.DESCRIPTION}")
            )

    def drop_collection(self, name: str) -> None:
        with self._guard:
            self._refuse_closed()
            naming = sorted(alias for alias, target in self.aliases().items() if target == name)
            if naming:
                raise StoreError(
                    f"collection {name!r} is not dropped: alias {naming[0]!r} names it."
                )
            if not self._exists(name):
                return
            shard = self._shards.pop(name, None)
            edge_files.remove(self._collections / name / edge_shard.DESCRIPTION)
            if shard is not None:
                shard.close()
            shutil.rmtree(self._collections / name, ignore_errors=True)

    # -- writes -----------------------------------------------------------------------------

    def write_if_newer(
        self, collection: Collection, points: Sequence[Point], *, fence: int, mode: WriteMode
    ) -> None:
        shard = self._shard(collection.name)
        condition = edge_filters.older_than(fence, FENCE_FIELD)
        how = edge.UpdateMode.UpdateOnly if mode == "update_only" else edge.UpdateMode.Upsert
        for batch in _batches({point.key: point for point in points}.values()):
            ids = [collection.point_id(point.key) for point in batch]
            built = [
                edge_points.built(id_, point, fence, shard.specs)
                for id_, point in zip(ids, batch, strict=True)
            ]
            shard.update(edge.UpdateOperation.upsert_points(built, condition, how), ids)

    def set_payload_if_newer(
        self, collection: Collection, payloads: Mapping[str, Mapping[str, object]], *, fence: int
    ) -> None:
        shard = self._shard(collection.name)
        for batch in _batches(payloads.items()):
            ids = [collection.point_id(key) for key, _ in batch]
            operations = [
                _payload_update(id_, key, payload, fence)
                for id_, (key, payload) in zip(ids, batch, strict=True)
            ]
            shard.update_many(operations, ids)

    def delete_if_newer(self, collection: Collection, keys: Sequence[str], *, fence: int) -> None:
        shard = self._shard(collection.name)
        for batch in _batches(keys):
            ids = [collection.point_id(key) for key in batch]
            which = edge_filters.older_among(ids, fence, FENCE_FIELD)
            shard.update(edge.UpdateOperation.delete_points_by_filter(which), ids)

    def bury_if_newer(self, collection: Collection, keys: Sequence[str], *, fence: int) -> None:
        shard = self._shard(collection.name)
        condition = edge_filters.older_than(fence, FENCE_FIELD)
        for batch in _batches(dict.fromkeys(keys)):
            ids = [collection.point_id(key) for key in batch]
            buried = [edge.Point(id_, {}, points.tombstone(fence)) for id_ in ids]
            upsert = edge.UpdateOperation.upsert_points(buried, condition, edge.UpdateMode.Upsert)
            shard.update(upsert, ids)

    def flush(self, collection: Collection) -> None:
        self._shard(collection.name).flush()

    # -- reads ------------------------------------------------------------------------------

    def search(self, collection: Collection, searches: Sequence[Search]) -> list[list[ScoredPoint]]:
        shard = self._shard(collection.name)
        if not searches:
            return []
        for one in searches:
            points.check_search(one, shard.specs, collection.name)
        with shard.reading() as handle:
            passing = {
                where: handle.count(
                    edge.CountRequest(exact=False, filter=edge_filters.build(where))
                )
                for where in {one.where for one in searches if not one.exact}
                if where is not None
            }
            requests = [
                _query(collection, one, passing.get(one.where) if one.where else None)
                for one in searches
            ]
            answers = handle.query_batch(edge.QueryBatchRequest(requests))
        return [
            [edge_points.scored(found, one.payload) for found in answer]
            for one, answer in zip(searches, answers, strict=True)
        ]

    def fetch(
        self,
        collection: Collection,
        keys: Sequence[str],
        *,
        vectors: Sequence[str] = (),
        payload: bool | Sequence[str] = True,
    ) -> dict[str, StoredPoint]:
        shard = self._shard(collection.name)
        points.check_names(vectors, shard.specs, collection.name)
        ids = [collection.point_id(key) for key in dict.fromkeys(keys)]
        if not ids:
            return {}
        with shard.reading() as handle:
            records = handle.retrieve(
                list(ids),
                with_payload=points.selection(payload),
                with_vector=list(vectors) or False,
            )
        return {point.key: point for point in edge_points.all_stored(records, payload)}

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
        shard = self._shard(collection.name)
        points.check_names(vectors, shard.specs, collection.name)
        known = None if after is None else collection.point_id(after)
        offset: edge.PointId | None = known
        while True:
            request = edge.ScrollRequest(
                offset=offset,
                limit=batch,
                filter=edge_filters.build(where),
                with_payload=points.selection(payload),
                with_vector=list(vectors) or False,
            )
            with shard.reading() as handle:
                records, offset = handle.scroll(request)
            new = [record for record in records if str(record.id) != known]
            if found := edge_points.all_stored(new, payload):
                yield found
            if offset is None:
                return

    def count(self, collection: Collection, where: Filter | None = None) -> int:
        request = edge.CountRequest(exact=True, filter=edge_filters.present(where, GONE_FIELD))
        with self._shard(collection.name).reading() as handle:
            return handle.count(request)

    def last_fence(self, collection: Collection) -> int:
        highest_first = edge.OrderBy(FENCE_FIELD, edge.Direction.Desc)
        request = edge.ScrollRequest(limit=1, with_payload=[FENCE_FIELD], order_by=highest_first)
        with self._shard(collection.name).reading() as handle:
            found, _ = handle.scroll(request)
        return next((int((one.payload or {})[FENCE_FIELD]) for one in found), 0)

    def optimize(self, collection: Collection) -> None:
        self._shard(collection.name).optimize()

    # -- aliases ----------------------------------------------------------------------------

    def aliases(self) -> dict[str, str]:
        with self._guard:
            content = edge_files.read_json(self._root / ALIASES)
            return {str(alias): str(name) for alias, name in content.items()}

    def point_alias(self, alias: str, name: str) -> None:
        checked_name(alias)
        with self._guard:
            self._refuse_closed()
            if not self._exists(name):
                raise CollectionMissing(f"no collection {name!r} for alias {alias!r} to name.")
            if self._exists(alias):
                raise StoreError(f"{alias!r} is a collection, so no alias can be called that.")
            edge_files.replace_json(self._root / ALIASES, {**self.aliases(), alias: name})

    def drop_alias(self, alias: str) -> None:
        with self._guard:
            self._refuse_closed()
            remaining = self.aliases()
            if remaining.pop(alias, None) is not None:
                edge_files.replace_json(self._root / ALIASES, remaining)

    def close(self) -> None:
        with self._guard:
            if self._closed:
                return
            self._closed = True
            for shard in self._shards.values():
                shard.close()
            self._shards.clear()
            self._lock.release()

    # -- inside -----------------------------------------------------------------------------

    def _shard(self, name: str) -> Shard:
        with self._guard:
            self._refuse_closed()
            if name not in self._shards:
                if not self._exists(name):
                    raise CollectionMissing(f"no collection {name!r} in {self.name}.")
                self._shards[name] = edge_shard.load(self._collections / name, self._graph_kb)
            return self._shards[name]

    def _exists(self, name: str) -> bool:
        return name in self._shards or (
            COLLECTION_NAME.fullmatch(name) is not None
            and (self._collections / name / edge_shard.DESCRIPTION).exists()
        )

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreError(f"{self.name} was closed.")

    def _clear_remains(self) -> None:
        """Collections that a crash left half created or half dropped are gone."""
        for folder in self._collections.iterdir():
            if not (folder / edge_shard.DESCRIPTION).exists():
                shutil.rmtree(folder, ignore_errors=True)


def _batches(things: Iterable[T]) -> Iterator[list[T]]:
    listed = list(things)
    for start in range(0, len(listed), BATCH_ITEMS):
        yield listed[start : start + BATCH_ITEMS]


def _payload_update(
    id_: str, key: str, payload: Mapping[str, object], fence: int
) -> edge.UpdateOperation:
    points.check_payload(key, payload)
    older = edge_filters.older_among([id_], fence, FENCE_FIELD)
    which = edge.Filter(must=[older, edge_filters.present(None, GONE_FIELD)])
    return edge.UpdateOperation.overwrite_payload_by_filter(
        which, points.stamped(key, payload, fence)
    )


def _query(collection: Collection, one: Search, passing: int | None) -> edge.QueryRequest:
    chosen = policy.plan(exact=one.exact, limit=one.limit, passing=passing)
    return edge.QueryRequest(
        limit=one.limit,
        query=edge.Query.Nearest(edge_points.vector(one.values), using=one.vector),
        filter=edge_filters.build(
            one.where, without_ids=[collection.point_id(key) for key in one.exclude]
        ),
        params=edge.SearchParams(
            exact=chosen.exact,
            hnsw_ef=None if chosen.exact else chosen.ef,
            acorn=edge.AcornSearchParams(enable=True) if chosen.acorn else None,
        ),
        with_payload=points.selection(one.payload),
    )
