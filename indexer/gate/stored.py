"""Is what is there right? The collection's make, and sampled points against rows encoded anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from encoders.types import ItemRecord
from indexer import catalog, changes, collection, encoding, ledger, verify
from indexer.catalog import Item
from indexer.encoding import Encoding
from indexer.gate.report import Check
from indexer.gate.subject import Subject
from indexer.stores import FENCE_FIELD, KEY_FIELD, CollectionSpec, CollectionStatus, StoredPoint
from indexer.stores.mismatch import shown

VECTORS, COLLECTION, OPTIMISED = "stored vectors", "collection", "optimised"
CHUNK = 256  # items encoded and compared together
STRIKES = 3  # looks, none of which may find the item in flight, until a difference counts
LOOKS = 20  # at items that change all the time
EXAMPLES = 10


def described(subject: Subject) -> Check:
    """The collection is what the catalog and the encoder ask for: vectors, metadata, and a payload
    index for every field that may be filtered by."""
    wanted = collection.spec_of(subject.index, subject.catalog, subject.tower.encoder.vectors)
    status = subject.store.status(subject.index.collection)
    wrong = _wrong_make(wanted, status)
    missing = _missing_indexes(wanted, status)
    indexes = f"{len(wanted.fields)} fields indexed" if not missing else "no payload index for "
    if status.payload_indexes is None:
        indexes = "this store keeps no payload indexes"
    return Check(
        name=COLLECTION,
        passed=not wrong and not missing,
        measured="; ".join([*wrong, indexes + ", ".join(missing)]),
        value=float(len(wrong) + len(missing)),
        threshold=0.0,
        meaning="The index says truthfully which encoder made it, and every filter has an index.",
        remedy="Build a new index: payload indexes must exist before the first point, or filtered "
        "searches lose items.",
        figures={"wrong": wrong, "missing_indexes": missing},
    )


def _wrong_make(wanted: CollectionSpec, status: CollectionStatus) -> list[str]:
    found = status.spec
    wrong: list[str] = []
    if {(one.name, one.dimension) for one in found.vectors} != {
        (one.name, one.dimension) for one in wanted.vectors
    }:
        wrong.append(f"vectors {shown(found.vectors)} instead of {shown(wanted.vectors)}")
    if found.collection != wanted.collection:
        wrong.append(f"{found.collection} instead of {wanted.collection}")
    for name, value in wanted.metadata.items():
        if found.metadata.get(name) != value:
            wrong.append(f"{name} {found.metadata.get(name)!r} instead of {value!r}")
    return wrong


def _missing_indexes(wanted: CollectionSpec, status: CollectionStatus) -> list[str]:
    """Fields without an index of their kind."""
    present = status.payload_indexes
    if present is None:
        return []
    needed = {KEY_FIELD: "keyword", FENCE_FIELD: "integer", **wanted.fields}
    return sorted(f"{name} ({kind})" for name, kind in needed.items() if present.get(name) != kind)


def optimised(subject: Subject) -> Check:
    """The store has built the graphs that it wants."""
    subject.store.optimize(subject.index.ref)
    status = subject.store.status(subject.index.collection)
    return Check(
        name=OPTIMISED,
        passed=status.indexed,
        measured=f"{status.points:,} points, "
        + ("all indexed" if status.indexed else "many of them in no graph yet"),
        meaning="No search has to scan points that a graph would find.",
        remedy="Wait for the store's optimizer, and look whether it reports an error.",
        figures={"points": status.points},
    )


@dataclass(kw_only=True)
class _Found:
    """`agree` items are as they should be; the others by what is wrong with them."""

    agree: int = 0
    unsettled: int = 0  # changing all the time
    wrong: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @property
    def differences(self) -> int:
        return sum(len(keys) for keys in self.wrong.values())


def vectors(subject: Subject) -> Check:
    """Sampled points hold the vectors and the payload that their rows give when they are read and
    encoded now."""
    found = _Found()
    for start in range(0, len(subject.sample), CHUNK):
        _settle(subject, subject.sample[start : start + CHUNK], found)
    kinds = ", ".join(f"{len(keys):,} {kind}" for kind, keys in sorted(found.wrong.items()))
    return Check(
        name=VECTORS,
        passed=not found.differences and (found.agree > 0 or not subject.sample),
        value=float(found.differences),
        threshold=0.0,
        measured=f"{found.agree:,} of {len(subject.sample):,} sampled items are as their rows "
        "and the encoder say" + (f"; {kinds}" if kinds else ""),
        meaning="The points were made by this encoder, of the rows as they are now.",
        remedy="The collection holds what another encoder or an older row gave: build the index "
        "anew, or mend it with `twinspan verify --repair --vectors`.",
        figures={
            "sampled": len(subject.sample),
            "agree": found.agree,
            "unsettled": found.unsettled,
            "examples": {kind: keys[:EXAMPLES] for kind, keys in found.wrong.items()},
        },
    )


def _settle(subject: Subject, keys: Sequence[str], found: _Found) -> None:
    """Each item agrees, or differs in STRIKES looks between which it was not on its way."""
    suspects = dict.fromkeys(keys, 0)
    for look in range(LOOKS):
        verdicts = _compare(subject, list(suspects))
        moving = _in_flight(subject, list(verdicts))
        found.agree += len(suspects) - len(verdicts)
        suspects = {key: suspects[key] + (key not in moving) for key in verdicts}
        for key in [key for key, strikes in suspects.items() if strikes >= STRIKES]:
            found.wrong.setdefault(verdicts[key], []).append(key)
            del suspects[key]
        if not suspects:
            return
        if look and moving:
            subject.pause()
    found.unsettled += len(suspects)


def _in_flight(subject: Subject, keys: Sequence[str]) -> set[str]:
    """Those with a change that is not in the store yet. Asked in the order in which changes move,
    so that none slips through between the two."""
    if not keys:
        return set()
    unrouted = changes.pending_among(subject.engine, subject.catalog.id, keys)
    return unrouted | ledger.dirty_among(subject.engine, subject.index.id, keys)


def _compare(subject: Subject, keys: Sequence[str]) -> dict[str, str]:
    """What is wrong, by key; those that agree are absent."""
    names = [spec.name for spec in subject.tower.encoder.vectors]
    points = subject.store.fetch(subject.index.ref, keys, vectors=names)
    rows = catalog.read(subject.engine, subject.catalog, keys)
    records = [ItemRecord(key=key, features=row.features) for key, row in rows.items()]
    fresh = encoding.encode(subject.tower, records).done
    verdicts = {key: _verdict(points.get(key), rows.get(key), fresh.get(key)) for key in keys}
    return {key: verdict for key, verdict in verdicts.items() if verdict}


def _verdict(point: StoredPoint | None, row: Item | None, fresh: Encoding | None) -> str | None:
    if row is None or row.error:
        return None if point is None or row is not None else "without a row"
    if point is None:
        return "without a point"
    if fresh is None:
        return "that cannot be encoded"
    if not all(verify.same_vector(point.vectors[name], v) for name, v in fresh.vectors.items()):
        return "with other vectors"
    return None if _same_payload(point.payload, row.payload, fresh.payload) else "with stale fields"


def _same_payload(
    stored: Mapping[str, object], row: Mapping[str, object], encoder: Mapping[str, object]
) -> bool:
    shown = {name: value for name, value in stored.items() if not name.startswith("_")}
    own = {name: stored.get(name) for name in encoder}
    return verify.same_payload(shown, row) and verify.same_payload(own, encoder)
