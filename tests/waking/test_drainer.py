"""What a wake-up does: one process drains an index, and survives what is away meanwhile."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder, info
from live import free_port
from live_world import ENCODER_ID, World

from indexer import database, indexes
from indexer.errors import StoreUnavailable
from indexer.settings import Settings
from workers import tasks
from workers.app import QUEUE
from workers.tasks import Drainer, StopFlag


class NoStore:
    """A store that does not answer; everything else about it is real."""

    name = "a store that is away"

    def __getattr__(self, name: str) -> Callable[..., None]:
        def away(*_arguments: object, **_named: object) -> None:
            raise StoreUnavailable("the store is away")

        return away


def test_a_drain_works_until_nothing_is_due(
    world: World, services: SimpleNamespace, settings: Settings
) -> None:
    world.insert([f"k{n}" for n in range(300)])
    Drainer(settings, services).drain(world.index.id)
    assert world.is_clean()
    assert world.assert_agrees() == 300


def test_an_index_whose_encoder_is_missing_is_left_alone_and_others_go_on(
    world: World,
    services: SimpleNamespace,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    other = indexes.register(
        world.engine,
        catalog_id=world.index.catalog_id,
        alias="other",
        encoder=info("f" * 40, uri=str(tmp_path / "nowhere")),
        queue=QUEUE,
    )
    world.insert(["a", "b"])
    drainer = Drainer(settings, services)
    with caplog.at_level(logging.WARNING):
        drainer.drain(other.id)
    assert f"index {other.id} is left alone" in caplog.text
    drainer.drain(world.index.id)
    assert world.assert_agrees() == 2
    assert [one.id for one in indexes.due(world.engine)] == [other.id]


def test_an_outage_ends_the_task_quietly_and_charges_nobody(
    world: World,
    services: SimpleNamespace,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "PAUSE_S", 0.01)
    world.insert(["a", "b"])
    away = SimpleNamespace(engine=services.engine, store=NoStore(), towers=services.towers)
    with caplog.at_level(logging.WARNING):
        Drainer(settings, away).drain(world.index.id)
    assert "the store is away" in caplog.text
    with database.begin(world.engine) as connection:
        rows = connection.execute(sa.text("SELECT attempts, lease_until FROM indexer.entries"))
        assert {(row.attempts, row.lease_until) for row in rows} == {(0, None)}


def test_a_database_that_is_away_ends_the_task_quietly(
    services: SimpleNamespace,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "PAUSE_S", 0.01)
    gone = database.engine(f"postgresql://me:hush-hush@127.0.0.1:{free_port()}/x")
    away = SimpleNamespace(engine=gone, store=services.store, towers=services.towers)
    with caplog.at_level(logging.WARNING):
        Drainer(settings, away).drain(1)
    assert "is not available" in caplog.text
    assert "hush-hush" not in caplog.text


def test_a_stopped_drain_gives_its_batch_back(
    world: World, services: SimpleNamespace, settings: Settings
) -> None:
    world.insert([f"k{n}" for n in range(200)])
    drainer = Drainer(settings, services)
    services.towers.add(ENCODER_ID, HashingEncoder(before=lambda _: drainer.stop.set()))
    drainer.drain(world.index.id)
    with database.begin(world.engine) as connection:
        leased = "SELECT count(*) FROM indexer.entries WHERE lease_until > now()"
        assert connection.scalar(sa.text(leased)) == 0
    assert [one.id for one in indexes.due(world.engine)] == [world.index.id]


def test_a_second_wake_up_in_the_same_process_returns_at_once(
    world: World, services: SimpleNamespace, settings: Settings
) -> None:
    world.insert(["a"])
    inside, leave = threading.Event(), threading.Event()

    def wait(_records: object) -> None:
        inside.set()
        assert leave.wait(20)

    services.towers.add(ENCODER_ID, HashingEncoder(before=wait))
    drainer = Drainer(settings, services)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(drainer.drain, world.index.id)
        assert inside.wait(20)
        drainer.drain(world.index.id)
        assert not first.done()
        leave.set()
        first.result(20)
    assert world.assert_agrees() == 1


def test_a_stop_flag_may_be_set_by_a_signal_handler_while_it_is_waited_for() -> None:
    flag = StopFlag()
    before = signal.signal(signal.SIGUSR1, lambda *_: flag.set())
    try:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        assert flag.wait(20)
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
