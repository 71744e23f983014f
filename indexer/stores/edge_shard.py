"""One collection on disk: a Qdrant Edge shard, its description, and the locks around them.

    collections/NAME/collection.json   what it is and which folder holds its points; written last
    collections/NAME/points-XXXX/      the shard itself

Every call into the engine holds the interpreter lock, so one engine call never overlaps another.
`_writing` keeps writers apart, `_reading` keeps a reader's handle open until it is done.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import qdrant_edge as edge

from encoders.types import VectorSpec
from indexer.errors import (
    CollectionMissing,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)
from indexer.filters import FieldKind
from indexer.stores import (
    FENCE_FIELD,
    GONE_FIELD,
    KEY_FIELD,
    CollectionSpec,
    CollectionStatus,
    edge_files,
    edge_filters,
    edge_optimize,
    mismatch,
    policy,
)
from indexer.stores.paths import field_of, json_path

DESCRIPTION = "collection.json"
FLOAT_BYTES = 4
CATCH_UP_ITEMS = 1_000
CHECKPOINT_POINTS = 20_000  # applied again from the log after a crash, a few seconds at most
CATCH_UP_ROUNDS = 3

SCHEMA: dict[FieldKind, edge.PayloadSchemaType] = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
    "datetime": edge.PayloadSchemaType.Datetime,
    "geo": edge.PayloadSchemaType.Geo,
}
OUTAGES = ("service runtime error", "io error", "os error", "out of memory", "no space", "timeout")


class Shard:
    """An open collection. Its points may be read and written by several threads at once."""

    def __init__(self, folder: Path, spec: CollectionSpec, points: str, graph_kb: int) -> None:
        self.folder = folder
        self.spec = spec
        self._points = points
        self._graph_kb = graph_kb
        self._handle: edge.EdgeShard | None = _load(folder / points, spec.collection.name)
        self._reading = threading.RLock()
        self._writing = threading.RLock()
        self._optimizing = threading.Lock()
        self._unflushed = 0  # points written since the engine flushed
        self._touched: set[str] | None = None  # ids written since a copy was taken
        self._child: subprocess.Popen[str] | None = None
        self.specs = {one.name: one for one in spec.vectors}

    @contextmanager
    def reading(self) -> Generator[edge.EdgeShard]:
        """The engine's handle, open for as long as the block runs."""
        with self._reading, translated(self.spec.collection.name):
            yield self._open_handle()

    def update(self, operation: edge.UpdateOperation, ids: Sequence[str]) -> None:
        """Apply one operation that touches these points."""
        self.update_many([operation], ids)

    def update_many(self, operations: Sequence[edge.UpdateOperation], ids: Sequence[str]) -> None:
        with self._writing, translated(self.spec.collection.name):
            if self._touched is not None:
                self._touched.update(ids)
            handle = self._open_handle()
            self._unflushed += len(ids)
            for operation in operations:
                handle.update(operation)

    def flush(self) -> None:
        """Everything written is durable.

        The engine's own flush syncs each file of each index, some hundred milliseconds in which
        it holds the interpreter lock. Its log is enough: what the log has is applied again when
        the shard is loaded. The engine flushes once in a while, so that the log stays short.
        """
        with self._writing, translated(self.spec.collection.name):
            if self._unflushed >= CHECKPOINT_POINTS or sys.platform != "linux":
                self._checkpoint()
            else:
                edge_files.sync_files(self.folder / self._points / "wal")

    def _checkpoint(self) -> None:
        self._open_handle().flush()
        self._unflushed = 0

    def status(self) -> CollectionStatus:
        with self.reading() as handle:
            present = edge_filters.present(None, GONE_FIELD)
            points = handle.count(edge.CountRequest(exact=True, filter=present))
            info = handle.info()
        return CollectionStatus(
            spec=self.spec,
            points=points,
            indexed=not self._wants_graph(points, info.indexed_vectors_count),
            payload_indexes=_payload_indexes(info),
        )

    def _wants_graph(self, points: int, indexed: int) -> bool:
        """Whether so many vectors lie outside of any graph that scanning them takes long."""
        dense = [one.dimension for one in self.spec.vectors if one.dimension is not None]
        if not dense:
            return False
        sparse = len(self.spec.vectors) - len(dense)  # always indexed, and counted as such
        in_graphs = max(0, indexed - sparse * points) // len(dense)
        return (points - in_graphs) * max(dense) * FLOAT_BYTES > self._graph_kb * 1_024

    def adapt(self, wanted: CollectionSpec) -> None:
        """Payload indexes and metadata are as wanted; raises CollectionMismatch where it is
        another collection."""
        with self._writing:
            self._open_handle()
            merged = mismatch.merged(self.spec, wanted)
            if merged.fields != self.spec.fields:
                with translated(merged.collection.name):
                    _index_fields(self._open_handle(), merged)
                    self._checkpoint()
            if merged != self.spec:
                describe(self.folder, merged, self._points)
                self.spec = merged

    def optimize(self) -> None:
        """All vectors lie in graphs: a copy is optimised by a child process while reads and writes
        go on here, then takes over with what was written meanwhile."""
        with self._optimizing:
            if self.status().indexed:
                return
            copy = self._copy()
            try:
                self._child = edge_optimize.start(copy)
                edge_optimize.finish(self._child, self.spec.collection.name)
                self._take_over(copy)
            finally:
                self._child = self._touched = None
                if copy.name != self._points:
                    shutil.rmtree(copy, ignore_errors=True)

    def _copy(self) -> Path:
        """A durable copy of the points; from here on, writes are remembered by id."""
        copy = self.folder / fresh_name()
        with self._writing, translated(self.spec.collection.name):
            self._checkpoint()
            shutil.copytree(self.folder / self._points, copy)
            self._touched = set()
        return copy

    def _take_over(self, copy: Path) -> None:
        fresh = _load(copy, self.spec.collection.name)
        for _ in range(CATCH_UP_ROUNDS):  # most of it while writes go on
            self._catch_up(fresh, self._take_touched())
        with self._writing, translated(self.spec.collection.name):
            self._catch_up(fresh, self._take_touched())
            _index_fields(fresh, self.spec)
            fresh.flush()
            describe(self.folder, self.spec, copy.name)
            with self._reading:
                old, self._handle = self._open_handle(), fresh
                gone, self._points = self._points, copy.name
            self._touched, self._unflushed = None, 0
            old.close()
        shutil.rmtree(self.folder / gone, ignore_errors=True)

    def _take_touched(self) -> list[str]:
        with self._writing:
            touched, self._touched = self._touched or set[str](), set()
            return sorted(touched)

    def _catch_up(self, fresh: edge.EdgeShard, ids: Sequence[str]) -> None:
        """These points are in `fresh` as they are here now, or absent in both."""
        for start in range(0, len(ids), CATCH_UP_ITEMS):
            some = ids[start : start + CATCH_UP_ITEMS]
            with self.reading() as handle:
                records = handle.retrieve(list(some), with_payload=True, with_vector=True)
            points = [edge.Point(one.id, one.vector or {}, one.payload) for one in records]
            gone = set(some) - {str(one.id) for one in records}
            with translated(self.spec.collection.name):
                fresh.update(edge.UpdateOperation.upsert_points(points))
                fresh.update(edge.UpdateOperation.delete_points(list(gone)))

    def close(self) -> None:
        """Flushed and closed; later calls raise CollectionMissing."""
        if (child := self._child) is not None:
            child.terminate()
        with self._writing, self._reading:
            if self._handle is not None:
                handle, self._handle = self._handle, None
                with translated(self.spec.collection.name):
                    handle.flush()
                    handle.close()

    def _open_handle(self) -> edge.EdgeShard:
        if self._handle is None:
            raise CollectionMissing(
                f"collection {self.spec.collection.name!r} was dropped or closed meanwhile."
            )
        return self._handle


