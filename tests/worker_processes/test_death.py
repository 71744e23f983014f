"""Workers that are killed at the worst moments.

Afterwards, with no manual step, index and catalog agree item for item.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from leading import leaders as leader_pids
from live import Worker, unique, wait_until
from live_world import World, make

from indexer.stores.edge import EdgeStore
from worker_processes.backlog import FAST, Service, Start, keys, wait_clean
from workers import watch

pytestmark = pytest.mark.live

CHILD_MOMENTS = [
    (step, when)
    for step in ("route", "claim", "read", "encode", "write", "ack")
    for when in ("before", "after")
]
PROCESS_MOMENTS = [*CHILD_MOMENTS, ("ring", "before"), ("ring", "after")]


def test_fifty_children_killed_at_every_step_lose_nothing(
    world: World, start: Start, broker: str, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(10_000)
    print(f"seed {seed}")
    rng, faults = random.Random(seed), tmp_path / "orders"
    faults.mkdir()
    plan = CHILD_MOMENTS * 5
    rng.shuffle(plan)
    for step, when in plan:
        order(faults, step, when, rng.randrange(1, 4))
    world.insert(keys(2_000))
    environment = {"TWINSPAN_FAULTS": str(faults), "TWINSPAN_FAULTS_IN": "child"}
    with changing(world, seed=seed):
        worker = start(broker, "--pool=prefork", "--concurrency=2", environment=environment)
        wait_until(
            lambda: kills(faults).total() == len(plan),
            within_s=150,
            what="every order is carried out",
            log=lambda: f"{kills(faults)}\n{worker.log()}",
        )
    wait_clean(world, worker)
    assert kills(faults) == Counter({f"{step}.{when}": 5 for step, when in CHILD_MOMENTS})
    assert world.assert_agrees() > 1_000


def test_whole_workers_killed_at_every_step_lose_nothing(
    world: World, start: Start, service: Service, queue: str, tmp_path: Path
) -> None:
    """One process with the watcher in it dies at each moment; another one is there, and the dead
    one is started again, as a supervisor would."""
    broker = service("rabbitmq")
    faults = tmp_path / "orders"
    faults.mkdir()
    for step, when in PROCESS_MOMENTS:
        order(faults, step, when, 2)
    world.insert(keys(2_000))
    workers = [start(broker, environment={"TWINSPAN_FAULTS": str(faults)}) for _ in range(2)]

    def all_died() -> bool:
        for worker in workers:
            if not worker.running:
                worker.start()
        return kills(faults).total() == len(PROCESS_MOMENTS)

    with changing(world, seed=1):
        wait_until(all_died, within_s=150, what="all deaths", log=lambda: str(kills(faults)))
    wait_until(lambda: all_died() and world.is_clean(), within_s=60, what="nothing is dirty")
    assert world.assert_agrees() > 1_000


@pytest.mark.alone
def test_a_new_leader_is_there_seconds_after_the_old_one_was_killed(
    world: World, start: Start, broker: str
) -> None:
    first = start(broker, "--pool=prefork", "--concurrency=1")
    first.wait_for("the watcher leads", within_s=20)
    second = start(broker, "--pool=prefork", "--concurrency=1")
    assert "the watcher leads" not in second.log()
    world.insert(keys(50))
    first.kill()
    took = second.wait_for("the watcher leads", within_s=10)
    assert took < 2 * watch.FOLLOW_S + 1
    world.insert(keys(50, first=50))
    wait_clean(world, second)
    assert world.assert_agrees() == 100
    assert len(leader_pids(world.engine)) == 1


def test_a_killed_worker_leaves_no_children_behind(world: World, start: Start, broker: str) -> None:
    worker = start(broker, "--pool=prefork", "--concurrency=2")
    children = worker.children()
    assert len(children) == 2
    worker.kill()
    wait_until(
        lambda: not any(Path(f"/proc/{pid}/status").exists() and _lives(pid) for pid in children),
        within_s=5,
        what="the children's end",
    )


def test_a_worker_on_edge_that_is_killed_and_started_again_loses_nothing(
    engine: sa.Engine, database_url: str, broker: str, queue: str, tmp_path: Path
) -> None:
    faults, folder = tmp_path / "orders", tmp_path / "data" / "edge"
    faults.mkdir()
    moments = [("encode", "after"), ("write", "before"), ("write", "after"), ("ack", "after")]
    for step, when in moments:
        order(faults, step, when, 2)
    store = EdgeStore(folder)
    world = make(engine, store, queue=queue)
    store.close()
    world.insert(keys(2_000))
    settings = {
        "TWINSPAN_DATABASE_URL": database_url,
        "TWINSPAN_BROKER_URL": broker,
        "TWINSPAN_FAULTS": str(faults),
        **FAST,
    }
    with Worker(folder=tmp_path, environment=settings, queue=queue) as worker:

        def done() -> bool:
            if not worker.running:
                worker.start()
            return world.is_clean() and kills(faults).total() == len(moments)

        wait_until(done, within_s=60, what="all deaths and nothing dirty", log=worker.log)
        worker.terminate(within_s=20)
    world.store = EdgeStore(folder)
    assert world.assert_agrees() == 2_000
    world.store.close()


def order(folder: Path, step: str, when: str, nth: int) -> None:
    (folder / f"{step}.{when}.{nth}.{unique('order')}").touch()


def kills(folder: Path) -> Counter[str]:
    """Deaths by step and moment."""
    done = (path.name for path in folder.glob("*.killed-*"))
    return Counter(".".join(name.split(".")[:2]) for name in done)


@contextmanager
def changing(world: World, *, seed: int) -> Generator[None]:
    """A user who goes on changing the catalog, a little of everything, until the end of it."""
    stop = threading.Event()

    def change() -> None:
        rng, n = random.Random(seed), 0
        while not stop.wait(0.02):
            n += 1
            some = [f"k{rng.randrange(2_000):06}" for _ in range(rng.randrange(1, 20))]
            match rng.randrange(4):
                case 0:
                    world.insert([f"new-{n}-{i}" for i in range(rng.randrange(1, 10))])
                case 1:
                    world.run("DELETE FROM public.items WHERE id = ANY(:some)", some=some)
                case _:
                    world.run(
                        "UPDATE public.items SET title = :title WHERE id = ANY(:some)",
                        title=f"film version {n}",
                        some=some,
                    )

    user = threading.Thread(target=change)
    user.start()
    try:
        yield
    finally:
        stop.set()
        user.join()


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
