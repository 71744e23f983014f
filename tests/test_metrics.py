"""Metrics: what is recorded is what happened, and no more series than there are aliases."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder
from live import Worker, forget_queue, free_port, unique, wait_until
from live_world import ENCODER_ID, World, make
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from qdrant_rest import QdrantRest

from indexer import database, entries, metrics, scraping, standing, sync
from indexer.errors import DatabaseUnavailable, StoreUnavailable
from indexer.metrics import BatchHistogram
from indexer.query import Retriever
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore
from indexer.stores.observed import observed
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Towers

Grown = Callable[..., float]


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def grown() -> Grown:
    """How much a sample has grown since it was first asked for: the registry is the process's."""
    before: dict[tuple[object, ...], float] = {}

    def since(name: str, **labels: str) -> float:
        now = sample(name, **labels)
        return now - before.setdefault((name, *sorted(labels.items())), now)

    return since


@pytest.fixture
def world(engine: sa.Engine, edge_store: EdgeStore) -> World:
    return make(engine, observed(edge_store), queue="metrics")


@pytest.fixture
def towers(settings: Settings) -> Towers:
    towers = Towers(settings)
    towers.add(ENCODER_ID, HashingEncoder())
    return towers


BUILDING = {"alias": "items", "state": "building"}


# -- a drain ----------------------------------------------------------------------------------


def test_a_drain_counts_its_items_by_what_became_of_them(
    world: World, towers: Towers, settings: Settings, grown: Grown
) -> None:
    outcomes = ("encoded", "skipped", "deleted", "failed", "payload_only")

    def counts() -> dict[str, float]:
        return {one: grown("twinspan_items_total", **BUILDING, outcome=one) for one in outcomes}

    counts()
    world.insert(["a", "b", "c"])
    world.insert(["bad"], title="POISON")
    sync.drain(world.engine, world.store, towers, settings)
    assert counts() == {
        "encoded": 3, "failed": 1, "skipped": 0, "deleted": 0, "payload_only": 0
    }  # fmt: skip
    world.run("DELETE FROM public.items WHERE id = 'a'")
    world.run("UPDATE public.items SET attributes = '{\"genres\": [\"Noir\"]}' WHERE id = 'b'")
    entries.mark(world.engine, world.index.id, ["c"], lane=1)
    sync.drain(world.engine, world.store, towers, settings)
    assert counts()["deleted"] == 1
    assert counts()["encoded"] + counts()["payload_only"] == 5


def test_freshness_is_from_the_change_to_the_acknowledged_write(
    world: World, towers: Towers, settings: Settings, grown: Grown
) -> None:
    of = {**BUILDING, "lane": "live"}
    grown("twinspan_freshness_seconds_count", **of)
    grown("twinspan_freshness_seconds_sum", **of)
    grown("twinspan_freshness_seconds_bucket", **of, le="60.0")
    world.insert(["a", "b", "c"])
    world.run("UPDATE indexer.changes SET changed_at = now() - interval '100 s'")
    world.insert(["d"])
    sync.drain(world.engine, world.store, towers, settings)
    assert grown("twinspan_freshness_seconds_count", **of) == 4
    assert grown("twinspan_freshness_seconds_bucket", **of, le="60.0") == 1
    assert grown("twinspan_freshness_seconds_sum", **of) == pytest.approx(300, abs=30)


