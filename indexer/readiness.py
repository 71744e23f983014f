"""Whether changes arrive: not that something runs, but that nothing waits that should not.

Whatever is dead, stopped or cut off, its sign is the same: a change gets old. An item that fails by
itself is no sign, as it harms itself only; nor is a backfill, which may take its time.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from indexer import standing
from indexer.errors import TwinspanError
from indexer.standing import Picture, Standing
from indexer.stores import VectorStore
from indexer.tables import LANE_DELETE, LANE_LIVE

LEADER_S = 6.0  # until somebody leads again after a leader's death
POLL_S = 0.2


def problems(
    engine: sa.Engine, store: VectorStore, *, max_age_s: float, leader_s: float | None
) -> tuple[list[str], Picture | None]:
    """Why the fleet is not ready, empty when it is, and what was seen of the ledger. For `leader_s`
    seconds it is waited for a worker that leads; None asks for none."""
    found: list[str] = []
    picture: Picture | None = None
    try:
        picture = _picture(engine, leader_s)
    except TwinspanError as cause:
        found.append(str(cause))
    try:
        store.aliases()
    except TwinspanError as cause:
        found.append(str(cause))
    if picture is not None:
        found += late(picture, max_age_s=max_age_s)
        if leader_s is not None and not picture.leaders:
            found.append("no worker watches for changes: none runs, or none reaches the database")
    return found, picture


def late(picture: Picture, *, max_age_s: float) -> list[str]:
    """What has been waiting for more than `max_age_s` seconds."""
    found: list[str] = []
    if picture.unrouted_oldest_s > max_age_s:
        found.append(
            f"a change has been waiting for {picture.unrouted_oldest_s:.0f} s to be routed"
        )
    for index in picture.indexes:
        found += _late_in(index, picture, max_age_s)
    return found


def oldest_change_s(picture: Picture) -> float | None:
    """The age of the oldest change or delete that an index does not have yet; None when they have
    them all, but for what failed by itself."""
    ages = [index.unserved_s(LANE_DELETE, LANE_LIVE) for index in picture.indexes]
    return max([*ages, picture.unrouted_oldest_s], default=0.0) or None


def _late_in(index: Standing, picture: Picture, max_age_s: float) -> list[str]:
    name = f"index {index.index_id} ({index.alias}, {index.state})"
    age_s = index.unserved_s(LANE_DELETE, LANE_LIVE)
    if age_s > max_age_s:
        return [f"{name}: a change has been waiting for {age_s:.0f} s"]
    if index.state != "live" or index.unserved_s(*index.lanes) <= max_age_s:
        return []
    if index.written_at is None:
        return [f"{name}: {index.waiting:,} items wait, and nothing was ever written"]
    still_s = (picture.now - index.written_at).total_seconds()
    if still_s <= max_age_s:
        return []
    return [f"{name}: {index.waiting:,} items wait, and nothing was written for {still_s:.0f} s"]


def _picture(engine: sa.Engine, leader_s: float | None) -> Picture:
    until = time.monotonic() + (leader_s or 0.0)
    while True:
        picture = standing.look(engine)
        if picture.leaders or time.monotonic() >= until:
            return picture
        time.sleep(POLL_S)
