"""What has to be done for each claimed item: a pure function of the ledger and the current rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from indexer import wording
from indexer.catalog import Item
from indexer.entries import Claim

HASH_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Task:
    """One claimed item whose row exists, with the hashes that its new state will have."""

    claim: Claim
    item: Item
    content_hash: bytes
    payload_hash: bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every claim is in exactly one place."""

    delete: list[Claim] = field(default_factory=list[Claim])  # no such row any more
    skip: list[Task] = field(default_factory=list[Task])  # the store holds just this
    payload: list[Task] = field(default_factory=list[Task])  # same vectors, other payload
    encode: list[Task] = field(default_factory=list[Task])
    refused: dict[str, str] = field(default_factory=dict[str, str])  # key -> why


def plan(claims: Sequence[Claim], items: Mapping[str, Item], *, payload_limit: int) -> Plan:
    """Sort claims by what they need. `items` are the current rows by key; a row that is not usable
    (its `error` says why) or whose payload exceeds `payload_limit` bytes is refused alone."""
    planned = Plan()
    for claim in claims:
        item = items.get(claim.key)
        if item is None:
            planned.delete.append(claim)
            continue
        try:
            _place(planned, _task(claim, item, payload_limit))
        except ValueError as cause:
            planned.refused[claim.key] = str(cause)
    return planned


def hashes(item: Item) -> tuple[bytes, bytes]:
    """The content hash and the payload hash of an item as it is now: what the ledger, and the hex
    of the first its point, keep of what was written. Raises ValueError for what cannot be."""
    return _digest(_canonical(item.features)), _digest(_canonical(item.payload))


def _place(planned: Plan, task: Task) -> None:
    known = task.claim.present and task.claim.content_hash == task.content_hash
    if not known:
        planned.encode.append(task)
    elif task.claim.payload_hash == task.payload_hash:
        planned.skip.append(task)
    else:
        planned.payload.append(task)


def _task(claim: Claim, item: Item, payload_limit: int) -> Task:
    if item.error:
        raise ValueError(item.error)
    payload = _canonical(item.payload)
    if len(payload) > payload_limit:
        raise ValueError(
            f"the payload has {len(payload):,} bytes, more than payload_limit ({payload_limit:,}): "
            "return fewer fields, shorten the row, or raise the setting"
        )
    content = _canonical(item.features)
    return Task(
        claim=claim, item=item, content_hash=_digest(content), payload_hash=_digest(payload)
    )


def _canonical(value: Mapping[str, object]) -> bytes:
    """One text per value: sorted names, no spaces. Raises ValueError for NaN and for what JSON
    cannot say."""
    try:
        text = json.dumps(
            value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
        return text.encode()
    except (TypeError, ValueError, RecursionError) as cause:
        raise ValueError(f"a field cannot be stored as JSON: {wording.line(cause)}") from cause


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()