def _payload_indexes(info: edge.ShardInfo) -> dict[str, FieldKind]:
    """field -> kind, of the indexes that the engine has."""
    return {
        field_of(path): kind
        for path, index in info.payload_schema.items()
        for kind, schema in SCHEMA.items()  # the engine's kinds compare, but do not hash
        if index.data_type == schema
    }


def create(folder: Path, spec: CollectionSpec, graph_kb: int) -> Shard:
    """The collection exists, durably, with its payload indexes and no points."""
    shutil.rmtree(folder, ignore_errors=True)  # what a crash left of an earlier attempt
    folder.mkdir(parents=True)
    points = fresh_name()
    with translated(spec.collection.name):
        handle = edge.EdgeShard.create(str(folder / points), _config(spec.vectors, graph_kb))
        _index_fields(handle, spec)
        handle.flush()
        handle.close()
    describe(folder, spec, points)
    edge_files.sync(folder.parent)
    return Shard(folder, spec, points, graph_kb)


def load(folder: Path, graph_kb: int) -> Shard:
    """Open what `create` made; folders of points that nothing names are removed."""
    content = edge_files.read_json(folder / DESCRIPTION)
    spec, points = edge_files.spec_from_json(content), str(content["points"])
    for other in folder.glob("points-*"):
        if other.name != points:
            shutil.rmtree(other, ignore_errors=True)
    return Shard(folder, spec, points, graph_kb)


