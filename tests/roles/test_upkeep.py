"""A round of upkeep needs no more rights than a worker's role has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import live_world
import numpy as np
import processes
import pytest
import sqlalchemy as sa
from celery import Celery
from live_world import ENCODER_ID, HashingTowers, World

from indexer import (
    catalog,
    database,
    entries,
    history,
    indexes,
    ledger,
    reindex,
    shadow_reads,
    standing,
    sync,
)
from indexer.settings import Settings
from indexer.stores import Point, VectorStore
from indexer.towers import Towers
from indexer.verify import records
from roles.world import spec_like
from workers import upkeep, watch
from workers.app import make_app
from workers.bell import Bell


class _Bell(Bell):
    """Remembers what it was rung for."""

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        self.rung: set[int] = set()

    def ring(self, due: Sequence[indexes.Index], *, fence: int) -> int:
        self.rung |= {index.id for index in due}
        return super().ring(due, fence=fence)


@dataclass(frozen=True)
class _Services:
    engine: sa.Engine
    store: VectorStore
    towers: Towers


def test_a_round_of_upkeep_needs_no_more_rights_than_a_workers_role_has(
    each_engine: sa.Engine,
    world: World,
    role: str,
    login: Callable[[str], sa.Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A promotion that died half-way, a standby that had its time, drift whose fence no claim was
    given yet, records of last year: as the watcher and upkeep of a worker meet them."""
    for name in ("LOOK_S", "ROUND_S", "PAUSE_S"):
        monkeypatch.setattr(upkeep, name, 0.02)
    catalog.permit(each_engine, role, "worker")
    worker = login(role)
    settings = Settings(
        data_dir="/nonexistent", verify_items_per_s=10_000, verify_repair=True, standby_s=0
    )
    bell = _Bell(make_app(settings))
    watcher = watch.Watcher(settings, worker, bell)
    keeping = upkeep.Upkeep(settings, _Services(worker, world.store, HashingTowers()))
    world.insert([f"m{n}" for n in range(20)])
    later = _promoted_half_way(world)
    watcher.start()
    try:
        processes.until(lambda: later.id in bell.rung, "the watcher rang")
        sync.drain(worker, world.store, HashingTowers(), settings)  # type: ignore[arg-type]
        for index in (world.index, later):
            _make_old_records(each_engine, index)
        high = entries.last_fence(worker) + 1_000
        world.store.delete_if_newer(later.ref, ["m3"], fence=high)
        ghost = Point(key="ghost", vectors={"hashing": np.ones(16, np.float32)}, payload={})
        world.store.write_if_newer(later.ref, [ghost], fence=high, mode="upsert")
        keeping.start()
        processes.until(lambda: entries.last_fence(worker) >= high, "the fences were raised")
        processes.until(
            lambda: _state(worker, world.index.id) == "retired", "the standby was retired"
        )
        sync.drain(worker, world.store, HashingTowers(), settings)  # type: ignore[arg-type]
        processes.until(lambda: _finds_nothing(worker, later), "a round found nothing")
    finally:
        keeping.stop()
        watcher.stop()
    assert _state(worker, later.id) == "live"
    assert world.store.collections() == [later.collection]
    assert list(ledger.summary(worker)) == [later.id]
    assert [(one.action, one.index_id, one.outcome) for one in reversed(history.of(worker))][
        :3
    ] == [
        ("promote", later.id, "done"),
        ("retire", world.index.id, "done"),
        ("repair", later.id, "done"),
    ]
    assert shadow_reads.summary(worker, later.id) is None
    assert not standing.look(worker).unrouted


def _state(engine: sa.Engine, index_id: int) -> str:
    return indexes.get(engine, index_id).state


def _finds_nothing(engine: sa.Engine, index: indexes.Index) -> bool:
    found = records.latest(engine, index.id, mode="continuous")
    return (
        found is not None
        and found.finished_at is not None
        and (found.seen.items, found.seen.agree, found.seen.drift) == (20, 20, 0)
    )


def _promoted_half_way(world: World) -> indexes.Index:
    """A second index, which the alias names already, while the ledger calls the first one live."""
    later = indexes.register(
        world.engine,
        catalog_id=world.index.catalog_id,
        alias="items",
        encoder=live_world.info(ENCODER_ID),
        queue="roles",
    )
    world.store.ensure_collection(spec_like(world, later))
    for _ in reindex.fill(world.engine, later):
        pass
    world.store.point_alias("items", later.collection)
    with database.begin(world.engine) as connection:
        indexes.make_live(connection, world.index.id, "items")
        history.record(
            connection,
            index_id=later.id,
            alias="items",
            action="promote",
            report={"outcome": "begun", "before": world.index.id},
        )
    return later


def _make_old_records(engine: sa.Engine, index: indexes.Index) -> None:
    with database.begin(engine) as connection:
        history.record(connection, index_id=index.id, alias="items", action="gate")
        connection.execute(
            sa.text(
                "UPDATE indexer.rollouts SET at = now() - interval '1 year' WHERE action = 'gate'"
            )
        )
    year_ago = datetime.now(UTC) - timedelta(days=365)
    read = shadow_reads.Read(
        index_id=index.id,
        live_index_id=index.id,
        at=year_ago,
        k=1,
        overlap=1,
        live_ms=1,
        shadow_ms=1,
    )
    shadow_reads.add(engine, [read])
