"""Workers' upkeep verifies round after round, by one thread of all workers, at its rate."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from indexer import database, history
from indexer.stores import VectorStore
from indexer.towers import Towers
from indexer.verify import records, running
from verify.planted import insert_unseen
from verify.world import ITEMS, World, either_store
from workers import upkeep


@dataclass(kw_only=True)
class Shared:
    engine: sa.Engine
    store: VectorStore
    towers: Towers


@either_store
def test_upkeep_finds_drift_round_after_round_and_repairs_where_it_may(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_unseen(world, "new")
    first = finish(world, rounds(world))
    assert (first.seen.causes, first.seen.repaired) == ({"missed_change": 1}, 0)
    second = finish(world, rounds(world, verify_repair=True), after=first.id)
    assert second.seen.repaired == 1
    assert "repair" in {step.action for step in history.of(world.engine)}
    world.drain()
    going = rounds(world)
    third = finish(world, going, after=second.id)
    assert (third.seen.agree, third.seen.drift) == (ITEMS + 1, 0)
    monkeypatch.setattr(upkeep, "ROUND_S", 0.0)
    going._rests_until.clear()
    going.go_on(1)
    assert newest_round(world).id > third.id + 1, "round after round"


@either_store
def test_upkeep_keeps_to_its_rate_and_goes_on_where_another_process_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SAVE_S", 0.0)
    slow = rounds(world, verify_items_per_s=7.0)
    for _ in range(2):
        slow.go_on(1)
    first = newest_round(world)
    assert 0 < first.place.looked <= 3 * 7
    going = rounds(world)
    whole = finish(world, going)
    assert (whole.id, whole.place.looked) == (first.id, 3 * ITEMS)
    assert (whole.seen.agree, whole.seen.drift) == (ITEMS, 0)
    for _ in range(20):
        going.go_on(1)
    assert newest_round(world).id == whole.id, "a small index rests between its rounds"


@either_store
def test_one_thread_of_all_workers_keeps_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_S", "FOLLOW_S"):
        monkeypatch.setattr(upkeep, name, 0.05)
    settings = world.settings.model_copy(update={"verify_items_per_s": 1_000})
    services = Shared(engine=world.engine, store=world.store, towers=world.towers)
    both = [upkeep.Upkeep(settings, services) for _ in range(2)]
    for one in both:
        one.start()
    try:
        until = time.monotonic() + 30
        while not (found := _latest_round(world)) or not found.finished_at:
            assert time.monotonic() < until
            time.sleep(0.02)
        with database.begin(world.engine) as connection:
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :key"
            assert connection.scalar(sa.text(held), {"key": upkeep.UPKEEP_LOCK}) == 1
    finally:
        for one in both:
            one.stop()
    assert (found.seen.agree, found.seen.drift) == (ITEMS, 0)


def rounds(world: World, **settings: object) -> upkeep.Rounds:
    chosen = world.settings.model_copy(update={"verify_items_per_s": 1_000, **settings})
    return upkeep.Rounds(world.engine, world.store, chosen)


def newest_round(world: World) -> records.Record:
    found = _latest_round(world)
    assert found is not None
    return found


def finish(world: World, going: upkeep.Rounds, *, after: int = 0) -> records.Record:
    """The first round that has finished behind the one with that id."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        going.go_on(0.1)
        found = newest_round(world)
        if found.id > after and found.finished_at is not None:
            return found
    raise AssertionError(newest_round(world))


def _latest_round(world: World) -> records.Record | None:
    return records.latest(world.engine, world.index.id, mode="continuous")
