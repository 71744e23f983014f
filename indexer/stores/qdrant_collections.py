"""What a collection is, as a Qdrant server keeps it: its configuration, indexes and metadata.

Our own description lies in the collection's metadata under `twinspan`, beside the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from qdrant_client import models

from encoders.types import VectorSpec
from indexer.errors import CollectionMismatch
from indexer.filters import FieldKind
from indexer.stores import FENCE_FIELD, GONE_FIELD, KEY_FIELD, Collection, CollectionSpec, policy
from indexer.stores.paths import field_of, json_path

OURS = "twinspan"
FORMAT = 1

SCHEMA: dict[FieldKind, models.PayloadSchemaType] = {
    "keyword": models.PayloadSchemaType.KEYWORD,
    "integer": models.PayloadSchemaType.INTEGER,
    "float": models.PayloadSchemaType.FLOAT,
    "bool": models.PayloadSchemaType.BOOL,
    "datetime": models.PayloadSchemaType.DATETIME,
    "geo": models.PayloadSchemaType.GEO,
}


def dense_config(spec: CollectionSpec) -> dict[str, models.VectorParams]:
    return {
        one.name: models.VectorParams(size=one.dimension, distance=models.Distance.DOT)
        for one in spec.vectors
        if one.dimension is not None
    }


def sparse_config(spec: CollectionSpec) -> dict[str, models.SparseVectorParams] | None:
    found = {one.name: models.SparseVectorParams() for one in spec.vectors if one.sparse}
    return found or None


def hnsw_config() -> models.HnswConfigDiff:
    """`payload_m` gives every filterable value its own links, so that a walk under a filter finds
    its way; they are built with the graph, so payload indexes come before points."""
    return models.HnswConfigDiff(
        m=policy.GRAPH_M, ef_construct=policy.GRAPH_EF_CONSTRUCT, payload_m=policy.GRAPH_M
    )


def strict_mode() -> models.StrictModeConfig:
    """A filter over a field without an index is an error, not a slow scan."""
    return models.StrictModeConfig(
        enabled=True, unindexed_filtering_retrieve=False, unindexed_filtering_update=False
    )


def metadata(spec: CollectionSpec) -> dict[str, Any]:
    ours = {"format": FORMAT, "catalog": spec.collection.catalog, "fields": dict(spec.fields)}
    return {**spec.metadata, OURS: ours}


def missing_indexes(
    spec: CollectionSpec, info: models.CollectionInfo
) -> dict[str, models.PayloadSchemaParams | models.PayloadSchemaType]:
    """JSON path -> index to be made. Our own get no graph links: nobody searches by them."""
    wanted: dict[str, models.PayloadSchemaParams | models.PayloadSchemaType] = {
        KEY_FIELD: models.KeywordIndexParams(
            type=models.KeywordIndexType.KEYWORD, enable_hnsw=False
        ),
        FENCE_FIELD: models.IntegerIndexParams(
            type=models.IntegerIndexType.INTEGER, lookup=False, range=True, enable_hnsw=False
        ),
        GONE_FIELD: models.BoolIndexParams(type=models.BoolIndexType.BOOL, enable_hnsw=False),
    }
    wanted |= {json_path(field): SCHEMA[kind] for field, kind in spec.fields.items()}
    present = {field_of(path) for path in info.payload_schema}
    return {path: index for path, index in wanted.items() if field_of(path) not in present}


def payload_indexes(info: models.CollectionInfo) -> dict[str, FieldKind]:
    """field -> kind, of the indexes that the server has; of kinds that are not ours it has none."""
    kinds: dict[models.PayloadSchemaType, FieldKind] = {one: kind for kind, one in SCHEMA.items()}
    return {
        field_of(path): kinds[index.data_type]
        for path, index in info.payload_schema.items()
        if index.data_type in kinds
    }


def spec_of(name: str, info: models.CollectionInfo) -> CollectionSpec:
    """What the collection is; raises CollectionMismatch where we did not make it."""
    kept = dict(info.config.metadata or {})
    ours = kept.pop(OURS, None)
    if not isinstance(ours, Mapping):
        raise CollectionMismatch(
            f"collection {name!r} was not made by Twinspan. Choose another name, or another server."
        )
    said = cast("Mapping[str, Any]", ours)
    if said["format"] != FORMAT:
        raise CollectionMismatch(
            f"collection {name!r} has format {said['format']}, this release reads {FORMAT}. "
            "Upgrade twinspan, or reindex."
        )
    return CollectionSpec(
        collection=Collection(name=name, catalog=said["catalog"]),
        vectors=vectors(info),
        fields=cast("dict[str, FieldKind]", dict(said["fields"])),
        metadata=kept,
    )


def vectors(info: models.CollectionInfo) -> tuple[VectorSpec, ...]:
    """The named vectors; one without a name is none that we could write."""
    params = info.config.params
    dense = params.vectors if isinstance(params.vectors, dict) else {}
    found = [VectorSpec(name=name, dimension=one.size) for name, one in dense.items()]
    found += [VectorSpec(name=name, dimension=None) for name in params.sparse_vectors or {}]
    return tuple(found)
