"""Readiness: each way to be dead is made to happen, and is told; what is alive is called ready."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder
from live import free_port, wait_until
from live_world import ENCODER_ID, World, make
from qdrant_rest import QdrantRest

from indexer import changes, database, readiness, standing, sync
from indexer.cli import app
from indexer.http.health import Health
from indexer.settings import Settings
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Towers
from workers import thread
from workers.app import QUEUE

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def server() -> Iterator[QdrantRest]:
    with QdrantRest() as one:
        yield one


@pytest.fixture
def world(engine: sa.Engine, server: QdrantRest) -> Iterator[World]:
    store = QdrantStore(url=server.url, timeout_s=1)
    made = make(engine, store, queue=QUEUE)
    made.run("UPDATE indexer.indexes SET state = 'live'")
    yield made
    store.close()


@pytest.fixture
def services(world: World, settings: Settings) -> SimpleNamespace:
    towers = Towers(settings)
    towers.add(ENCODER_ID, HashingEncoder())
    return SimpleNamespace(engine=world.engine, store=world.store, towers=towers, settings=settings)


@pytest.fixture
def ask(
    database_url: str,
    server: QdrantRest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Ask:
    """`twinspan` as a supervisor calls it: its exit code, and what it says."""
    monkeypatch.setattr(readiness, "LEADER_S", 0.3)
    monkeypatch.chdir(tmp_path)

    def asked(*arguments: str, **environment: str) -> tuple[int, str]:
        known = {"DATABASE_URL": database_url, "QDRANT_URL": server.url, **environment}
        for name, value in known.items():
            monkeypatch.setenv(f"TWINSPAN_{name}", value)
        capsys.readouterr()
        return app.run(arguments), capsys.readouterr().out

    return asked


def test_a_worker_that_died_is_told_by_the_process_and_by_the_command(
    world: World, services: SimpleNamespace, settings: Settings, ask: Ask
) -> None:
    handle = thread.start(settings, services)
    health = Health(services, lambda: handle.alive)
    try:
        world.insert(["a"])
        wait_until(world.is_clean, within_s=30, what="clean")
        wait_until(lambda: standing.look(world.engine).leaders, within_s=10, what="it leads")
        found = health.look()
        assert (found.ready, found.problems) == (True, [])
        assert found.last_writes["items"] is not None
        assert ask("ready") == (0, "ready\n")
    finally:
        handle.stop()
    found = health.look()
    assert (found.ready, found.problems) == (False, ["the worker is not running"])
    code, said = ask("ready", "--json")
    assert code == 1
    assert "no worker watches" in json.loads(said)["problems"][0]


def test_a_change_that_nobody_serves_gets_old_routed_or_not(
    world: World, services: SimpleNamespace, settings: Settings, ask: Ask
) -> None:
    health = Health(services, lambda: True)
    world.insert(["a"])
    assert health.look().ready, "it has only just come"
    world.run("UPDATE indexer.changes SET changed_at = now() - interval '100 s'")
    assert "waiting for 10" in health.look().problems[0]
    assert health.look(max_age_s=300).ready
    changes.route(world.engine, limit=10)
    [problem] = health.look().problems
    assert problem.startswith(f"index {world.index.id} (items, live): a change has been waiting")
    assert "a change has been waiting" in ask("ready", "--max-age", "20")[1]
    assert "a change has been waiting" not in ask("ready", "--max-age", "300")[1]


def test_work_of_the_live_index_that_stands_still_is_told_a_failing_item_is_not(
    world: World, services: SimpleNamespace, settings: Settings
) -> None:
    health = Health(services, lambda: True)
    world.insert(["bad"], title="POISON")
    sync.drain(world.engine, world.store, services.towers, settings)
    world.run("UPDATE indexer.entries SET changed_at = now() - interval '1 h'")
    assert health.look().ready, "an item that fails harms itself only"
    world.run(
        "INSERT INTO indexer.entries (index_id, item_key, lane, changed_at)"
        " VALUES (:id, 'repaired', 2, now() - interval '1 h')",
        id=world.index.id,
    )
    assert "nothing was ever written" in health.look().problems[0]
    world.run("UPDATE indexer.indexes SET written_at = now() - interval '40 min'")
    assert "nothing was written for 24" in health.look().problems[0]
    world.run("UPDATE indexer.indexes SET written_at = now()")
    assert health.look().ready, "a backfill may take its time while it goes on"


def test_a_store_or_a_database_that_is_gone_is_told(
    world: World, services: SimpleNamespace, server: QdrantRest, ask: Ask
) -> None:
    gone = database.engine("postgresql://nobody:hush@127.0.0.1:1/none")
    away = SimpleNamespace(**{**vars(services), "engine": gone})
    [problem] = Health(away, lambda: True).look().problems
    assert "is not available" in problem
    assert "hush" not in problem
    code, said = ask("ready", QDRANT_URL=f"http://127.0.0.1:{free_port()}")
    assert code == 1
    assert "cannot be reached" in said
    assert ask("ready", DATABASE_URL="postgresql://nobody:hush@127.0.0.1:1/none")[0] == 1


def test_an_embedded_mode_that_does_not_run_is_not_ready_and_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.run(["ready"]) == 1
    assert "`twinspan up` does not run" in capsys.readouterr().out
    assert not (tmp_path / ".twinspan" / "postgres").exists()


def test_status_says_what_waits_in_which_lane_and_since_when(
    world: World, services: SimpleNamespace, settings: Settings, ask: Ask
) -> None:
    world.insert(["a", "b"])
    sync.drain(world.engine, world.store, services.towers, settings)
    world.run("UPDATE indexer.indexes SET state = 'standby', standby_at = now()")
    world.insert(["c"])
    world.run("UPDATE indexer.changes SET changed_at = now() - interval '100 s'")
    changes.route(world.engine, limit=10)
    code, said = ask("status", "--json")
    assert code == 0
    status = json.loads(said)
    [row] = status["indexes"]
    assert (row["items"], row["live"], row["backfill"], row["quarantined"]) == (2, 1, 0, 0)
    assert 100 <= row["oldest_s"] < 200
    assert row["oldest_backfill_s"] is None
    assert row["written_at"] is not None
    assert row["standby_until"] > row["created_at"]
    assert row["gate"] is None
    assert (status["leader"], status["workers"], status["changes_pending"]) == (False, None, 0)
    assert "standby" in ask("status")[1]
