"""The worker in a thread: of the embedded mode, beside a program that is not ours."""

from __future__ import annotations

import logging
import signal
import threading
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder, info
from leading import leaders
from live import wait_until
from live_world import ENCODER_ID, World

from indexer import catalog, collection, database, indexes, ledger
from indexer.errors import StoreUnavailable
from indexer.settings import Settings
from workers import thread
from workers.app import QUEUE


def test_a_worker_in_a_thread_starts_and_stops_twice_in_one_process(
    world: World, services: SimpleNamespace, settings: Settings
) -> None:
    threads = {one.name for one in threading.enumerate()}
    for round_ in range(2):
        handle = thread.start(settings, services)
        assert handle.alive
        world.insert([f"{round_}-{n}" for n in range(10)])
        wait_until(world.is_clean, within_s=20, what="everything is in the store")
        handle.stop()
        handle.stop()
        assert not handle.alive
    assert world.assert_agrees() == 20
    assert {one.name for one in threading.enumerate()} <= threads
    assert leaders(world.engine) == []


def test_a_worker_in_a_thread_leaves_signals_and_logging_alone(
    world: World, services: SimpleNamespace, settings: Settings
) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    handlers = list(logging.getLogger().handlers)
    handle = thread.start(settings, services)
    handle.stop()
    assert [signal.getsignal(number) for number in numbers] == before
    assert logging.getLogger().handlers == handlers


def test_a_worker_in_a_thread_that_is_stopped_gives_its_batch_back_at_once(
    world: World, services: SimpleNamespace, settings: Settings
) -> None:
    inside = threading.Event()
    slow = HashingEncoder(before=lambda _: inside.set())
    services.towers.add(ENCODER_ID, slow)
    world.insert([f"SLOW {n}" for n in range(200)], title="SLOW")
    handle = thread.start(settings, services)
    assert inside.wait(20)
    handle.stop()
    with database.begin(world.engine) as connection:
        leased = "SELECT count(*) FROM indexer.entries WHERE lease_until > now()"
        assert connection.scalar(sa.text(leased)) == 0
    assert not world.is_clean()


def test_a_worker_that_cannot_start_says_so(settings: Settings, services: SimpleNamespace) -> None:
    class Broken:
        store, towers = services.store, services.towers

        @property
        def engine(self) -> sa.Engine:
            raise StoreUnavailable("no engine")

    with pytest.raises(Exception, match=r"no engine|did not start"):
        thread.start(settings, Broken())


def test_the_worker_serves_several_indexes_of_one_catalog(
    world: World, services: SimpleNamespace, settings: Settings
) -> None:
    other = indexes.register(
        world.engine,
        catalog_id=world.index.catalog_id,
        alias="other",
        encoder=info(ENCODER_ID),
        queue=QUEUE,
    )
    attached = catalog.get_by_id(world.engine, world.index.catalog_id)
    world.store.ensure_collection(collection.spec_of(other, attached, info(ENCODER_ID).vectors))
    world.insert([f"k{n}" for n in range(50)])
    handle = thread.start(settings, services)
    try:
        wait_until(world.is_clean, within_s=20, what="both indexes are clean")
    finally:
        handle.stop()
    assert world.assert_agrees() == 50
    assert world.store.count(other.ref) == 50
    assert ledger.summary(world.engine).keys() == {world.index.id, other.id}
