"""Encoding a batch that may hold bad items: bisected, so that each harms only itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from encoders.types import EncodedItems, Encoder, ItemRecord, SparseVector, VectorSpec
from indexer.errors import TwinspanError
from indexer.stores import Vector
from indexer.towers import Tower


class TowerFailed(TwinspanError):
    """The tower cannot encode anything at all: no item's fault."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What the tower says about one item: its vectors by name, and payload fields of its own."""

    vectors: Mapping[str, Vector]
    payload: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Encodings by key, errors by key for the items that have none, and the seconds that the tower
    took: not those in which this process was stopped before or after it."""

    done: Mapping[str, Encoding]
    failed: Mapping[str, str]
    tower_s: float


def encode(tower: Tower, records: Sequence[ItemRecord]) -> Encoded:
    """Every item encoded or charged: halves are tried until the culprits stand alone (about
    2 log2(n) extra passes for one), then every vector is checked. Raises TowerFailed, charging
    nobody, when the tower fails even an item without features."""
    done: dict[str, Encoding] = {}
    failed: dict[str, str] = {}
    began = time.monotonic()
    if records:
        _encode_or_halve(tower, records, done, failed)
    tower_s = time.monotonic() - began
    if failed:
        _check_tower(tower, failed)
    return Encoded(done=done, failed=failed, tower_s=tower_s)


def _encode_or_halve(
    tower: Tower,
    records: Sequence[ItemRecord],
    done: dict[str, Encoding],
    failed: dict[str, str],
) -> None:
    try:
        encoded = tower.encode_items(records)
    except Exception as cause:  # noqa: BLE001 - a tower may raise anything; it is kept per item
        if len(records) == 1:
            failed[records[0].key] = f"the tower failed: {type(cause).__name__}: {cause}"
            return
        middle = len(records) // 2
        _encode_or_halve(tower, records[:middle], done, failed)
        _encode_or_halve(tower, records[middle:], done, failed)
        return
    _check_payload(tower.encoder, len(records), encoded)
    _sort_out(tower.encoder.vectors, records, encoded, done, failed)


def _sort_out(
    specs: Sequence[VectorSpec],
    records: Sequence[ItemRecord],
    encoded: EncodedItems,
    done: dict[str, Encoding],
    failed: dict[str, str],
) -> None:
    problems = _problems(specs, len(records), encoded)
    for row, record in enumerate(records):
        if row in problems:
            failed[record.key] = problems[row]
            continue
        vectors = {spec.name: encoded.vectors[spec.name][row] for spec in specs}
        payload: Mapping[str, object] = encoded.payload[row] if encoded.payload else {}
        done[record.key] = Encoding(vectors=vectors, payload=payload)


def _check_payload(encoder: Encoder, n: int, encoded: EncodedItems) -> None:
    """Each item has just the fields that the encoder says: one that nobody knows of would be lost
    with the next change of the payload alone."""
    wanted = set(encoder.payload_fields)
    if (wanted or encoded.payload) and len(encoded.payload) != n:
        raise TowerFailed(f"the tower gave {len(encoded.payload)} payloads for {n} items")
    for one in encoded.payload:
        if set(one) != wanted:
            raise TowerFailed(f"the tower gave payload fields {sorted(one)}, not {sorted(wanted)}")


def _problems(specs: Sequence[VectorSpec], n: int, encoded: EncodedItems) -> dict[int, str]:
    """row -> what is wrong with its vectors. Stores accept NaN without a word, so this must not."""
    problems: dict[int, str] = {}
    for spec in specs:
        values = encoded.vectors[spec.name]
        if len(values) != n:
            raise TowerFailed(f"the tower gave {len(values)} vectors {spec.name!r} for {n} items")
        if isinstance(values, np.ndarray):
            _check_dense(spec, values, problems)
        else:
            _check_sparse(spec, values, problems)
    return problems


def _check_dense(spec: VectorSpec, values: np.ndarray, problems: dict[int, str]) -> None:
    if values.shape[1:] != (spec.dimension,):
        raise TowerFailed(
            f"the tower gave vectors {spec.name!r} of shape {values.shape[1:]}, "
            f"not ({spec.dimension},)"
        )
    for row in np.flatnonzero(~np.isfinite(values).all(axis=1)):
        problems[int(row)] = f"the tower gave a vector {spec.name!r} that is not finite"


def _check_sparse(
    spec: VectorSpec, values: Sequence[SparseVector], problems: dict[int, str]
) -> None:
    for row, vector in enumerate(values):
        if not np.isfinite(vector.values).all():
            problems[row] = f"the tower gave a vector {spec.name!r} that is not finite"
        elif len(vector.indices) != len(vector.values):
            problems[row] = f"the tower gave a sparse vector {spec.name!r} of unequal lengths"


def _check_tower(tower: Tower, failed: Mapping[str, str]) -> None:
    """An item that says nothing can be encoded by a tower that works."""
    try:
        tower.encode_items([ItemRecord(key="", features={})])
    except Exception as cause:
        example = next(iter(failed.values()))
        raise TowerFailed(
            f"encoder {tower.id} fails even an item without features, so no item is charged: "
            f"{type(cause).__name__}: {cause}. First item's error: {example}"
        ) from cause
