"""Items, towers and batches that fail: who is charged, who is not, and how they return."""

from __future__ import annotations

import time
from typing import Any

import pytest

from indexer import catalog, ledger, sync
from syncing.world import World


def test_one_poison_item_in_512_harms_only_itself_and_returns_after_a_fix(world: World) -> None:
    world.settings = world.settings.model_copy(update={"max_attempts": 1})
    world.insert(*(f"k{n:03d}" for n in range(511)))
    world.insert("bad", title="POISON")
    report = world.drain()
    assert (report.encoded, report.quarantined) == (511, 1)
    assert world.encoder.passes < 60, "bisection, not one by one"
    (failure,) = ledger.failures(world.engine)
    assert failure.key == "bad"
    assert "is poison" in failure.error
    assert world.compare().quarantined == 1
    world.run("UPDATE public.items SET title = 'cured' WHERE id = 'bad'")
    assert world.drain().encoded == 1
    world.assert_agrees(512)


def test_a_vector_that_is_not_finite_never_reaches_the_store(world: World) -> None:
    world.settings = world.settings.model_copy(update={"max_attempts": 1})
    world.insert(*(f"k{n:03d}" for n in range(511)))
    world.insert("bad", title="NAN")
    report = world.drain()
    assert (report.encoded, report.quarantined) == (511, 1)
    assert "not finite" in ledger.failures(world.engine)[0].error
    world.run("UPDATE public.items SET title = 'cured' WHERE id = 'bad'")
    world.drain()
    world.assert_agrees(512)


def test_a_failing_item_is_tried_as_often_as_the_setting_says(world: World) -> None:
    world.settings = world.settings.model_copy(update={"max_attempts": 3})
    world.insert("bad", title="POISON")
    report = world.drain()
    assert (report.failed, report.quarantined) == (3, 1)
    assert ledger.failures(world.engine)[0].attempts == 3


def test_a_tower_that_fails_on_everything_charges_nobody(world: World) -> None:
    world.insert("a", "b")
    world.encoder.broken = True
    report = world.drain()
    assert report.released == 2
    assert "no item is charged" in report.outages[0]
    assert ledger.failures(world.engine) == []
    world.encoder.broken = False
    world.run("UPDATE indexer.entries SET due_at = now()")
    world.drain()
    world.assert_agrees(2)


def test_rows_that_cannot_be_indexed_are_refused_alone(world: World) -> None:
    world.settings = world.settings.model_copy(update={"max_attempts": 1, "payload_limit": 1_000})
    world.insert("a", "b")
    world.run("UPDATE public.items SET title = repeat('x', 5000) WHERE id = 'b'")
    report = world.drain()
    assert (report.encoded, report.quarantined) == (1, 1)
    assert "payload_limit" in ledger.failures(world.engine)[0].error


def test_a_batch_too_slow_for_its_lease_writes_nothing(world: World) -> None:
    world.settings = world.settings.model_copy(
        update={"lease_s": 1.0, "store_timeout_s": 0.999, "max_attempts": 1}
    )
    world.insert("slow", title="SLOW")
    report = world.drain()
    assert world.store.count(world.index.ref) == 0
    assert report.quarantined == 1
    assert "too long for lease_s" in ledger.failures(world.engine)[0].error


def test_an_item_whose_worker_stood_still_is_charged_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a SIGSTOP: the lease is used up, but not by the tower."""
    world.settings = world.settings.model_copy(
        update={"lease_s": 1.0, "store_timeout_s": 0.5, "max_attempts": 1}
    )
    world.insert("innocent")
    real = catalog.read

    def read_late(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.6)
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "read", read_late)
        report = world.drain()
    assert report.released == 1
    assert "too long for lease_s" in report.outages[0]
    assert ledger.failures(world.engine) == []
    assert world.store.count(world.index.ref) == 0
    time.sleep(sync.OUTAGE_PAUSE_S)
    assert world.drain().encoded == 1
