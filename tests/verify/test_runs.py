"""Verifications are stored, interrupted and gone on with, and their repairs are remembered."""

from __future__ import annotations

import time

import pytest

from indexer import history
from indexer.errors import UsageError
from indexer.verify import Options, asking, records, running
from verify.planted import plant
from verify.world import ITEMS, World, either_store


@either_store
@pytest.mark.parametrize(("phase", "chunks"), [("rows", 2), ("ledger", 3), ("points", 3)])
def test_an_interrupted_verification_goes_on_and_counts_nothing_twice(
    world: World, phase: str, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SAVE_S", 0.0)
    planted = plant(world)
    world.run("UPDATE public.items SET title = 'on its way' WHERE id = 'k19'")
    options = Options(chunk_items=4)
    record = running.started(world.engine, world.index, options=options)
    run_until(world, record, phase=phase, chunks=chunks)
    resumed = running.resumed(world.engine, world.index, options=options)
    assert (resumed.id, resumed.place.phase) == (record.id, phase)
    for _ in running.run(world.engine, world.store, world.index, resumed, tower=world.tower):
        pass
    found = records.latest(world.engine, world.index.id, mode="once")
    assert found is not None
    assert found.finished_at is not None
    assert found.seen == resumed.seen
    assert found.seen.causes == {cause: len(keys) for cause, keys in planted.items()}
    assert (found.seen.items, found.seen.in_flight) == (ITEMS - 1, 1)  # k19 was not judged
    with pytest.raises(UsageError, match="leave out --resume"):
        running.resumed(world.engine, world.index, options=options)


@either_store
def test_a_repair_is_in_the_history_and_a_second_look_says_zero(world: World) -> None:
    planted = sum(map(len, plant(world).values()))
    wish = asking.Wish(vectors=True, repair=True)
    *_, first = asking.verified(world.engine, world.store, world.towers, world.index, wish)
    assert (first.seen.drift, first.seen.repaired) == (planted, planted)
    [step] = history.of(world.engine)
    assert (step.action, step.index_id) == ("repair", world.index.id)
    assert step.report is not None
    assert step.report["repaired"] == planted
    world.drain()
    wish = asking.Wish(sample=5)
    *_, second = asking.verified(world.engine, world.store, world.towers, world.index, wish)
    assert (second.seen.agree, second.seen.drift) == (ITEMS, 0)
    assert 0 < second.seen.vectors < ITEMS


@either_store
def test_old_verifications_are_trimmed(world: World) -> None:
    for _ in range(4):
        running.started(world.engine, world.index, options=Options())
    assert records.trim(world.engine, kept=2) == 2
    assert records.trim(world.engine, kept=2) == 0


@either_store
def test_a_verification_keeps_to_its_rate(world: World) -> None:
    began = time.monotonic()
    world.compare(chunk_items=5, items_per_s=100)  # rows, entries and points: sixty in all
    assert time.monotonic() - began >= 0.5


def run_until(world: World, record: records.Record, *, phase: str, chunks: int) -> None:
    """The process is gone after so many steps of a phase: what was saved is what there is."""
    for now in running.run(world.engine, world.store, world.index, record, tower=world.tower):
        chunks -= now.place.phase == phase
        if not chunks:
            return
