"""What an index's collection must be: vectors, filterable fields, metadata; and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import sqlalchemy as sa

from encoders.types import VectorSpec
from indexer import indexes
from indexer.catalog import Catalog
from indexer.indexes import Index
from indexer.stores import METADATA_FORMAT, CollectionSpec, VectorStore

log = logging.getLogger(__name__)


def spec_of(index: Index, attached: Catalog, vectors: Sequence[VectorSpec]) -> CollectionSpec:
    """The collection as the catalog describes it now. Its metadata is what retrievers need."""
    return CollectionSpec(
        collection=index.ref,
        vectors=tuple(vectors),
        fields=attached.spec.fields,
        metadata={
            "format": METADATA_FORMAT,
            "index_id": index.id,
            "encoder_id": index.encoder_id,
            "encoder_uri": index.encoder_uri,
            "catalog": attached.name,
            "alias": index.alias,
            "returned": sorted(attached.spec.returned),
        },
    )


def adapt_if_described_anew(
    engine: sa.Engine,
    store: VectorStore,
    index: Index,
    attached: Catalog,
    vectors: Sequence[VectorSpec],
) -> bool:
    """The collection has the payload indexes and metadata of the catalog's current description,
    before the first point is written by it. True when that took a change. Raises CollectionMissing
    where there is none: a late worker must not bring back what was retired."""
    if index.spec_version == attached.spec_version:
        return False
    store.adapt_collection(spec_of(index, attached, vectors))
    indexes.set_spec_version(engine, index.id, attached.spec_version)
    log.info("index %d follows version %d of its catalog", index.id, attached.spec_version)
    return True


def remove(engine: sa.Engine, store: VectorStore, index: Index) -> None:
    """The index's collection and then its part of the ledger are gone. Call it when the index is
    failed or retired, so that nobody works on it any more; repeat it after a crash or an outage.
    Raises StoreError while an alias names the collection."""
    store.drop_collection(index.collection)
    indexes.drop_partition(engine, index.id)
