"""Reading an item's three places so that a difference between them means something.

The order is what makes it sound: ledger, row, point, and for whatever differs the ledger again
together with the outbox. A change that the row already shows was committed before the second look,
so it is in the outbox or in the ledger by then; and one that was written between the looks moved
the entry's fence. Where both looks are the same and clean, the point should have been the row's.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from encoders.types import ItemRecord
from indexer import catalog, changes, encoding, entries, indexes
from indexer.catalog import Catalog
from indexer.encoding import Encoding
from indexer.errors import IndexStateError
from indexer.indexes import Index
from indexer.stores import StoredPoint, VectorStore
from indexer.towers import Tower
from indexer.verify.equality import same_payload, same_vector
from indexer.verify.judging import Cause, Sides, fence_of, judge


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An item, its cause, and whether its vectors are the tower's; None: not compared."""

    sides: Sides
    cause: Cause
    same_vectors: bool | None = None


class Eyes:
    """Looks at the items of one index. `share` of those that seem right have their vectors encoded
    again, where there is a tower."""

    def __init__(
        self,
        engine: sa.Engine,
        store: VectorStore,
        index: Index,
        *,
        tower: Tower | None,
        share: float,
    ) -> None:
        self.attached: Catalog = catalog.get_by_id(engine, index.catalog_id)
        self._engine = engine
        self._store = store
        self._index = index
        self._tower = tower
        self._share = share
        self._rng = random.Random(index.id)
        self._last_fence = 0

    def judge(self, keys: Sequence[str]) -> list[Judged]:
        """Each key with its sides and its cause; IN_FLIGHT where one of them was just changing."""
        # As it is described now: a pass may take days.
        self.attached = catalog.get_by_id(self._engine, self.attached.id)
        known = entries.look(self._engine, self._index.id, keys)
        rows = catalog.read(self._engine, self.attached, keys)
        points = self._store.fetch(self._index.ref, keys)
        self._know_fences(points.values())
        sides = [
            Sides(key=key, item=rows.get(key), point=points.get(key), entry=known.get(key))
            for key in keys
        ]
        judged = [Judged(sides=one, cause=self._cause(one)) for one in sides]
        return self._steady(self._with_vectors(judged))

    def _check_active(self) -> None:
        """An index that is being taken down differs in any way. Raises IndexStateError."""
        state = indexes.get(self._engine, self._index.id).state
        if state not in indexes.ACTIVE:
            raise IndexStateError(f"index {self._index.id} is {state}: nothing to compare.")

    def _cause(self, sides: Sides) -> Cause:
        return judge(sides, filled=self._index.backfill_done, last_fence=self._last_fence)

    def _know_fences(self, points: Iterable[StoredPoint]) -> None:
        """The newest fence is asked for only when a point has one that seems too new."""
        if max(map(fence_of, points), default=0) > self._last_fence:
            self._last_fence = entries.last_fence(self._engine)

    def _with_vectors(self, judged: Sequence[Judged]) -> list[Judged]:
        if self._tower is None:
            return list(judged)
        chosen = {
            one.sides.key: one.sides
            for one in judged
            if one.cause is Cause.AGREE and one.sides.item and self._rng.random() < self._share
        }
        same = self._same_vectors(self._tower, list(chosen.values()))
        return [_seen_again(one, same.get(one.sides.key)) for one in judged]

    def _same_vectors(self, tower: Tower, chosen: Sequence[Sides]) -> dict[str, bool]:
        """key -> whether the stored vectors, and payload fields of the encoder's own, are those
        that the tower gives for the row now."""
        records = [
            ItemRecord(key=one.key, features=one.item.features) for one in chosen if one.item
        ]
        fresh = encoding.encode(tower, records).done
        names = [spec.name for spec in tower.encoder.vectors]
        stored = self._store.fetch(
            self._index.ref,
            list(fresh),
            vectors=names,
            payload=tower.encoder.payload_fields or False,
        )
        nothing = StoredPoint(key="")
        return {key: _same_as(stored.get(key, nothing), one) for key, one in fresh.items()}

    def _steady(self, judged: Sequence[Judged]) -> list[Judged]:
        """What differs is looked up in outbox and ledger again: what moved is in flight."""
        keys = [one.sides.key for one in judged if one.cause not in SETTLED]
        if not keys:
            return list(judged)
        unrouted = changes.pending_among(self._engine, self.attached.id, keys)
        after = entries.look(self._engine, self._index.id, keys)
        self._check_active()
        moved = {
            one.sides.key
            for one in judged
            if one.cause not in SETTLED
            and (one.sides.key in unrouted or one.sides.entry != after.get(one.sides.key))
        }
        return [
            replace(one, cause=Cause.IN_FLIGHT, same_vectors=None)
            if one.sides.key in moved
            else one
            for one in judged
        ]


SETTLED = (Cause.AGREE, Cause.IN_FLIGHT)  # nothing to make sure of


def _seen_again(judged: Judged, same: bool | None) -> Judged:
    if same is None:
        return judged
    cause = judged.cause if same else Cause.STALE_VECTOR
    return replace(judged, cause=cause, same_vectors=same)


def _same_as(stored: StoredPoint, fresh: Encoding) -> bool:
    vectors = all(same_vector(stored.vectors.get(name), one) for name, one in fresh.vectors.items())
    own = {name: stored.payload[name] for name in fresh.payload if name in stored.payload}
    return vectors and same_payload(own, fresh.payload)
