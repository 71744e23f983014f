"""A Qdrant server, or the client's in-memory mode in tests.

Nothing is sent before the first verb, so that a store may be made before a fork. Writes are waited
for (`wait=true`): the server has logged and applied them when a verb returns, and says so where a
point is wrong. Nothing is retried here: an outage raises StoreUnavailable.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from qdrant_client import QdrantClient, models
from qdrant_client.common.version_check import is_compatible

from encoders.types import VectorSpec
from indexer.errors import (
    CollectionMissing,
    StoreError,
    StoreRejected,
    StoreUnavailable,
    UsageError,
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
    policy,
    qdrant_collections,
    qdrant_filters,
    qdrant_points,
)
from indexer.stores.paths import checked_name
from indexer.stores.qdrant_errors import translated

BATCH_ITEMS = 512
BATCH_BYTES = 4_000_000
TIMEOUT_S = 10.0
OPTIMIZE_TIMEOUT_S = 3_600.0
POLL_S = 0.5
T = TypeVar("T")
MIN_SERVER = (1, 17)  # conditional writes that create nothing (`update_mode`)

log = logging.getLogger(__name__)


class QdrantStore:
    """The vector store on a Qdrant server. Thread-safe; open it after a fork, or before any use."""

    def __init__(
        self,
        *,
        url: str,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        batch_items: int = BATCH_ITEMS,
        batch_bytes: int = BATCH_BYTES,
        ca_file: Path | None = None,
    ) -> None:
        transport: dict[str, Any] = {"verify": _trust(ca_file)} if ca_file else {}
        headers = {"api-key": api_key} if api_key else None  # the client warns of it over http
        try:
            client = QdrantClient(
                url=url,
                headers=headers,
                timeout=max(1, round(timeout_s)),
                check_compatibility=False,
                **transport,
            )
        except (ValueError, TypeError) as cause:
            raise UsageError(
                f"qdrant_url is not an address: {cause}. Write http://host:6333."
            ) from cause
        self._start(client, f"Qdrant at {_without_secrets(url)}", batch_items, batch_bytes)

    @classmethod
    def in_memory(
        cls, *, batch_items: int = BATCH_ITEMS, batch_bytes: int = BATCH_BYTES
    ) -> QdrantStore:
        """The client's own in-memory mode: exact, slow, gone at the end. For tests."""
        store = cls.__new__(cls)
        store._start(QdrantClient(":memory:"), "Qdrant in memory", batch_items, batch_bytes)
        store._local = store._version_checked = True
        return store

    def _start(self, client: QdrantClient, name: str, batch_items: int, batch_bytes: int) -> None:
        self._client = client
        self._name = name
        self._batch_items = batch_items
        self._batch_bytes = batch_bytes
        self._local = False
        self._closed = False
        self._version_checked = False
        self._specs: dict[str, points.Specs] = {}  # of collections written or searched
        self._one_at_a_time = threading.RLock()  # for the in-memory mode, which has no locks

    @property
    def name(self) -> str:
        return self._name

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
            payload_indexes=None if self._local else qdrant_collections.payload_indexes(info),
        )

    def vectors_of(self, name: str) -> tuple[VectorSpec, ...]:
        return qdrant_collections.vectors(self._info(name))

    def collections(self) -> list[str]:
        with self._calling() as client:
            return sorted(one.name for one in client.get_collections().collections)

    def drop_collection(self, name: str) -> None:
        naming = sorted(alias for alias, target in self.aliases().items() if target == name)
        if naming:
            raise StoreError(f"collection {name!r} is not dropped: alias {naming[0]!r} names it.")
        self._specs.pop(name, None)
        if name in self.collections():
            with self._calling() as client:
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
            with self._calling() as client:
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
            with self._calling() as client:
                client.batch_update_points(collection.name, batch, wait=True)

    def delete_if_newer(self, collection: Collection, keys: Sequence[str], *, fence: int) -> None:
        ids = [(collection.point_id(key), 40) for key in dict.fromkeys(keys)]
        for batch in self._batches(ids):
            which = qdrant_filters.older_among(batch, fence)
            with self._calling() as client:
                client.delete(collection.name, models.FilterSelector(filter=which), wait=True)

    def bury_if_newer(self, collection: Collection, keys: Sequence[str], *, fence: int) -> None:
        buried = [
            (qdrant_points.tombstone(collection.point_id(key), fence), 150)
            for key in dict.fromkeys(keys)
        ]
        for batch in self._batches(buried):
            with self._calling() as client:
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
            self._check_vectors(collection, specs, [one.vector])
            points.check_vector(one.values, specs[one.vector], "the query")
        passing = self._estimates(collection, searches)
        requests = [
            _query(
                collection,
                one,
                None if self._local else _params(one, passing[one.where] if one.where else None),
            )
            for one in searches
        ]
        with self._calling() as client:
            answers = client.query_batch_points(collection.name, requests)
        return [
            [qdrant_points.scored(found, one.payload) for found in answer.points]
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
        self._check_vectors(collection, self._specs_of(collection.name), vectors)
        ids = [collection.point_id(key) for key in dict.fromkeys(keys)]
        if not ids:
            return {}
        with self._calling() as client:
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
        self._check_vectors(collection, self._specs_of(collection.name), vectors)
        known = None if after is None else collection.point_id(after)
        offset: Any = known  # a point id, of the client's many types
        while True:
            with self._calling() as client:
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
        with self._calling() as client:
            return client.count(
                collection.name, count_filter=qdrant_filters.present(where), exact=True
            ).count

    def last_fence(self, collection: Collection) -> int:
        with self._calling() as client:
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
                with self._calling() as client:
                    nothing = models.OptimizersConfigDiff()
                    client.update_collection(collection.name, optimizers_config=nothing)
            time.sleep(POLL_S)

    # -- aliases ----------------------------------------------------------------------------

    def aliases(self) -> dict[str, str]:
        with self._calling() as client:
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
        with self._calling() as client:
            client.update_collection_aliases(changes)
        if (found := self.aliases().get(alias)) != name:
            raise StoreError(
                f"alias {alias!r} names {found!r} after it was pointed to {name!r}: "
                "somebody else changes aliases on this server. Try again."
            )

    def drop_alias(self, alias: str) -> None:
        if alias in self.aliases():
            with self._calling() as client:
                client.update_collection_aliases([_alias_dropped(alias)])

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()

    # -- inside -----------------------------------------------------------------------------

    @contextmanager
    def _calling(self) -> Generator[QdrantClient]:
        """The client, once it is known that the server understands us; its errors as ours."""
        if self._closed:
            raise StoreError(f"{self.name} was closed.")
        with translated(self.name):
            if not self._version_checked:
                _check_version(self._client.info().version, self.name)
                self._version_checked = True
            if not self._local:
                yield self._client
                return
            with self._one_at_a_time:
                yield self._client

    def _create(self, spec: CollectionSpec) -> None:
        try:
            with self._calling() as client:
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
        if not self._local:  # which has no indexes
            for path, index in qdrant_collections.missing_indexes(merged, info).items():
                with self._calling() as client:
                    client.create_payload_index(name, path, field_schema=index, wait=True)
        if merged != found:
            with self._calling() as client:
                client.update_collection(name, metadata=qdrant_collections.metadata(merged))

    def _info(self, name: str) -> models.CollectionInfo:
        with self._calling() as client:
            return client.get_collection(name)

    def _specs_of(self, name: str) -> points.Specs:
        """The collection's vectors, asked for once."""
        if name not in self._specs:
            self._specs[name] = {one.name: one for one in self.vectors_of(name)}
        return self._specs[name]

    def _check_vectors(
        self, collection: Collection, specs: points.Specs, names: Sequence[str]
    ) -> None:
        for name in names:
            if name not in specs:
                raise StoreRejected(
                    f"collection {collection.name!r} has no vector {name!r}, "
                    f"only {mismatch.shown(list(specs.values()))}."
                )

    def _estimates(self, collection: Collection, searches: Sequence[Search]) -> dict[Filter, int]:
        """How many points pass each of the filters, by the server's own estimate."""
        wheres = {one.where for one in searches if one.where is not None}
        found: dict[Filter, int] = {}
        for where in wheres if not self._local else ():  # which is exact anyway
            with self._calling() as client:
                passing = qdrant_filters.build(where)
                found[where] = client.count(collection.name, passing, exact=False).count
        return found

    def _batches(self, things: Sequence[tuple[T, int]]) -> Iterator[list[T]]:
        return qdrant_points.batches(
            things, max_items=self._batch_items, max_bytes=self._batch_bytes
        )


def _query(
    collection: Collection, one: Search, params: models.SearchParams | None
) -> models.QueryRequest:
    return models.QueryRequest(
        query=qdrant_points.vector(one.values),
        using=one.vector,
        filter=qdrant_filters.build(
            one.where, without_ids=[collection.point_id(key) for key in one.exclude]
        ),
        params=params,
        limit=one.limit,
        with_payload=points.selection(one.payload),
    )


def _params(one: Search, passing: int | None) -> models.SearchParams:
    chosen = policy.plan(exact=one.exact, limit=one.limit, passing=passing)
    return models.SearchParams(
        exact=chosen.exact,
        hnsw_ef=None if chosen.exact else chosen.ef,
        acorn=models.AcornSearchParams(enable=True) if chosen.acorn else None,
    )


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


def _trust(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as cause:  # ssl.SSLError is one
        raise UsageError(f"ca_file {str(ca_file)!r} cannot be used: {cause}.") from cause


def _alias_dropped(alias: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))


def _check_version(server: str, name: str) -> None:
    """Raises StoreError for a server too old for conditional writes; warns of one too new."""
    try:
        found = tuple(int(part) for part in server.split(".")[:2])
    except ValueError:
        log.warning("%s has a version that cannot be read: %r", name, server)
        return
    if found < MIN_SERVER:
        wanted = ".".join(map(str, MIN_SERVER))
        raise StoreError(
            f"{name} is version {server}; Twinspan needs {wanted} or newer. Upgrade it."
        )
    client = version("qdrant-client")
    if not is_compatible(client, server):
        log.warning(
            "%s is version %s, more than one minor release from qdrant-client %s",
            name,
            server,
            client,
        )


def _without_secrets(url: str) -> str:
    """The address without user and password."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