def test_a_worker_whose_clock_is_wrong_measures_the_same_freshness(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.insert(["a"])
    world.run("UPDATE indexer.changes SET changed_at = now() - interval '100 s'")
    sync.changes.route(world.engine, limit=10)
    batch = entries.claim(world.engine, world.index.id, limit=10, lease_s=60)
    assert batch is not None
    monkeypatch.setattr("time.time", lambda: 0.0)
    [claim] = batch.claims
    assert batch.age_s(claim) == pytest.approx(100, abs=10)


def test_an_item_that_another_worker_took_over_is_not_called_fresh(
    world: World, towers: Towers, settings: Settings, grown: Grown
) -> None:
    of = {**BUILDING, "lane": "live"}
    grown("twinspan_freshness_seconds_count", **of)
    grown("twinspan_items_total", **BUILDING, outcome="lost")
    world.insert(["a"])

    def take_over(_: object) -> None:
        world.run("UPDATE indexer.entries SET fence = nextval('indexer.fences')")
        encoder.before = None

    encoder = HashingEncoder(before=take_over)
    towers.add(ENCODER_ID, encoder)
    sync.drain(world.engine, world.store, towers, settings, slice_s=0.0001)
    assert grown("twinspan_freshness_seconds_count", **of) == 0
    assert grown("twinspan_items_total", **BUILDING, outcome="lost") == 1


def test_every_stage_of_a_batch_is_timed(
    world: World, towers: Towers, settings: Settings, grown: Grown
) -> None:
    stages = ("route", "load", "claim", "read", "plan", "encode", "write", "ack")
    for stage in stages:
        grown("twinspan_stage_seconds_count", stage=stage)
    world.insert(["a"])
    sync.drain(world.engine, world.store, towers, settings)
    assert all(grown("twinspan_stage_seconds_count", stage=stage) >= 1 for stage in stages)


def test_a_batch_is_observed_as_its_items_would_be_one_by_one() -> None:
    registry = CollectorRegistry()
    bounds = (0.1, 1, 10)
    at_once = BatchHistogram("at_once", "-", ("x",), registry=registry, buckets=bounds)
    singly = BatchHistogram("singly", "-", ("x",), registry=registry, buckets=bounds)
    amounts = [0.0, 0.05, 0.1, 0.5, 1.0, 1.5, 10.0, 11.0, 1e9]
    at_once.labels("y").observe_many(amounts)
    for amount in amounts:
        singly.labels("y").observe(amount)

    def values(name: str) -> list[float]:
        [found] = [one for one in registry.collect() if one.name == name]
        return [one.value for one in found.samples if not one.name.endswith("_created")]

    assert values("at_once") == values("singly")


# -- outages ----------------------------------------------------------------------------------


def test_a_store_that_is_away_is_counted_by_verb_and_class(
    world: World, towers: Towers, settings: Settings, edge_store: EdgeStore, grown: Grown
) -> None:
    class Away(EdgeStore):
        def __init__(self) -> None:
            self.__dict__.update(edge_store.__dict__)

        def write_if_newer(self, *_: object, **__: object) -> None:
            raise StoreUnavailable("the store is away")

    error = {"verb": "write_if_newer", "error": "StoreUnavailable"}
    grown("twinspan_store_errors_total", **error)
    grown("twinspan_left_alone_total", **BUILDING)
    grown("twinspan_items_total", **BUILDING, outcome="released")
    world.insert(["a", "b"])
    sync.drain(world.engine, observed(Away()), towers, settings)
    assert grown("twinspan_store_errors_total", **error) == 1
    assert grown("twinspan_left_alone_total", **BUILDING) == 1
    assert grown("twinspan_items_total", **BUILDING, outcome="released") == 2


def test_a_database_that_is_away_is_counted_by_class(grown: Grown) -> None:
    grown("twinspan_database_errors_total", error="DatabaseUnavailable")
    gone = database.engine("postgresql://127.0.0.1:1/x")
    with pytest.raises(DatabaseUnavailable), database.begin(gone):
        pass
    assert grown("twinspan_database_errors_total", error="DatabaseUnavailable") == 1


def test_what_a_scroll_reads_is_measured_step_by_step(world: World, grown: Grown) -> None:
    world.insert(["a"])
    grown("twinspan_store_seconds_count", verb="scroll")
    list(world.store.scroll(world.index.ref))
    assert grown("twinspan_store_seconds_count", verb="scroll") <= 1
    assert world.store.name.startswith("Qdrant Edge")


# -- the other verbs --------------------------------------------------------------------------


def test_verifications_gates_and_shadow_reads_have_their_counters(grown: Grown) -> None:
    drift = ("twinspan_drift_items_total", {**BUILDING, "cause": "ghost"})
    gate = ("twinspan_gate_checks_total", {"alias": "items", "check": "counts"})
    grown(drift[0], **drift[1])
    grown("twinspan_verified_items_total", **BUILDING)
    grown(gate[0], **gate[1], result="failed")
    grown("twinspan_shadow_overlap_ratio_count", alias="items")
    metrics.verified(**BUILDING, items=100, drift={"ghost": 2, "missing": 0})
    metrics.judged(alias="items", checks={"counts": False, "recall": True})
    metrics.shadowed(alias="items", overlap=0.9)
    assert grown(drift[0], **drift[1]) == 2
    missing = REGISTRY.get_sample_value(
        "twinspan_drift_items_total", {**BUILDING, "cause": "missing"}
    )
    assert missing is not None, "a series from the start, so that its first rise is seen"
    assert grown("twinspan_verified_items_total", **BUILDING) == 100
    assert grown(gate[0], **gate[1], result="failed") == 1
    assert grown("twinspan_shadow_overlap_ratio_count", alias="items") == 1


def test_a_query_is_timed_by_stage_and_its_errors_by_class(
    world: World, towers: Towers, settings: Settings, grown: Grown
) -> None:
    world.insert(["a", "b"])
    sync.drain(world.engine, world.store, towers, settings)
    world.store.point_alias("items", world.index.collection)
    retriever = Retriever(
        world.store, settings=settings, encoder=towers.get(ENCODER_ID, "memory://hashing")
    )
    for stage in ("resolve", "search", "total"):
        grown("twinspan_query_seconds_count", alias="items", stage=stage)
    grown("twinspan_query_errors_total", error="QueryError")
    assert len(retriever.recommend(["a"], k=1)) == 1
    assert len(retriever.similar("a", k=1)) == 1
    for stage in ("resolve", "search", "total"):
        assert grown("twinspan_query_seconds_count", alias="items", stage=stage) == 2
    with pytest.raises(Exception, match="holds no item"):
        retriever.similar("nothing")
    assert grown("twinspan_query_errors_total", error="QueryError") == 1


# -- scrapes ----------------------------------------------------------------------------------


def text_of(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return answer.read().decode()


def scraped(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Name and labels -> value, of everything that the port says."""
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text_of(port))
        for one in family.samples
    }


def test_the_ledger_is_asked_at_the_scrape(
    world: World, towers: Towers, settings: Settings
) -> None:
    def gauges() -> dict[str, float]:
        """Of this index, by name and lane."""
        page = scraping.page(scraping.registry(lambda: standing.look(world.engine))).decode()
        families = [
            one
            for one in text_string_to_metric_families(page)
            if one.name in {gauge.name for gauge in metrics.LEDGER}
        ]
        assert {one.name for one in families} <= {gauge.name for gauge in metrics.LEDGER}
        return {
            ".".join([one.name.removeprefix("twinspan_"), *filter(None, [one.labels.get("lane")])]):
            one.value
            for family in families
            for one in family.samples
        }  # fmt: skip

    world.insert(["a", "b"])
    world.insert(["bad"], title="POISON")
    world.run("UPDATE indexer.changes SET changed_at = now() - interval '100 s'")
    before = gauges()
    assert before["unrouted_changes"] == 2
    assert before["unrouted_oldest_seconds"] == pytest.approx(100, abs=20)
    assert (before["backlog_items.live"], before["backlog_oldest_seconds.live"]) == (0, 0)
    assert "last_write_timestamp_seconds" not in before
    assert before["leaders"] == 0

    sync.changes.route(world.engine, limit=10)
    waiting = gauges()
    assert waiting["backlog_items.live"] == 3
    assert waiting["backlog_oldest_seconds.live"] == pytest.approx(100, abs=20)
    assert (waiting["unrouted_changes"], waiting["unrouted_oldest_seconds"]) == (0, 0)

    sync.drain(world.engine, world.store, towers, settings)
    after = gauges()
    assert (after["failing_items"], after["quarantined_items"]) == (1, 0)
    assert after["last_write_timestamp_seconds"] == pytest.approx(time.time(), abs=60)
    world.run("UPDATE indexer.entries SET quarantined = true WHERE item_key = 'bad'")
    assert (gauges()["failing_items"], gauges()["quarantined_items"]) == (0, 1)
    assert gauges()["backlog_items.live"] == 0


def test_a_scrape_without_a_database_says_so_and_nothing_else_about_it() -> None:
    gone = database.engine("postgresql://127.0.0.1:1/x")
    page = scraping.page(scraping.registry(lambda: standing.look(gone))).decode()
    assert "twinspan_database_up 0.0" in page
    assert "twinspan_backlog_items{" not in page
    assert 'twinspan_info{release="' in page


def test_many_scrapes_cost_the_database_one_look() -> None:
    looks: list[int] = []

    def look() -> standing.Picture:
        looks.append(1)
        raise DatabaseUnavailable("gone")

    registry = scraping.registry(look)
    for _ in range(5):
        scraping.page(registry)
    assert len(looks) == 1


@pytest.mark.live
def test_a_forking_worker_answers_for_its_children_also_for_those_that_were_killed(
    engine: sa.Engine, database_url: str, tmp_path: Path, service: Callable[[str], str]
) -> None:
    broker, queue, port = service("redis"), unique("metrics"), free_port()
    with QdrantRest() as server:
        store = QdrantStore(url=server.url)
        world = make(engine, store, queue=queue)
        environment = {
            "TWINSPAN_DATABASE_URL": database_url,
            "TWINSPAN_QDRANT_URL": server.url,
            "TWINSPAN_BROKER_URL": broker,
            "TWINSPAN_METRICS_PORT": str(port),
        }
        options = ("--pool=prefork", "--concurrency=2")
        worker = Worker(folder=tmp_path, environment=environment, queue=queue, options=options)
        with worker:
            worker.wait_ready()

            def encoded() -> float:
                labels = (("alias", "items"), ("outcome", "encoded"), ("state", "building"))
                return scraped(port).get(("twinspan_items_total", labels), 0)

            def insert(prefix: str) -> None:
                world.insert([f"{prefix}-{n}" for n in range(50)])
                wait_until(world.is_clean, within_s=60, what="clean", log=worker.log)

            insert("first")
            wait_until(lambda: encoded() == 50, within_s=10, what="all are counted")
            killed = set(worker.children())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            wait_until(
                lambda: len(set(worker.children()) - killed) == 2, within_s=30, what="others"
            )
            insert("second")
            wait_until(lambda: encoded() == 100, within_s=10, what="all are counted")
            seen = scraped(port)
            assert seen["twinspan_database_up", ()] == 1
            assert seen["twinspan_leaders", ()] == 1
            listeners = [pid for pid in worker.children() if port in listening(pid)]
            assert listeners == [], "a child that outlives its parent would hold the port"
            assert port in listening(worker.pid)
        forget_queue(broker, queue)
        store.close()


def listening(pid: int) -> set[int]:
    """TCP ports that the process listens on (on Linux)."""
    sockets = {
        str(one.readlink()).removeprefix("socket:[").removesuffix("]")
        for one in Path(f"/proc/{pid}/fd").iterdir()
    }
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[9] in sockets}
