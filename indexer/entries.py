"""The ledger: one row per item and index, at once queue, ledger and drift check.

Owner of table `entries`, which `ledger` counts. An entry is dirty while `wanted > written`. Claims,
acks and releases are short transactions of their own; nothing here waits for a model or a store.
Locks are taken in key order, or skipped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from indexer import database
from indexer import entries_sql as sql

# An item is quarantined for killing its workers only after this many deaths in a row; by then it
# was claimed alone several times (see `entries_sql.CLAIM`), so it cannot be a neighbour's doing.
DEATHS_TO_QUARANTINE = 10

# Backfill gets at least this share of a claim, so that a steady stream of changes cannot starve it.
BACKFILL_SHARE = 8  # one in eight

# How long a vanished writer's write may still arrive, in seconds, and how long tombstones are kept.
TOMBSTONE_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One leased entry. Hashes are None unless the ledger is certain of what the store holds.
    `doubtful` means that an earlier holder vanished, so that `present` is no more than a guess and
    a write may still arrive: a deleted item then needs a tombstone."""

    key: str
    wanted: int
    attempts: int  # this one included
    lane: int
    changed_at: datetime
    content_hash: bytes | None
    payload_hash: bytes | None
    present: bool
    doubtful: bool = False


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one claim leased: all under one fence, until `deadline` on this process's clock."""

    index_id: int
    fence: int
    deadline: float  # time.monotonic()
    lease_s: float
    claimed_at: datetime  # by the database's clock
    claims: tuple[Claim, ...]

    def left_s(self) -> float:
        return self.deadline - time.monotonic()

    def age_s(self, claim: Claim) -> float:
        """Seconds since the item's change: by the database's clock up to the claim, by ours since,
        so that their difference does not count."""
        held_s = self.lease_s - self.left_s()
        return (self.claimed_at - claim.changed_at).total_seconds() + held_s


@dataclass(frozen=True, kw_only=True)
class Written:
    """What is in the store now for one claim: its hashes, or absent."""

    claim: Claim
    present: bool
    content_hash: bytes | None = None
    payload_hash: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The ledger's word on one item: what it believes to be in the store, unless it is dirty."""

    key: str
    wanted: int
    written: int
    fence: int
    quarantined: bool
    present: bool
    content_hash: bytes | None
    payload_hash: bytes | None

    @property
    def dirty(self) -> bool:
        return self.wanted > self.written


