"""Whether the collection that is there is the one that is wanted; the same for every adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from encoders.types import VectorSpec
from indexer.errors import CollectionMismatch
from indexer.stores import CollectionSpec

IDENTITY = ("encoder_id", "index_id")  # of the metadata


def merged(found: CollectionSpec, wanted: CollectionSpec) -> CollectionSpec:
    """The collection with the wanted metadata, and with fields of both.

    Raises CollectionMismatch where it has other vectors or kinds, or belongs to another index."""
    if differences := _differences(found, wanted):
        raise CollectionMismatch(
            f"collection {wanted.collection.name!r} exists with {'; '.join(differences)}. "
            "Build a new index under another name, or drop this collection first."
        )
    return replace(found, fields={**found.fields, **wanted.fields}, metadata=dict(wanted.metadata))


def shown(vectors: Sequence[VectorSpec]) -> str:
    return ", ".join(f"{one.name}[{one.dimension or 'sparse'}]" for one in vectors)


def _differences(found: CollectionSpec, wanted: CollectionSpec) -> list[str]:
    differences: list[str] = []
    was, now = found.collection.catalog, wanted.collection.catalog
    if was != now:
        differences.append(f"catalog {was!r} instead of {now!r}")
    if _by_name(found.vectors) != _by_name(wanted.vectors):
        differences.append(f"vectors {shown(found.vectors)} instead of {shown(wanted.vectors)}")
    for name in IDENTITY:
        if found.metadata.get(name) != wanted.metadata.get(name):
            differences.append(
                f"{name} {found.metadata.get(name)!r} instead of {wanted.metadata.get(name)!r}"
            )
    for field, kind in wanted.fields.items():
        if found.fields.get(field, kind) != kind:
            differences.append(f"field {field!r} as {found.fields[field]} instead of {kind}")
    return differences


def _by_name(vectors: Sequence[VectorSpec]) -> dict[str, int | None]:
    return {one.name: one.dimension for one in vectors}
