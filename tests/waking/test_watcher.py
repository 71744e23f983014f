"""The watcher: it routes, rings and purges, and of several exactly one leads."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from leading import leaders
from live import purge, wait_until
from live_world import World

from indexer import catalog, changes, database
from indexer.settings import Settings
from workers import watch
from workers.app import MEMORY, QUEUE, make_app
from workers.bell import Bell
from workers.leading import Lock
from workers.tasks import Drainer
from workers.watch import Watcher

LEADS = """
import sys, time
from indexer.errors import DatabaseUnavailable
from workers import watch
from workers.leading import Lock

with Lock(watch.engine(sys.argv[1]), key=watch.LEADER_LOCK, silent_s=1) as lock:
    print(lock.take(), flush=True)
    try:
        for looks in range(100_000):
            lock.look()
            if looks == 40:
                print("still", flush=True)
            time.sleep(0.05)
    except DatabaseUnavailable as cause:
        print("lost", flush=True)
"""


class Watched:
    """A watcher with a bell over the in-process broker."""

    def __init__(self, settings: Settings, database_url: str) -> None:
        self.engine = watch.engine(database_url)
        self.bell = Bell(make_app(settings))
        self.watcher = Watcher(settings, self.engine, self.bell)

    def stop(self) -> None:
        self.watcher.stop()
        self.engine.dispose()


@pytest.fixture
def watched(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Watched]]:
    monkeypatch.setattr(watch, "FOLLOW_S", 0.05)
    monkeypatch.setattr(watch, "PAUSE_S", 0.01)
    started: list[Watched] = []

    def start() -> Watched:
        one = Watched(settings, database_url)
        started.append(one)
        one.watcher.start()
        return one

    yield start
    for one in started:
        one.stop()


def test_the_watcher_routes_and_rings(world: World, watched: Callable[[], Watched]) -> None:
    purge(MEMORY, QUEUE)
    watched()
    world.insert(["a"])
    wait_until(lambda: not changes.pending(world.engine), within_s=10, what="the change is routed")
    wait_until(lambda: purge(MEMORY, QUEUE), within_s=10, what="the wake-up is sent")


def test_of_two_watchers_one_leads_and_the_other_follows(
    world: World, watched: Callable[[], Watched]
) -> None:
    first, second = watched(), watched()
    wait_until(lambda: leaders(world.engine), within_s=10, what="somebody leads")
    assert len(leaders(world.engine)) == 1
    first.watcher.stop()
    wait_until(lambda: leaders(world.engine), within_s=10, what="the other one leads")
    second.watcher.stop()
    wait_until(lambda: not leaders(world.engine), within_s=10, what="nobody leads")


def test_a_watcher_whose_connection_is_lost_leads_again(
    world: World, watched: Callable[[], Watched]
) -> None:
    watched()
    wait_until(lambda: leaders(world.engine), within_s=10, what="it leads")
    lost = leaders(world.engine)
    world.run("SELECT pg_terminate_backend(:pid)", pid=lost[0])
    wait_until(
        lambda: leaders(world.engine) not in ([], lost), within_s=10, what="a new connection leads"
    )
    purge(MEMORY, QUEUE)
    world.insert(["a"])
    wait_until(lambda: purge(MEMORY, QUEUE), within_s=10, what="the wake-up is sent")


def test_a_bug_does_not_end_the_watcher(
    world: World,
    watched: Callable[[], Watched],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real, calls = changes.route, iter(range(10_000))

    def route(engine: sa.Engine, *, limit: int) -> int:
        if next(calls) == 0:
            raise RuntimeError("a bug")
        return real(engine, limit=limit)

    monkeypatch.setattr(changes, "route", route)
    purge(MEMORY, QUEUE)
    with caplog.at_level(logging.ERROR):
        watched()
        world.insert(["a"])
        wait_until(lambda: purge(MEMORY, QUEUE), within_s=10, what="the wake-up is sent")
    assert "a bug" in caplog.text


def test_a_notification_wakes_the_watcher_long_before_its_poll(
    world: World, settings: Settings, database_url: str
) -> None:
    catalog.attach(world.engine, catalog.get(world.engine, "items").spec, notify=True)
    slow = settings.model_copy(update={"notify": True, "poll_s": 60.0})
    one = Watched(slow, database_url)
    purge(MEMORY, QUEUE)
    one.watcher.start()
    try:
        wait_until(lambda: leaders(world.engine), within_s=10, what="it leads")
        wait_until(lambda: _listens(world.engine), within_s=10, what="it listens")
        world.insert(["a"])
        waited = wait_until(lambda: purge(MEMORY, QUEUE), within_s=10, what="the wake-up is sent")
        assert waited < 10
    finally:
        one.stop()


def test_the_lock_is_free_once_its_connection_is_closed(database_url: str) -> None:
    engine = watch.engine(database_url)
    with Lock(engine, key=watch.LEADER_LOCK, silent_s=60) as other:
        with Lock(engine, key=watch.LEADER_LOCK, silent_s=60) as one:
            assert one.take()
            assert not other.take()
        wait_until(other.take, within_s=5, what="the lock is free")
    engine.dispose()


def test_a_leader_that_is_frozen_loses_its_lock_and_notices_when_it_wakes(
    database_url: str,
) -> None:
    engine = watch.engine(database_url)
    program = [sys.executable, "-c", LEADS, database_url]
    with (
        subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as leader,
        Lock(engine, key=watch.LEADER_LOCK, silent_s=60) as other,
    ):
        try:
            assert leader.stdout is not None
            assert leader.stdout.readline() == "True\n"
            assert leader.stdout.readline() == "still\n"  # longer than it may be silent: it is not
            assert not other.take()
            leader.send_signal(signal.SIGSTOP)
            wait_until(other.take, within_s=20, what="the lock of the frozen leader is free")
            leader.send_signal(signal.SIGCONT)
            assert leader.stdout.readline() == "lost\n"
        finally:
            leader.kill()
    engine.dispose()


def test_tombstones_are_purged_by_the_leader(
    world: World, settings: Settings, database_url: str, services: SimpleNamespace
) -> None:
    world.insert(["a"])
    Drainer(settings, services).drain(world.index.id)
    world.run("DELETE FROM public.items")
    Drainer(settings, services).drain(world.index.id)
    world.run("UPDATE indexer.entries SET changed_at = now() - interval '1 day'")
    one = Watched(settings.model_copy(update={"tombstone_s": 0.5}), database_url)
    one.watcher.start()

    def gone() -> bool:
        with database.begin(world.engine) as connection:
            return connection.scalar(sa.text("SELECT count(*) FROM indexer.entries")) == 0

    try:
        wait_until(gone, within_s=10, what="the tombstone is gone")
    finally:
        one.stop()


def _listens(engine: sa.Engine) -> bool:
    with database.begin(engine) as connection:
        last = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE query LIKE '%last_value%' AND state = 'idle')"
        )
        return bool(connection.scalar(sa.text(last)))