def describe(folder: Path, spec: CollectionSpec, points: str) -> None:
    content = {**edge_files.spec_to_json(spec), "points": points}
    edge_files.replace_json(folder / DESCRIPTION, content)


def fresh_name() -> str:
    return f"points-{uuid.uuid4().hex[:12]}"


@contextmanager
def translated(name: str) -> Generator[None]:
    """Turn the engine's errors, which are bare Exceptions (or panics), into ours."""
    try:
        yield
    except StoreError:
        raise
    except Exception as cause:  # the engine raises nothing narrower
        raise _translate(cause, name) from cause
    except BaseException as cause:
        if type(cause).__name__ != "PanicException":
            raise
        raise StoreUnavailable(
            f"Qdrant Edge panicked in collection {name!r}: {_first_line(cause)}. Restart."
        ) from cause


def _translate(cause: Exception, name: str) -> StoreError:
    said = _first_line(cause)
    if isinstance(cause, OSError | MemoryError) or said.lower().startswith(OUTAGES):
        return StoreUnavailable(f"Qdrant Edge failed in collection {name!r}: {said}")
    return StoreRejected(f"Qdrant Edge refused a request for collection {name!r}: {said}")


def _first_line(cause: BaseException) -> str:
    return (str(cause).splitlines() or [type(cause).__name__])[0][:500]


def _load(path: Path, name: str) -> edge.EdgeShard:
    with translated(name):
        return edge.EdgeShard.load(str(path))


def _config(vectors: Sequence[VectorSpec], graph_kb: int) -> edge.EdgeConfig:
    dense = {
        one.name: edge.EdgeVectorParams(size=one.dimension, distance=edge.Distance.Dot)
        for one in vectors
        if one.dimension is not None
    }
    sparse = {one.name: edge.EdgeSparseVectorParams() for one in vectors if one.sparse}
    return edge.EdgeConfig(
        vectors=dense or None,
        sparse_vectors=sparse or None,
        hnsw_config=edge.HnswIndexConfig(
            m=policy.GRAPH_M,
            ef_construct=policy.GRAPH_EF_CONSTRUCT,
            full_scan_threshold=policy.FULL_SCAN_KB,
        ),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=graph_kb),
        max_search_threads=1,
    )


def _index_fields(handle: edge.EdgeShard, spec: CollectionSpec) -> None:
    """Every filterable field has its payload index, and so have our own."""
    wanted: dict[str, edge.PayloadSchemaType | edge.PayloadSchemaParams] = {
        KEY_FIELD: edge.KeywordIndexParams(enable_hnsw=False),
        FENCE_FIELD: edge.IntegerIndexParams(lookup=False, range=True, enable_hnsw=False),
        GONE_FIELD: edge.BoolIndexParams(enable_hnsw=False),
    }
    wanted |= {json_path(field): SCHEMA[kind] for field, kind in spec.fields.items()}
    present = handle.info().payload_schema
    for path, index in wanted.items():
        if path not in present:
            handle.update(edge.UpdateOperation.create_field_index(path, index))
