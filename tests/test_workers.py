"""The Celery application, the wake-ups, the watcher and the worker in a thread, in this process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from celery.concurrency import get_implementation
from hashing import HashingEncoder, info
from live import REPOSITORY, forget_queue, free_port, purge, unique, wait_until
from live_world import ENCODER_ID, World, make

from indexer import catalog, changes, collection, database, indexes, ledger
from indexer.errors import SettingsError, StoreUnavailable
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore
from indexer.towers import Towers
from workers import tasks, thread, watch
from workers.app import MEMORY, QUEUE, check_pool, make_app
from workers.bell import Bell, BrokerUnavailable
from workers.leading import Lock
from workers.rings import REPEAT_MAX_S, REPEAT_S, Rings
from workers.tasks import Drainer, StopFlag
from workers.watch import Watcher

Service = Callable[[str], str]


def an_index(id_: int, *, queue: str = QUEUE, state: str = "live") -> Index:
    """An index as the ledger would name it."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Index(
        id=id_,
        catalog_id=1,
        catalog="items",
        alias="items",
        encoder_id=ENCODER_ID,
        encoder_uri="memory://hashing",
        encoder_family="hashing",
        collection=f"items-{id_}",
        queue=queue,
        state=state,
        spec_version=1,
        backfill_cursor=None,
        backfill_done=True,
        adopts=None,
        error=None,
        created_at=at,
        written_at=None,
        live_at=None,
        standby_at=None,
        retired_at=None,
    )


# -- who is rung for --------------------------------------------------------------------------


def test_live_indexes_are_rung_for_before_others() -> None:
    due = [an_index(1, state="building"), an_index(2, state="standby"), an_index(3)]
    assert [one.id for one in Rings().choose(due, (), fence=1, now=0)] == [3, 1, 2]


def test_a_wake_up_that_waits_is_not_repeated() -> None:
    rings, due = Rings(), [an_index(1), an_index(2)]
    assert [one.id for one in rings.choose(due, {1}, fence=1, now=0)] == [2]


def test_a_wake_up_is_repeated_at_once_while_claims_go_on() -> None:
    rings, due = Rings(), [an_index(1)]
    rings.rung(1, fence=7, now=0)
    assert rings.choose(due, (), fence=8, now=0.01) == due


def test_repeats_slow_down_while_nobody_claims_and_never_end() -> None:
    rings, due, now, pauses = Rings(), [an_index(1)], 0.0, []
    rings.rung(1, fence=7, now=now)
    for _ in range(8):
        last = now
        while not rings.choose(due, (), fence=7, now=now):
            now += 1 / 8
        rings.rung(1, fence=7, now=now)
        pauses.append(now - last)
    assert pauses[0] == pytest.approx(REPEAT_S, abs=1 / 8)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(REPEAT_MAX_S, abs=1 / 8)


def test_an_index_that_was_clean_meanwhile_is_rung_for_at_once() -> None:
    rings, due = Rings(), [an_index(1)]
    rings.rung(1, fence=7, now=0)
    assert not rings.choose(due, (), fence=7, now=0.01)
    rings.choose((), (), fence=7, now=0.02)
    assert rings.choose(due, (), fence=7, now=0.03) == due


# -- the broker -------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, service: Service) -> str:
    return MEMORY if request.param == "memory" else service(request.param)


@pytest.fixture
def queue(broker: str) -> Iterator[str]:
    name = unique("bell")
    yield name
    forget_queue(broker, name)


@pytest.fixture
def bell(broker: str, tmp_path: Path) -> Iterator[Bell]:
    settings = Settings.model_validate({"data_dir": tmp_path, "broker_url": broker})
    made = Bell(make_app(settings))
    yield made
    made.close()


def test_a_queue_without_a_worker_holds_one_wake_up_per_index(
    bell: Bell, broker: str, queue: str
) -> None:
    due = [an_index(1, queue=queue), an_index(2, queue=queue)]
    sent = [bell.ring(due, fence=fence) for fence in range(5)]
    assert sent == [2, 0, 0, 0, 0]
    assert purge(broker, queue) == 2


def test_wake_ups_that_the_broker_lost_are_sent_again(bell: Bell, broker: str, queue: str) -> None:
    due = [an_index(1, queue=queue)]
    assert bell.ring(due, fence=1) == 1
    assert purge(broker, queue) == 1
    assert bell.ring(due, fence=2) == 1
    assert bell.ring(due, fence=3) == 0


def test_each_index_is_rung_for_in_its_own_queue(bell: Bell, broker: str, queue: str) -> None:
    other = unique("bell")
    assert bell.ring([an_index(1, queue=queue), an_index(2, queue=other)], fence=1) == 2
    assert purge(broker, queue) == 1
    assert purge(broker, other) == 1
    forget_queue(broker, other)


def test_nothing_due_asks_the_broker_nothing(tmp_path: Path) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    bell = Bell(make_app(Settings.model_validate({"data_dir": tmp_path, "broker_url": url})))
    assert bell.ring([], fence=1) == 0


@pytest.mark.parametrize("scheme", ["redis://:{}@127.0.0.1:{}/0", "amqp://me:{}@127.0.0.1:{}//"])
def test_a_broker_that_is_away_is_named_without_its_password(scheme: str, tmp_path: Path) -> None:
    url = scheme.format("hush-hush", free_port())
    bell = Bell(make_app(Settings.model_validate({"data_dir": tmp_path, "broker_url": url})))
    with pytest.raises(BrokerUnavailable, match=r"does not answer .* Check broker_url") as raised:
        bell.ring([an_index(1)], fence=1)
    assert "hush-hush" not in str(raised.value)


