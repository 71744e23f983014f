"""From the catalog to the store, over every broker and pool, with the encoder of each index."""

from __future__ import annotations

from pathlib import Path

import films
import pytest
import sqlalchemy as sa
from live import Worker, unique, wait_until
from live_world import ENCODER_ID, World, make
from qdrant_rest import QdrantRest

from indexer import catalog, database, reindex, verify
from indexer.catalog import spec
from indexer.settings import Settings
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Towers
from worker_processes.backlog import Service, Start, keys, wait_clean

pytestmark = pytest.mark.live


@pytest.mark.parametrize(
    ("broker_name", "pool"),
    [("redis", "solo"), ("redis", "threads"), ("rabbitmq", "solo"), ("rabbitmq", "prefork")],
)
def test_changes_reach_the_store_through_a_worker(
    broker_name: str, pool: str, world: World, start: Start, service: Service, queue: str
) -> None:
    broker = service(broker_name)
    worker = start(broker, f"--pool={pool}", "--concurrency=2")
    world.insert(keys(500))
    wait_clean(world, worker)
    assert world.assert_agrees() == 500
    world.run("UPDATE public.items SET title = 'changed ' || id WHERE id < 'k000100'")
    world.run("DELETE FROM public.items WHERE id >= 'k000400'")
    world.insert(["new"])
    wait_clean(world, worker)
    assert world.assert_agrees() == 401
    assert worker.terminate(within_s=10) < 10
    assert worker.process.returncode == 0
    assert "Traceback" not in worker.log()


def test_a_backlog_draws_in_every_worker(world: World, start: Start, broker: str) -> None:
    slow = {"TWINSPAN_FAULTS_ENCODE_S": "0.2"}
    workers = [start(broker, environment=slow) for _ in range(2)]
    workers.append(start(broker, "--pool=prefork", "--concurrency=2", environment=slow))
    world.insert(keys(3_000))
    wait_clean(world, workers[0])
    assert world.assert_agrees() == 3_000
    for worker in workers:
        assert f"index {world.index.id}: {{" in worker.log(), "a worker stood by"


def test_indexes_are_worked_on_by_the_workers_of_their_queue(
    engine: sa.Engine, server: QdrantRest, start: Start, broker: str
) -> None:
    cpu, gpu = unique("cpu"), unique("gpu")
    store = QdrantStore(url=server.url)
    first, second = make(engine, store, queue=cpu), make(engine, store, queue=gpu)
    with_gpu = start(broker, queues=gpu)
    first.insert(keys(10))
    wait_until(lambda: store.count(second.index.ref) == 10, within_s=20, what="the GPU's index")
    assert store.count(first.index.ref) == 0
    plain = start(broker, queues=cpu)
    wait_until(first.is_clean, within_s=20, what="both", log=plain.log)
    assert f"index {first.index.id}: {{" not in with_gpu.log()
    assert first.assert_agrees() == 10
    store.close()


def test_a_worker_that_wakes_to_a_backlog_needs_no_message(
    world: World, start: Start, broker: str
) -> None:
    world.insert(keys(200))
    wait_clean(world, start(broker))
    assert world.assert_agrees() == 200


def test_the_encoder_is_known_by_digest_or_the_work_is_left(
    world: World, start: Start, broker: str
) -> None:
    world.run("UPDATE indexer.indexes SET encoder_id = encoder_id")  # as it is
    strange = f"{ENCODER_ID}-of-another-release"
    with database.begin(world.engine) as connection:
        connection.execute(
            sa.text(
                "INSERT INTO indexer.encoders (id, family, uri, vectors)"
                " SELECT :id, family, '/nowhere', vectors FROM indexer.encoders LIMIT 1"
            ),
            {"id": strange},
        )
        connection.execute(sa.text("UPDATE indexer.indexes SET encoder_id = :id"), {"id": strange})
    worker = start(broker)
    world.insert(["a"])
    worker.wait_for(f"index {world.index.id} is left alone for now", within_s=20)
    world.run("UPDATE indexer.indexes SET encoder_id = :id", id=ENCODER_ID)
    wait_clean(world, worker)
    assert world.assert_agrees() == 1


def test_trained_towers_are_loaded_from_their_folders_in_prefork_children(
    engine: sa.Engine,
    server: QdrantRest,
    database_url: str,
    broker: str,
    queue: str,
    tmp_path: Path,
    settings: Settings,
) -> None:
    """Nothing of the tests in the worker: torch in children, and two indexes of two encoders."""
    catalog.attach(engine, spec.BUILTIN)
    store, towers = QdrantStore(url=server.url), Towers(settings)
    encoders = [films.trained(tmp_path / "encoders", weight=weight) for weight in (0.2, 0.6)]
    built = [
        reindex.start(engine, store, catalog_name="items", encoder_uri=one.uri, queue=queue)
        for one in encoders
    ]
    films.insert(engine, films.rows(400))
    worker = Worker(
        folder=tmp_path,
        environment={
            "TWINSPAN_DATABASE_URL": database_url,
            "TWINSPAN_QDRANT_URL": server.url,
            "TWINSPAN_BROKER_URL": broker,
        },
        queue=queue,
        options=("--pool=prefork", "--concurrency=2"),
        faults=False,
    )
    with worker:
        for index in built:
            for _ in reindex.fill(engine, index):
                pass
        world = World(engine=engine, store=store, index=built[0])
        wait_clean(world, worker)
        for index, encoder in zip(built, encoders, strict=True):
            tower = towers.get(encoder.id, encoder.uri)
            seen = verify.compare(engine, store, index, tower=tower)
            assert (seen.items, seen.agree, seen.drift) == (400, 400, 0), seen
        assert worker.terminate(within_s=20) < 20
    assert "Traceback" not in worker.log()
    store.close()
