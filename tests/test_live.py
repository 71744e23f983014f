"""Real worker processes over real brokers, killed, cut off and stopped at the worst moments.

Afterwards, with no manual step, index and catalog agree item for item. The vector store that the
processes share is the server's stand-in `qdrant_rest`; what belongs to one process runs on Edge.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import films
import psycopg
import pytest
import redis
import sqlalchemy as sa
from cable import Cable
from live import Worker, forget_queue, free_port, purge, redis_server, unique, wait_until
from live_world import ENCODER_ID, World, make
from qdrant_rest import QdrantRest

from indexer import catalog, database, reindex, schema, verify
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Towers
from workers import watch

pytestmark = pytest.mark.live

Service = Callable[[str], str]

LEASE_S, STORE_S = 2.0, 1.0  # short, so that what a dead worker held is soon free
FAST = {
    "TWINSPAN_LEASE_S": str(LEASE_S),
    "TWINSPAN_STORE_TIMEOUT_S": str(STORE_S),
    "TWINSPAN_BATCH_ITEMS": "128",
    "TWINSPAN_BACKOFF_S": "0.1",
}


@pytest.fixture
def queue() -> str:
    return unique("live")


@pytest.fixture
def broker(service: Service, queue: str) -> Iterator[str]:
    yield (url := service("redis"))
    forget_queue(url, queue)


@pytest.fixture
def server() -> Iterator[QdrantRest]:
    with QdrantRest() as one:
        yield one


@pytest.fixture
def world(engine: sa.Engine, server: QdrantRest, queue: str) -> Iterator[World]:
    store = QdrantStore(url=server.url)
    yield make(engine, store, queue=queue)
    store.close()


Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path, database_url: str, server: QdrantRest, queue: str) -> Iterator[Start]:
    """`start(broker, pool options..., environment)` is a ready worker. After the test all are
    killed, and their queues forgotten."""
    with ExitStack() as stack:

        def begin(
            broker: str,
            *options: str,
            environment: Mapping[str, str] | None = None,
            queues: str = queue,
        ) -> Worker:
            settings = {
                "TWINSPAN_DATABASE_URL": database_url,
                "TWINSPAN_QDRANT_URL": server.url,
                "TWINSPAN_BROKER_URL": broker,
                **FAST,
                **(environment or {}),
            }
            pool = options or ("--pool=solo",)
            stack.callback(forget_queue, broker, queues)
            worker = Worker(folder=tmp_path, environment=settings, queue=queues, options=pool)
            return stack.enter_context(worker).wait_ready()

        yield begin


def keys(n: int, *, first: int = 0) -> list[str]:
    return [f"k{i:06}" for i in range(first, first + n)]


def wait_clean(world: World, worker: Worker, *, within_s: float = 60.0) -> None:
    wait_until(world.is_clean, within_s=within_s, what="nothing is dirty", log=worker.log)


def leased(engine: sa.Engine) -> int:
    with database.begin(engine) as connection:
        held = "SELECT count(*) FROM indexer.entries WHERE lease_until > now()"
        return connection.scalar(sa.text(held)) or 0


# -- the way through --------------------------------------------------------------------------


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


# -- death --------------------------------------------------------------------------------------


def order(folder: Path, step: str, when: str, nth: int) -> None:
    (folder / f"{step}.{when}.{nth}.{unique('order')}").touch()


def kills(folder: Path) -> Counter[str]:
    """Deaths by step and moment."""
    done = (path.name for path in folder.glob("*.killed-*"))
    return Counter(".".join(name.split(".")[:2]) for name in done)


@contextmanager
def changing(world: World, *, seed: int) -> Iterator[None]:
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


CHILD_MOMENTS = [
    (step, when)
    for step in ("route", "claim", "read", "encode", "write", "ack")
    for when in ("before", "after")
]


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


PROCESS_MOMENTS = [*CHILD_MOMENTS, ("ring", "before"), ("ring", "after")]


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


def leader_pids(engine: sa.Engine) -> set[int]:
    with database.begin(engine) as connection:
        held = sa.text(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = :key"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return set(connection.scalars(held, {"key": watch.LEADER_LOCK}))


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


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# -- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["--pool=solo", "--pool=prefork"])
def test_a_worker_that_is_stopped_hands_its_work_to_another_at_once(
    pool: str, world: World, start: Start, broker: str
) -> None:
    patient = {"TWINSPAN_LEASE_S": "600", "TWINSPAN_FAULTS_ENCODE_S": "0.3"}
    worker = start(broker, pool, "--concurrency=1", environment=patient)
    world.insert(keys(2_000))
    wait_until(lambda: leased(world.engine), within_s=20, what="a claim", log=worker.log)
    took = worker.terminate(within_s=20)
    assert took < 10
    assert leased(world.engine) == 0
    assert not world.is_clean()
    wait_clean(world, start(broker))
    assert world.assert_agrees() == 2_000


def test_a_whole_group_that_gets_sigterm_gives_its_leases_back(
    world: World, start: Start, broker: str
) -> None:
    patient = {"TWINSPAN_LEASE_S": "600", "TWINSPAN_FAULTS_ENCODE_S": "0.3"}
    worker = start(broker, "--pool=prefork", "--concurrency=2", environment=patient)
    world.insert(keys(2_000))
    wait_until(lambda: leased(world.engine), within_s=20, what="a claim", log=worker.log)
    os.killpg(worker.pid, signal.SIGTERM)
    wait_until(lambda: not worker.running, within_s=20, what="its end", log=worker.log)
    assert leased(world.engine) == 0
    wait_clean(world, start(broker))
    assert world.assert_agrees() == 2_000


# -- outages --------------------------------------------------------------------------------------


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


# -- Edge belongs to one process --------------------------------------------------------------


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


# -- the user's own transactions --------------------------------------------------------------


def test_users_never_wait_for_a_worker_that_holds_claims(
    world: World, start: Start, broker: str, database_url: str
) -> None:
    """While a worker sleeps in the encoder with 128 claims, two sessions write to the very rows."""
    n, bare = 128, []
    world.insert(keys(n))
    environment = {"TWINSPAN_FAULTS_ENCODE_S": "5", "TWINSPAN_LEASE_S": "30"}
    for _ in range(3):
        bare.append(_users(database_url, n))
    worker = start(broker, environment=environment)
    for _ in range(3):  # a noisy neighbour may slow one of them, a lock would slow each
        wait_until(lambda: leased(world.engine), within_s=30, what="a claim", log=worker.log)
        began = time.monotonic()
        slowest = _users(database_url, n)
        assert leased(world.engine), "the worker was done before the users were"
        assert time.monotonic() - began < 5
        over = {name: slowest[name] - max(one[name] for one in bare) for name in slowest}
        print(
            {name: f"{1000 * seconds:.1f} ms over the bare time" for name, seconds in over.items()}
        )
        if max(over.values()) <= 0.05:
            break
        world.insert(keys(n))
    else:
        raise AssertionError(f"users waited: {over}")
    worker.kill_group()


IMPATIENT = "-c lock_timeout=3s"  # a user who has to wait is told, and the test fails


def _users(url: str, n: int) -> dict[str, float]:
    """The slowest statement in seconds, by kind, of two sessions that write at the same time; then
    of a TRUNCATE. The rows are there again afterwards."""
    slowest: dict[str, float] = {}
    errors: list[BaseException] = []

    def timed(name: str, cursor: psycopg.Cursor, statement: str, *values: object) -> None:
        began = time.perf_counter()
        cursor.execute(statement.encode(), values)
        took = time.perf_counter() - began
        slowest[name] = max(slowest.get(name, 0.0), took)

    def session(rows: Sequence[str]) -> None:
        try:
            with psycopg.connect(url, autocommit=True, options=IMPATIENT) as connection:
                update = "UPDATE public.items SET title = title || '.' WHERE id = %s"
                for key in rows:
                    timed("single", connection.cursor(), update, key)
                with connection.transaction():
                    for key in rows:
                        timed("multi", connection.cursor(), update, key)
                    timed("commit", connection.cursor(), "SELECT 1")
        except BaseException as error:  # noqa: BLE001 - told by the test's thread
            errors.append(error)

    everything = keys(n)
    opposite = [everything[::2], everything[1::2][::-1]]
    sessions = [threading.Thread(target=session, args=(rows,)) for rows in opposite]
    for one in sessions:
        one.start()
    for one in sessions:
        one.join()
    assert not errors, errors
    with psycopg.connect(url, autocommit=True, options=IMPATIENT) as connection:
        timed("truncate", connection.cursor(), "TRUNCATE public.items")
        connection.execute(
            "INSERT INTO public.items (id, title) SELECT k, 'film ' || k FROM unnest(%s::text[]) k",
            [everything],
        )
    return slowest


# -- what it costs, and what it says ----------------------------------------------------------


def test_an_idle_worker_costs_next_to_nothing(world: World, start: Start, broker: str) -> None:
    worker = start(broker, "--pool=prefork", "--concurrency=1")
    worker.wait_for("the watcher leads", within_s=20)
    world.insert(["a"])
    wait_clean(world, worker)
    before, began = worker.cpu_s(), time.monotonic()
    time.sleep(15)  # the measure: processor time over real time, with what comes now and then
    share = (worker.cpu_s() - before) / (time.monotonic() - began)
    print(f"idle leader: {100 * share:.1f} % of a core")
    assert share < 0.02  # 0.7 % where this was written


def test_no_password_is_ever_logged(
    world: World, start: Start, broker: str, tmp_path: Path, queue: str, service: Service
) -> None:
    hidden = service("rabbitmq").replace("guest:guest", "guest:hush-hush")
    worker = Worker(
        folder=tmp_path,
        environment={
            "TWINSPAN_DATABASE_URL": f"postgresql://me:hush-hush@127.0.0.1:{free_port()}/x",
            "TWINSPAN_QDRANT_URL": f"http://127.0.0.1:{free_port()}",
            "TWINSPAN_QDRANT_API_KEY": "hush-hush",
            "TWINSPAN_BROKER_URL": hidden,
        },
        queue=queue,
        options=("--pool=solo", "--loglevel=DEBUG"),
    )
    with worker:
        worker.wait_for("the watcher waits", within_s=30)
        worker.wait_for("guest:**@", within_s=30)
    assert "hush-hush" not in worker.log()


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