# -- the application --------------------------------------------------------------------------


def test_the_application_is_configured_for_wake_ups(tmp_path: Path) -> None:
    app = make_app(Settings(data_dir=tmp_path))
    assert list(app.conf.accept_content) == ["json"]
    assert app.conf.task_ignore_result
    assert app.conf.task_acks_late
    assert app.conf.worker_prefetch_multiplier == 1
    assert not app.conf.worker_hijack_root_logger
    assert [name for name in app.tasks if not name.startswith("celery.")] == ["twinspan.drain"]


@pytest.mark.parametrize("url", ["nonsense", "http://host/", "hush-hush@redis"])
def test_an_address_that_is_no_broker_is_refused_without_repeating_it(
    url: str, tmp_path: Path
) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "broker_url": url})
    with pytest.raises(SettingsError, match="broker_url is not a broker's address") as raised:
        make_app(settings)
    assert url not in str(raised.value)


@pytest.mark.parametrize(
    ("pool", "concurrency", "url", "refused"),
    [
        ("prefork", 2, None, True),
        ("prefork", 1, None, False),
        ("solo", 1, None, False),
        ("threads", 4, None, False),
        ("prefork", 8, "http://127.0.0.1:6333", False),
    ],
)
def test_several_processes_over_edge_are_refused_at_the_start(
    pool: str, concurrency: int, url: str | None, refused: bool, tmp_path: Path
) -> None:
    app = make_app(Settings(data_dir=tmp_path, qdrant_url=url))
    worker = SimpleNamespace(
        app=app, concurrency=concurrency, autoscale=None, pool_cls=get_implementation(pool)
    )
    if refused:
        with pytest.raises(SettingsError, match=r"belongs to one process, but this pool has 2"):
            check_pool(worker)
    else:
        check_pool(worker)


def start_worker(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TWINSPAN_", "CELERY"))}
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-c", "2"],
        env={**clean, "PYTHONPATH": str(REPOSITORY), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def last_line(ended: subprocess.CompletedProcess[str]) -> str:
    """What we say; Celery may have warned of something before (to run as root, for instance)."""
    assert "Traceback" not in ended.stderr, ended.stderr
    said = ended.stderr.splitlines()[-1]
    assert said.startswith("twinspan: "), ended.stderr
    return said


def test_a_worker_without_a_broker_says_what_to_set(tmp_path: Path) -> None:
    ended = start_worker(tmp_path)
    assert ended.returncode == 2
    assert "TWINSPAN_BROKER_URL=redis://" in ended.stderr


def test_a_worker_without_a_database_says_what_to_set(tmp_path: Path) -> None:
    ended = start_worker(
        tmp_path, TWINSPAN_BROKER_URL="memory://", TWINSPAN_QDRANT_URL="http://127.0.0.1:6333"
    )
    assert ended.returncode == 2
    assert "TWINSPAN_DATABASE_URL=postgresql://" in last_line(ended)


def test_a_pool_of_processes_over_edge_ends_with_one_line(tmp_path: Path) -> None:
    ended = start_worker(
        tmp_path, TWINSPAN_BROKER_URL="memory://", TWINSPAN_DATABASE_URL="postgresql://x@127.0.0.1/"
    )
    assert ended.returncode == 2
    assert "TWINSPAN_QDRANT_URL=" in last_line(ended)


# -- draining ---------------------------------------------------------------------------------


@pytest.fixture
def world(engine: sa.Engine, edge_store: EdgeStore) -> World:
    return make(engine, edge_store, queue=QUEUE)


@pytest.fixture
def services(world: World, settings: Settings) -> SimpleNamespace:
    towers = Towers(settings)
    towers.add(ENCODER_ID, HashingEncoder())
    return SimpleNamespace(engine=world.engine, store=world.store, towers=towers)


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


class NoStore:
    """A store that does not answer; everything else about it is real."""

    name = "a store that is away"

    def __getattr__(self, name: str) -> Callable[..., None]:
        def away(*_arguments: object, **_named: object) -> None:
            raise StoreUnavailable("the store is away")

        return away


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


# -- the watcher ------------------------------------------------------------------------------


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


def leaders(engine: sa.Engine) -> list[int]:
    """Backends that hold the leader's lock."""
    held = sa.text(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = :key"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with database.begin(engine) as connection:
        return list(connection.scalars(held, {"key": watch.LEADER_LOCK}))


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


def _listens(engine: sa.Engine) -> bool:
    with database.begin(engine) as connection:
        last = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE query LIKE '%last_value%' AND state = 'idle')"
        )
        return bool(connection.scalar(sa.text(last)))


def test_the_lock_is_free_once_its_connection_is_closed(database_url: str) -> None:
    engine = watch.engine(database_url)
    with Lock(engine, key=watch.LEADER_LOCK, silent_s=60) as other:
        with Lock(engine, key=watch.LEADER_LOCK, silent_s=60) as one:
            assert one.take()
            assert not other.take()
        wait_until(other.take, within_s=5, what="the lock is free")
    engine.dispose()


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


# -- the worker in a thread -------------------------------------------------------------------


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
