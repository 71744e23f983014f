"""Brokers, stores and databases that are cut off in mid-backlog cost no change."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
import redis
from cable import Cable
from live import free_port, purge, redis_server, wait_until
from live_world import World, make
from qdrant_rest import QdrantRest

from indexer import database, schema
from indexer.embedded import postgres
from indexer.stores.qdrant import QdrantStore
from worker_processes.backlog import Service, Start, keys, leased, wait_clean

pytestmark = pytest.mark.live


def test_a_redis_that_is_emptied_and_restarted_in_mid_backlog_costs_no_change(
    world: World, start: Start, tmp_path: Path
) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    slow = {"TWINSPAN_FAULTS_ENCODE_S": "0.1"}
    with ExitStack() as first:
        first.enter_context(redis_server(port, tmp_path))
        worker = start(url, environment=slow)
        world.insert(keys(1_500))
        wait_until(lambda: leased(world.engine), within_s=20, what="a claim", log=worker.log)
        for _ in range(5):
            redis.Redis(port=port).flushall()
            time.sleep(0.1)  # five losses, apart from each other
        world.insert(keys(500, first=1_500))
    assert not world.is_clean()
    with redis_server(port, tmp_path):
        wait_clean(world, worker)
        assert world.assert_agrees() == 2_000
        worker.terminate(within_s=20)


def test_a_rabbitmq_queue_that_is_purged_in_mid_backlog_costs_no_change(
    world: World, start: Start, service: Service, queue: str
) -> None:
    broker = service("rabbitmq")
    worker = start(broker, environment={"TWINSPAN_FAULTS_ENCODE_S": "0.1"})
    world.insert(keys(1_000))
    wait_until(lambda: leased(world.engine), within_s=20, what="a claim", log=worker.log)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        purge(broker, queue)
    wait_clean(world, worker)
    assert world.assert_agrees() == 1_000


def test_a_store_that_fails_for_ten_seconds_costs_no_change_and_no_attempt(
    world: World, start: Start, broker: str, server: QdrantRest
) -> None:
    with Cable(server.port) as cable:
        worker = start(
            broker,
            "--pool=prefork",
            "--concurrency=2",
            environment={"TWINSPAN_QDRANT_URL": cable.url, "TWINSPAN_FAULTS_ENCODE_S": "0.05"},
        )
        world.insert(keys(2_000))
        wait_until(lambda: leased(world.engine), within_s=20, what="a claim", log=worker.log)
        cable.cut()
        worker.wait_for("is left alone for now", within_s=10)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            world.insert([f"meanwhile-{time.monotonic_ns()}"])
            time.sleep(0.5)  # a user's pace
        cable.mend()
        wait_clean(world, worker)
        assert world.assert_agrees() > 2_000
        assert "quarantine" not in worker.log().replace("'quarantined': 0", "")
        worker.terminate(within_s=20)


def test_a_postgresql_that_is_killed_in_mid_backlog_costs_no_change(
    server: QdrantRest, broker: str, queue: str, start: Start, tmp_path: Path
) -> None:
    with postgres.start(tmp_path / "postgres", fsync=False) as own:
        engine = database.engine(own.url)
        schema.migrate(engine)
        store = QdrantStore(url=server.url)
        world = make(engine, store, queue=queue)
        slow = {"TWINSPAN_DATABASE_URL": own.url, "TWINSPAN_FAULTS_ENCODE_S": "0.1"}
        workers = [start(broker, environment=slow) for _ in range(2)]
        world.insert(keys(2_000))
        for _ in range(2):
            wait_until(lambda: leased(engine), within_s=30, what="a claim", log=workers[0].log)
            postmaster = int((tmp_path / "postgres/data/postmaster.pid").read_text().split()[0])
            os.kill(postmaster, signal.SIGKILL)
            wait_until(lambda: _answers(own.url), within_s=30, what="PostgreSQL again")
        wait_clean(world, workers[0])
        assert world.assert_agrees() == 2_000
        for worker in workers:
            assert worker.running
            worker.kill_group()
        store.close()
        engine.dispose()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
