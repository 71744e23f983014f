"""What the encoder made already is taken over instead of made again.

A point says in `_content` which features its vectors, and the payload fields of its encoder, were
made of. Where an index that is being built may adopt from another collection, whose vectors the
same encoder made, an item's vectors are taken from there as long as both agree on its content; only
the rest is encoded. And where only an item's payload changed, the encoder's fields are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa

from encoders.types import Encoder, EncoderInfo, SparseVector, VectorSpec
from indexer import indexes
from indexer.catalog import Catalog
from indexer.encoding import Encoding
from indexer.errors import CollectionMismatch, CollectionMissing, StoreRejected, UsageError
from indexer.indexes import Index
from indexer.plan import Plan, Task
from indexer.stores import CONTENT_FIELD, Collection, StoredPoint, VectorStore, mismatch, points

log = logging.getLogger(__name__)

SAMPLE = 100  # points of a collection that is not ours that are looked at


def choose(
    engine: sa.Engine,
    store: VectorStore,
    attached: Catalog,
    encoder: EncoderInfo,
    *,
    adopt: str | None,
    trust: bool,
) -> str | None:
    """The collection that a new index may take vectors from: the one named, or that of an index of
    this catalog and encoder, or None. One that says nothing of its encoder needs `trust`, the
    admin's word that this encoder made it. Raises CollectionMismatch where it does not fit."""
    if adopt is None and trust:
        raise UsageError("--trust says something about a collection: name it with --adopt.")
    if adopt is None:
        return _same_encoder(engine, attached, encoder)
    _check_vectors(store, adopt, encoder)
    said = _metadata(store, adopt)
    if said is None:
        _check_foreign(store, Collection(name=adopt, catalog=attached.name), trust=trust)
    elif said != (attached.name, encoder.id):
        raise CollectionMismatch(
            f"collection {adopt!r} is of catalog {said[0]!r} and encoder {said[1][:12]}, not of "
            f"{attached.name!r} and {encoder.id[:12]}: its vectors mean something else."
        )
    return adopt


def keep(store: VectorStore, index: Index, encoder: Encoder, plan: Plan) -> dict[str, Encoding]:
    """Encodings by key, without vectors, for the plan's tasks that change the payload alone: the
    encoder's own fields as they are stored. They are right for the item's content, so whoever's
    point is of another content, or lacks a field, is to be encoded after all. Nothing is read for
    an encoder without such fields. Raises StoreError."""
    if not encoder.payload_fields or not plan.payload:
        return {}
    fields = (CONTENT_FIELD, *encoder.payload_fields)
    found = store.fetch(index.ref, [task.claim.key for task in plan.payload], payload=fields)
    kept: dict[str, Encoding] = {}
    for task in plan.payload:
        point = found.get(task.claim.key)
        if point is not None and _is_of(point, task, encoder):
            kept[task.claim.key] = _encoding(point, encoder)
        else:
            plan.encode.append(task)
    plan.payload[:] = [task for task in plan.payload if task.claim.key in kept]
    return kept


def take_over(
    store: VectorStore, index: Index, encoder: Encoder, tasks: Sequence[Task]
) -> dict[str, Encoding]:
    """Encodings by key, for those tasks whose content the adopted collection holds. None when the
    index adopts nothing, or is built; a collection that is gone by now is no error. Raises
    StoreUnavailable."""
    if index.adopts is None or index.state != "building" or not tasks:
        return {}
    source = Collection(name=index.adopts, catalog=index.catalog)
    keys = [task.claim.key for task in tasks]
    try:
        found = store.fetch(
            source,
            keys,
            vectors=[spec.name for spec in encoder.vectors],
            payload=(CONTENT_FIELD, *encoder.payload_fields),
        )
    except (CollectionMissing, StoreRejected) as cause:
        log.info("index %d adopts nothing: %s", index.id, cause)
        return {}
    return {
        task.claim.key: _encoding(point, encoder)
        for task in tasks
        if (point := found.get(task.claim.key)) is not None
        and _is_of(point, task, encoder)
        and _is_whole(point, encoder.vectors)
    }


def _same_encoder(engine: sa.Engine, attached: Catalog, encoder: EncoderInfo) -> str | None:
    """The collection of an index that was built, the live one first."""
    built = [
        index
        for index in indexes.active(engine)
        if (index.catalog_id, index.encoder_id) == (attached.id, encoder.id)
        and index.state != "building"
    ]
    built.sort(key=lambda index: (index.state == "live", index.id), reverse=True)
    return built[0].collection if built else None


def _check_vectors(store: VectorStore, name: str, encoder: EncoderInfo) -> None:
    found = {spec.name: spec.dimension for spec in store.vectors_of(name)}
    if found != {spec.name: spec.dimension for spec in encoder.vectors}:
        raise CollectionMismatch(
            f"collection {name!r} has vectors {mismatch.shown(store.vectors_of(name)) or 'none'}, "
            f"encoder {encoder.id[:12]} writes {mismatch.shown(encoder.vectors)}: nothing can be "
            "taken over."
        )


def _metadata(store: VectorStore, name: str) -> tuple[str, str] | None:
    """The catalog and the encoder that a collection of ours names; None for any other."""
    try:
        spec = store.status(name).spec
    except CollectionMismatch:
        return None
    encoder_id = spec.metadata.get("encoder_id")
    return None if encoder_id is None else (spec.collection.catalog, str(encoder_id))


def _check_foreign(store: VectorStore, source: Collection, *, trust: bool) -> None:
    """Raises CollectionMismatch unless its points look like ours and the admin vouches for them."""
    if not trust:
        raise CollectionMismatch(
            f"collection {source.name!r} does not say which encoder made it. If it was this one, "
            "say so with --trust."
        )
    try:
        batches = store.scroll(source, payload=(CONTENT_FIELD,), batch=SAMPLE)
        sample = next(batches, list[StoredPoint]())
    except StoreRejected as cause:
        raise CollectionMismatch(
            f"collection {source.name!r} cannot be adopted: {cause}"
        ) from cause
    if not sample or any(CONTENT_FIELD not in point.payload for point in sample):
        raise CollectionMismatch(
            f"collection {source.name!r} cannot be adopted: its points must carry "
            f"{CONTENT_FIELD!r}, the hash of the features that their vectors were made of."
        )
    if not store.fetch(source, [sample[0].key], payload=False):
        raise CollectionMismatch(
            f"collection {source.name!r} cannot be adopted: point ids must be made of catalog "
            f"{source.catalog!r} and the item's key, as ours are."
        )


def _is_of(point: StoredPoint, task: Task, encoder: Encoder) -> bool:
    """Whether what the encoder made of the task's content is there, vectors aside."""
    same = point.payload.get(CONTENT_FIELD) == task.content_hash.hex()
    return same and all(name in point.payload for name in encoder.payload_fields)


def _encoding(point: StoredPoint, encoder: Encoder) -> Encoding:
    """As the tower gave it: its vectors, and the payload fields that are its own."""
    own = {name: point.payload[name] for name in encoder.payload_fields}
    return Encoding(vectors=point.vectors, payload=own)


def _is_whole(point: StoredPoint, specs: Sequence[VectorSpec]) -> bool:
    return all(spec.name in point.vectors and _fits(point, spec) for spec in specs)


def _fits(point: StoredPoint, spec: VectorSpec) -> bool:
    vector = point.vectors[spec.name]
    try:
        points.check_vector(vector, spec, point.key)
    except StoreRejected:
        return False
    values = vector.values if isinstance(vector, SparseVector) else vector
    return bool(np.isfinite(values).all())
