"""What the row, the ledger's entry and the point of one item say together: a pure function.

The ledger tells causes apart. Where the point differs from the row although the ledger holds the
row's very hashes, the store lost or changed something. Where the ledger holds other hashes and
believes itself to be clean, nobody told it of the row's change: capture failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from indexer import plan
from indexer.catalog import Item
from indexer.entries import Entry
from indexer.stores import CONTENT_FIELD, FENCE_FIELD, StoredPoint
from indexer.verify.equality import same_payload


class Cause(StrEnum):
    """Why an item is counted where it is. The first seven are drift."""

    MISSED_CHANGE = "missed_change"  # the ledger was never told that the row changed
    MISSING = "missing"  # the ledger believes in a point that is not there
    STALE_PAYLOAD = "stale_payload"  # the store holds another payload than was written
    STALE_VECTOR = "stale_vector"  # the store holds other vectors than the row's
    GHOST = "ghost"  # a point that neither the catalog nor the ledger knows
    WRONG_ENCODER = "wrong_encoder"  # the vectors are another encoder's
    LEDGER_WRONG = "ledger_wrong"  # the store is right, and the ledger contradicts it
    AGREE = "agree"
    IN_FLIGHT = "in_flight"  # a change is on its way: nothing can be said yet
    QUARANTINED = "quarantined"  # given up, with an error, until its row changes
    UNUSABLE = "unusable"  # the row cannot be indexed, and the ledger knows


DRIFT = tuple(Cause)[:7]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """One item as its three places have it; None where it is not."""

    key: str
    item: Item | None
    point: StoredPoint | None
    entry: Entry | None

    @cached_property
    def hashes(self) -> tuple[bytes, bytes]:
        """Those of the row. One that has none was refused, so nothing can equal it."""
        try:
            return plan.hashes(self.item) if self.item else (b"", b"")
        except ValueError:
            return b"", b""

    @property
    def fence(self) -> int:
        """That of the write which left the point; 0 where there is none."""
        return fence_of(self.point) if self.point else 0


def fence_of(point: StoredPoint) -> int:
    found = point.payload.get(FENCE_FIELD)
    return found if isinstance(found, int) else 0


def judge(sides: Sides, *, filled: bool, last_fence: int) -> Cause:
    """The cause under which the item counts, if none of its sides is just changing. `filled`: the
    ledger should have an entry for every row. `last_fence`: no write of ours has a higher one."""
    entry, difference = sides.entry, _difference(sides)
    if entry is not None and entry.written > entry.wanted:
        return Cause.LEDGER_WRONG  # its next change would not be seen
    if entry is not None and entry.dirty:
        return _of_dirty(sides, entry, difference)
    if difference is None:
        sound = (entry is None and not filled) or _ledger_agrees(sides)
        return Cause.AGREE if sound and sides.fence <= last_fence else Cause.LEDGER_WRONG
    if entry is None and not filled:
        return Cause.IN_FLIGHT
    return _of_difference(sides, difference)


def _of_dirty(sides: Sides, entry: Entry, difference: Cause | None) -> Cause:
    if difference is None:
        return Cause.AGREE
    if not entry.quarantined:
        return Cause.IN_FLIGHT
    return Cause.UNUSABLE if sides.item and sides.item.error else Cause.QUARANTINED


def _difference(sides: Sides) -> Cause | None:
    """How the store differs from the catalog, whatever the ledger says; None: it does not."""
    item, point = sides.item, sides.point
    if item is None:
        return None if point is None else Cause.GHOST
    if item.error:
        return Cause.UNUSABLE
    if point is None:
        return Cause.MISSING
    content = point.payload.get(CONTENT_FIELD)
    if content is not None and content != sides.hashes[0].hex():
        return Cause.STALE_VECTOR
    shown = {name: value for name, value in point.payload.items() if not name.startswith("_")}
    if content is None or not same_payload(shown, item.payload):
        return Cause.STALE_PAYLOAD
    return None


def _of_difference(sides: Sides, difference: Cause) -> Cause:
    """Whose doing it is, where the ledger believes itself to be clean."""
    entry = sides.entry
    known = entry is not None and entry.present
    match difference:
        case Cause.GHOST:
            return Cause.MISSED_CHANGE if known else Cause.GHOST
        case Cause.UNUSABLE:
            return Cause.UNUSABLE if sides.point is None else Cause.MISSED_CHANGE
        case Cause.MISSING:
            return Cause.MISSING if known else Cause.MISSED_CHANGE
        case _:
            return difference if known and _ledger_agrees(sides) else Cause.MISSED_CHANGE


def _ledger_agrees(sides: Sides) -> bool:
    """Whether the ledger believes of the point what the row says. A hash that it does not have is
    no belief: the next write is a full one."""
    entry, item = sides.entry, sides.item
    if item is None:
        return entry is None or not entry.present
    if entry is None or not entry.present:
        return False
    content, payload = sides.hashes
    return entry.content_hash in {None, content} and entry.payload_hash in {None, payload}