def claim(
    engine: sa.Engine,
    index_id: int,
    *,
    limit: int,
    lease_s: float,
    whole: int | None = None,
    deaths: int | None = None,
    tombstone_s: float = TOMBSTONE_S,
) -> Batch | None:
    """Lease up to `limit` dirty entries for `lease_s` seconds under one new fence: deletes first,
    then live changes, then backfill (which always gets its share, on top of `limit`), each oldest
    first. Expired leases are claimed again by the same statement, in groups that are small beside
    `whole` (items of the largest batch; None: `limit`), but by half of the claims only, where
    others are due. Counts an attempt for each. Committed before it returns: a crash costs one
    lease, never a change. None when nothing is due."""
    parameters = {
        "index_id": index_id,
        "limit": limit,
        "whole": whole or limit,
        "reserve": max(1, limit // BACKFILL_SHARE),
        "lease_s": lease_s,
        "deaths": deaths or DEATHS_TO_QUARANTINE,
        "tombstone_s": tombstone_s,
    }
    deadline = time.monotonic() + lease_s  # before the lease begins, so never too late
    with database.begin(engine) as connection:
        next_ = connection.execute(sql.NEXT_FENCE).one()
        rows = _claimed(connection, {**parameters, "fence": next_.fence})
    if not rows:
        return None
    held = [dict(row) for row in rows if not row["quarantined"]]
    for row in held:
        del row["quarantined"]
    claims = tuple(sorted((Claim(**row) for row in held), key=lambda one: one.key))
    return Batch(
        index_id=index_id,
        fence=next_.fence,
        deadline=deadline,
        lease_s=lease_s,
        claimed_at=next_.at,
        claims=claims,
    )


def _claimed(connection: sa.Connection, parameters: Mapping[str, Any]) -> Sequence[sa.RowMapping]:
    """The rows of one claim. Half of the claims pass by what a lost holder left, where there is
    more: those whose fence has an odd number of ones in binary (the Thue-Morse sequence), since
    indexes that take turns could get odd fences and even ones only."""
    passing_by = parameters["fence"].bit_count() % 2 == 1
    for fresh in (True, False) if passing_by else (False,):
        rows = connection.execute(sql.CLAIM, {**parameters, "fresh": fresh}).mappings().all()
        if rows:
            return rows
    return []


def ack_if_held(
    engine: sa.Engine, batch: Batch, written: Sequence[Written], *, read_at: datetime
) -> int:
    """The entries that still carry this batch's fence are clean up to the version claimed. The
    others have a new holder, or had one and are forgotten: their `wanted` grows, so that whoever
    comes next repairs what this late writer may have done. `read_at` is when the rows were read:
    later changes count from there. Call it only after the store has made the write durable. Returns
    how many were held."""
    if not written:
        return 0
    rows = sorted(written, key=lambda one: one.claim.key)
    with database.begin(engine) as connection:
        found = connection.execute(
            sql.ACK,
            {
                "index_id": batch.index_id,
                "fence": batch.fence,
                "read_at": read_at,
                "keys": [row.claim.key for row in rows],
                "wanted": [row.claim.wanted for row in rows],
                "present": [row.present for row in rows],
                "content": [row.content_hash for row in rows],
                "payload": [row.payload_hash for row in rows],
            },
        ).all()
        held = {key: held for key, held in found}
        forgotten = [row.claim.key for row in rows if row.claim.key not in held]
        if forgotten:
            connection.execute(sql.RECALL, {"index_id": batch.index_id, "keys": forgotten})
    return sum(held.values())


def release_if_held(
    engine: sa.Engine,
    batch: Batch,
    keys: Sequence[str],
    *,
    pause_s: float = 0,
    doubtful: bool = False,
) -> int:
    """The leases are given back and the attempts with them: due again after `pause_s` seconds,
    charged to nobody. For outages and shutdowns. `doubtful` when a write was under way, which may
    still arrive. Returns how many were still held."""
    if not keys:
        return 0
    with database.begin(engine) as connection:
        return connection.execute(
            sql.RELEASE,
            {
                "index_id": batch.index_id,
                "fence": batch.fence,
                "keys": sorted(keys),
                "pause_s": pause_s,
                "doubtful": doubtful,
            },
        ).rowcount


def fail_if_held(
    engine: sa.Engine,
    batch: Batch,
    errors: Mapping[str, str],
    *,
    max_attempts: int,
    backoff_s: float,
    backoff_max_s: float,
) -> int:
    """Each key keeps its error and is due again after a growing pause with jitter; at
    `max_attempts` it is quarantined until its row changes or someone retries it. A key whose row
    changed meanwhile starts anew at once. Returns how many are quarantined now."""
    if not errors:
        return 0
    keys = sorted(errors)
    wanted = {claim.key: claim.wanted for claim in batch.claims}
    with database.begin(engine) as connection:
        quarantined = connection.scalars(
            sql.FAIL,
            {
                "index_id": batch.index_id,
                "fence": batch.fence,
                "keys": keys,
                "errors": [errors[key].replace("\x00", "�")[:2_000] for key in keys],
                "wanted": [wanted[key] for key in keys],
                "max_attempts": max_attempts,
                "backoff_s": backoff_s,
                "backoff_max_s": backoff_max_s,
            },
        ).all()
    return sum(quarantined)


def fill(connection: sa.Connection, index_id: int, keys: Sequence[str]) -> int:
    """Keys that the index has no entry for get one, in the backfill lane. Part of the caller's
    transaction, which also moves its cursor. Returns how many were new."""
    return connection.execute(sql.FILL, {"index_id": index_id, "keys": list(keys)}).rowcount


def mark(engine: sa.Engine, index_id: int, keys: Sequence[str], *, lane: int) -> None:
    """These items are wanted again, and will be written in full, whatever the ledger believes."""
    with database.begin(engine) as connection:
        parameters = {"index_id": index_id, "keys": list(keys), "lane": lane}
        connection.execute(sql.MARK, parameters)


def look(engine: sa.Engine, index_id: int, keys: Sequence[str]) -> dict[str, Entry]:
    """What the ledger says of these items now; those without an entry are absent."""
    with database.begin(engine) as connection:
        rows = connection.execute(sql.LOOK, {"index_id": index_id, "keys": list(keys)})
        return {row["key"]: Entry(**row) for row in rows.mappings()}


def scan_present(engine: sa.Engine, index_id: int, *, after: str | None, limit: int) -> list[str]:
    """The next keys behind `after`, bytewise, of items that the ledger believes to be in the store
    (or that claim to be written further than was wanted)."""
    parameters = {"index_id": index_id, "after": after or "", "limit": limit}
    with database.begin(engine) as connection:
        return list(connection.scalars(sql.SCAN_PRESENT, parameters))


def repair_if_unchanged(
    engine: sa.Engine,
    index_id: int,
    found: Mapping[str, tuple[Entry | None, bool]],
    *,
    lane: int,
) -> int:
    """These items are wanted again and will be written in full or deleted, and the ledger knows
    whether the store has a point of them. `found` is key -> the entry that was seen, None where
    there was none, and whether there is a point. An entry that changed since is left alone.
    Returns how many were not."""
    keys = sorted(found)
    seen = [found[key][0] for key in keys]
    parameters = {
        "index_id": index_id,
        "lane": lane,
        "keys": keys,
        "wanted": [entry.wanted if entry else 1 for entry in seen],
        "written": [entry.written if entry else 0 for entry in seen],
        "fence": [entry.fence if entry else 0 for entry in seen],
        "present": [found[key][1] for key in keys],
    }
    with database.begin(engine) as connection:
        return connection.execute(sql.REPAIR, parameters).rowcount


def last_fence(engine: sa.Engine) -> int:
    """The newest fence that any claim has taken: no write of ours carries a higher one."""
    with database.begin(engine) as connection:
        return connection.scalar(sql.LAST_FENCE) or 0


def raise_fences(engine: sa.Engine, above: int) -> int:
    """Every claim from now on has a fence above that. For a store that is newer than the ledger, as
    after the database was restored from a backup: it would refuse what we write as stale. Returns
    the lowest fence that a claim can have."""
    with database.begin(engine) as connection:
        return connection.execute(sql.RAISE_FENCES, {"above": above}).scalar_one()


def doubt(
    engine: sa.Engine, index_id: int, *, after: str, again: bool, limit: int = 5_000
) -> list[str]:
    """The next entries behind key `after` are believed nothing: what is written next is written in
    full, and does not rely on what the store should hold. With `again` they are due for it, in the
    backfill lane. Leases are over: their holders' writes may not count. Returns their keys."""
    with database.begin(engine) as connection:
        parameters = {"index_id": index_id, "after": after, "limit": limit, "again": again}
        return sorted(connection.scalars(sql.DOUBT, parameters))


def unknown(engine: sa.Engine, index_id: int, keys: Sequence[str]) -> list[str]:
    """Those of the keys that have no entry."""
    with database.begin(engine) as connection:
        parameters = {"index_id": index_id, "keys": list(keys)}
        return list(connection.scalars(sql.UNKNOWN, parameters))


def retry(
    engine: sa.Engine, *, index_id: int | None = None, keys: Sequence[str] | None = None
) -> int:
    """Failed and quarantined items are due now with all their attempts: of one index or all, these
    keys or all. Returns how many."""
    with database.begin(engine) as connection:
        parameters = {"index_id": index_id, "keys": None if keys is None else list(keys)}
        return connection.execute(sql.RETRY, parameters).rowcount


def purge(engine: sa.Engine, *, tombstone_s: float) -> int:
    """Entries of items deleted longer ago than `tombstone_s` seconds are gone; those that have a
    tombstone in the store are wanted once more first, to have it deleted. Returns how many are
    gone."""
    with database.begin(engine) as connection:
        connection.execute(sql.UNBURY, {"tombstone_s": tombstone_s})
        return connection.execute(sql.PURGE, {"tombstone_s": tombstone_s}).rowcount
