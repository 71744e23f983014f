"""Whether all agrees with the oracle: every index, its ledger, and the alias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from indexer import database, indexes
from indexer.indexes import Index
from indexer.stores import KEY_FIELD, StoredPoint
from proof.parts import ALIAS, SALTS, Parts


def check(parts: Parts) -> None:
    """Every index that is building, live or standby equals the oracle; so does its ledger."""
    for index in indexes.active(parts.engine):
        check_index(parts, index)
    check_alias(parts)


def check_index(parts: Parts, index: Index) -> None:
    ledger = {row.item_key: row for row in _ledger(parts, index)}
    points = _points(parts, index)
    for key in sorted({*parts.oracle.rows, *ledger, *points}):
        problem = _problem(parts, index, ledger.get(key), points.get(key), key)
        assert problem is None, f"index {index.id} ({index.state}), item {key!r}: {problem}"


def check_alias(parts: Parts) -> None:
    """The alias names the live index, and its collection exists."""
    check_alias_of_the_store(parts)
    named, live = parts.store.aliases()[ALIAS], indexes.live(parts.engine, ALIAS)
    assert named == live.collection, f"the alias names {named!r}, live is {live.collection!r}"


def check_alias_of_the_store(parts: Parts) -> None:
    """Queries are answered at any time: the alias names a collection that exists."""
    named = parts.store.aliases().get(ALIAS)
    assert named in parts.collections(), f"the alias names {named!r}, which does not exist"


def _problem(
    parts: Parts, index: Index, entry: sa.Row[Any] | None, point: StoredPoint | None, key: str
) -> str | None:
    row = parts.oracle.rows.get(key)
    if row is None:
        if point is not None:
            return f"a ghost: no such row, but the point {point.payload}"
        return None if entry is None else _wrong_tombstone(entry)
    if entry is None:
        return "the ledger does not know it"
    if row.poisonous:
        return None if entry.quarantined else "poison that is not quarantined"
    if entry.quarantined or entry.wanted != entry.written:
        return f"not clean: {entry}"
    if point is None:
        return f"missing in the store; the ledger says {entry}"
    if not entry.present or entry.content_hash != row.content_hash:
        return f"the ledger is wrong: {entry}"
    if entry.payload_hash != row.payload_hash:
        return f"the ledger has another payload: {entry}"
    shown = {name: value for name, value in point.payload.items() if name[0] != "_"}
    if shown != row.payload or point.payload[KEY_FIELD] != key:
        return f"stale payload: {point.payload} instead of {row.payload}"
    if point.payload.get("_content") != row.content_hash.hex():
        return f"the point was made of other features: {point.payload}"
    if int(str(point.payload["_fence"])) > entry.fence:
        return f"the point has a later fence than the ledger: {point.payload}, {entry}"
    expected = parts.oracle.vector(row, SALTS[index.encoder_id])
    if expected is None or not np.allclose(point.vectors["hashing"], expected, atol=1e-5):
        return f"stale vector under the payload {point.payload}"
    return None


def _ledger(parts: Parts, index: Index) -> Sequence[sa.Row[Any]]:
    with database.begin(parts.engine) as connection:
        return connection.execute(
            sa.text("SELECT * FROM indexer.entries WHERE index_id = :id"), {"id": index.id}
        ).all()


def _points(parts: Parts, index: Index) -> dict[str, StoredPoint]:
    pages = parts.store.scroll(index.ref, vectors=["hashing"])
    return {point.key: point for page in pages for point in page}


def _wrong_tombstone(entry: sa.Row[Any]) -> str | None:
    if entry.present or entry.wanted != entry.written or entry.quarantined:
        return f"a deleted item that the ledger is not done with: {entry}"
    return None
