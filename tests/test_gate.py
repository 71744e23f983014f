"""The gate lets a good index pass and refuses each kind of bad one, naming the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge
import sqlalchemy as sa
from gate_world import EPOCH, FILMS, QUICK, Judged, SlowEncoder, check, failed
from hashing import HashingEncoder
from qdrant_rest import QdrantRest
from worlds import genre_world

from encoders import train
from indexer import catalog, collection, gate, indexes, interactions
from indexer.catalog import spec
from indexer.cli.app import run
from indexer.gate import latency, ledger, quality, recall, stored
from indexer.ledger import failures
from indexer.settings import Settings
from indexer.stores import VectorStore, edge_shard, policy
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore


@pytest.fixture
def world(engine: sa.Engine, store: VectorStore, settings: Settings) -> Judged:
    made = Judged(engine=engine, store=store, settings=settings)
    made.insert()
    return made


def test_a_good_index_passes_and_its_report_is_kept(world: Judged) -> None:
    index = world.build("e1", HashingEncoder())
    report = world.judge(index)
    assert failed(report) == [], report.refusal()
    assert report.passed
    assert report.refusal() == ""
    assert check(report, ledger.COUNTS).figures["store"] == FILMS
    indexes.set_gate(world.engine, index.id, report.as_dict())
    kept = indexes.gate(world.engine, index.id)
    assert kept is not None
    assert gate.from_dict(kept) == gate.from_dict(json.loads(json.dumps(report.as_dict())))


def test_an_index_that_nobody_has_filled_is_refused(world: Judged) -> None:
    report = world.judge(world.build("e1", HashingEncoder(), drained=False))
    assert failed(report)[0] == ledger.BACKFILL
    assert check(report, ledger.BACKFILL).value == FILMS
    assert f"{FILMS} items" in report.refusal()
    assert "worker" in report.refusal()


def test_a_truncated_backfill_is_refused_though_ledger_and_store_agree(world: Judged) -> None:
    index = world.build("e1", HashingEncoder())
    gone = [f"k{n}" for n in range(FILMS // 2)]
    world.run(
        "DELETE FROM indexer.entries WHERE index_id = :index_id AND item_key = ANY(:keys)",
        index_id=index.id,
        keys=gone,
    )
    world.store.delete_if_newer(index.ref, gone, fence=2**40)
    world.store.flush(index.ref)
    report = world.judge(index)
    assert failed(report) == [ledger.COUNTS]
    assert "200 usable rows in the catalog, 100 items in the ledger" in report.refusal()


def test_points_that_the_ledger_believes_in_are_missed(world: Judged) -> None:
    index = world.build("e1", HashingEncoder())
    world.store.delete_if_newer(index.ref, ["k1", "k2", "k3"], fence=2**40)
    world.store.flush(index.ref)
    report = world.judge(index, gate_samples=FILMS)
    assert failed(report) == [ledger.COUNTS, stored.VECTORS]
    assert check(report, stored.VECTORS).figures["examples"] == {
        "without a point": ["k1", "k2", "k3"]
    }


def test_vectors_of_another_encoder_of_the_same_dimension_are_refused(world: Judged) -> None:
    index = world.build("e1", HashingEncoder(salt="another"))
    world.towers.add("e1", HashingEncoder())
    report = world.judge(index)
    assert failed(report) == [stored.VECTORS]
    assert check(report, stored.VECTORS).value == QUICK["gate_samples"]
    assert "with other vectors" in report.refusal()


def test_a_payload_altered_by_hand_is_noticed(world: Judged) -> None:
    index = world.build("e1", HashingEncoder())
    [point] = world.store.fetch(index.ref, ["k5"]).values()
    altered = {**point.payload, "year": 1900}
    world.store.set_payload_if_newer(index.ref, {"k5": altered}, fence=2**40)
    report = world.judge(index, gate_samples=FILMS)
    assert failed(report) == [stored.VECTORS]
    assert check(report, stored.VECTORS).figures["examples"] == {"with stale fields": ["k5"]}


def test_a_payload_index_missing_on_edge_is_refused(
    engine: sa.Engine, edge_store: EdgeStore, settings: Settings
) -> None:
    world = Judged(engine=engine, store=edge_store, settings=settings)
    world.insert(40)
    index = world.build("e1", HashingEncoder())
    with edge_store._shard(index.collection).reading() as handle:
        handle.update(qdrant_edge.UpdateOperation.delete_field_index("genres"))
    report = world.judge(index)
    assert failed(report) == [stored.COLLECTION]
    assert "no payload index for genres (keyword)" in report.refusal()


def test_a_payload_index_missing_on_a_server_is_refused(
    engine: sa.Engine, settings: Settings
) -> None:
    with QdrantRest() as server:
        store = QdrantStore(url=server.url)
        world = Judged(engine=engine, store=store, settings=settings)
        world.insert(40)
        index = world.build("e1", HashingEncoder())
        assert world.judge(index).passed
        del server.indexes[index.collection]["year"]
        report = world.judge(index)
        store.close()
    assert failed(report) == [stored.COLLECTION]
    assert "no payload index for year (integer)" in report.refusal()


def test_a_collection_that_is_gone_is_refused_not_an_accident(world: Judged) -> None:
    index = world.build("e1", HashingEncoder())
    world.store.drop_collection(index.collection)
    report = world.judge(index)
    assert stored.COLLECTION in failed(report)
    assert "CollectionMissing" in report.refusal()


def test_changes_after_the_gate_began_may_be_in_flight(world: Judged) -> None:
    """A writer that never rests: each look of the gate finds another change on its way."""
    index = world.build("e1", HashingEncoder())
    written = iter(range(10_000))

    def write_and_drain() -> None:
        world.drain()
        world.insert(1, first=FILMS + next(written))

    world.insert(5, first=FILMS + 20_000)
    found = indexes.get(world.engine, index.id)
    settings = world.settings.model_copy(update={**QUICK, "gate_wait_s": 1.0})
    report = gate.run(
        world.engine, world.store, world.towers, settings, found, seed=1, pause=write_and_drain
    )
    assert failed(report) == [], report.refusal()
    assert next(written) > 0


def test_more_quarantined_items_than_allowed_are_refused(world: Judged) -> None:
    world.run("UPDATE public.items SET title = 'POISON ' || id WHERE id LIKE 'k1_'")
    world.settings = world.settings.model_copy(update={"max_attempts": 1})
    index = world.build("e1", HashingEncoder())
    assert len(failures(world.engine, index_id=index.id)) == 10
    report = world.judge(index)
    assert failed(report) == [ledger.QUARANTINE]
    assert "10 of 200 items (5.00%), at most 1.00%" in report.refusal()
    assert world.judge(index, gate_quarantined=0.05).passed


# -- what users would notice -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def towers_of_fans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two real towers of one world: one learnt who likes what, one from shuffled labels. Contents
    are left out: by them, a user is well served whatever was learnt."""
    data, root = genre_world(films=30, fans=12, seed=3).data, tmp_path_factory.mktemp("towers")
    named = {one.name for one in spec.BUILTIN.item_features}
    known = replace(data, item_features=tuple(f for f in data.item_features if f.name in named))
    shuffled = replace(known, item=np.random.default_rng(0).permutation(known.item))
    config = {"width": 16, "epochs": 24, "windows": 8, "patience": 24, "content_width": 0}
    return {
        name: train.train("retrievalformer", one, str(root), config=config, seed=1, threads=1).uri
        for name, one in (("true", known), ("shuffled", shuffled))
    }


def test_an_encoder_trained_on_shuffled_labels_is_refused_and_the_true_one_is_not(
    engine: sa.Engine, edge_store: EdgeStore, settings: Settings, towers_of_fans: dict[str, str]
) -> None:
    world = Judged(engine=engine, store=edge_store, settings=settings)
    fans = genre_world(films=30, fans=12, seed=3).data
    world.insert_world(fans)
    true = world.start(towers_of_fans["true"])
    first = world.judge(true)
    assert failed(first) == [], first.refusal()
    assert check(first, quality.QUALITY).passed is None  # nothing is live to compare with
    assert "popular items" in check(first, quality.QUALITY).measured
    world.make_live(true)
    shuffled = world.start(towers_of_fans["shuffled"])
    report = world.judge(shuffled)
    assert failed(report) == [quality.QUALITY], report.refusal()
    seen = check(report, quality.QUALITY)
    assert seen.value is not None
    assert seen.value < -0.2, seen.measured  # even the better end of the interval
    assert f"5.0% worse than live index {true.id}" in report.refusal()
    again = world.judge(world.start(towers_of_fans["true"]))
    assert failed(again) == [], again.refusal()
    assert check(again, quality.QUALITY).passed is True


def test_who_did_two_things_at_the_last_moment_is_not_asked(world: Judged) -> None:
    index = world.build("e", HashingEncoder())
    for user, days in (("plain", (0, 1, 2)), ("tied", (0, 2, 2)), ("earlier tie", (0, 0, 2))):
        interactions.add(
            world.engine,
            [
                interactions.Interaction(user, f"k{number}", EPOCH + timedelta(days=day))
                for number, day in enumerate(days)
            ],
        )
    assert "asked of 2 users" in check(world.judge(index), quality.QUALITY).measured


def test_filtered_recall_destroyed_is_refused_and_the_filter_is_named(
    engine: sa.Engine, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph built before its payload indexes has no links along them; a plain walk under a
    filter then loses its way. Whoever turns the exact scan off gets that without a word."""
    monkeypatch.setattr(policy, "FULL_SCAN_KB", 10)  # else the engine scans so few items
    walk = policy.Plan(exact=False, ef=32)
    monkeypatch.setattr(policy, "plan", lambda *, exact, limit, passing: replace(walk, exact=exact))
    store = EdgeStore(tmp_path / "edge", graph_kb=10)
    world = Judged(engine=engine, store=store, settings=settings)
    world.insert_clusters(4_000)
    index = world.build("e1", HashingEncoder())
    with store._shard(index.collection).reading() as handle:
        for name in spec.BUILTIN.fields:
            handle.update(qdrant_edge.UpdateOperation.delete_field_index(name))
    store.optimize(index.ref)
    attached = catalog.get(engine, "items")
    with store._shard(index.collection).reading() as handle:
        edge_shard._index_fields(handle, collection.spec_of(index, attached, ()))
    report = world.judge(index, gate_queries=40)
    store.close()
    assert failed(report) == [recall.FILTERED], report.refusal()
    seen = check(report, recall.FILTERED)
    assert seen.value is not None
    assert seen.value < 0.9
    assert "under {'brand': " in report.refusal()


def test_a_slow_index_is_refused(world: Judged) -> None:
    report = world.judge(world.build("e1", SlowEncoder(0.03)), gate_p95_ms=25)
    assert failed(report) == [latency.LATENCY]
    assert "at most 25 ms" in report.refusal()


def test_the_command_shows_the_report_and_exits_by_it(
    edge_store: EdgeStore,
    engine: sa.Engine,
    settings: Settings,
    towers_of_fans: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = Judged(engine=engine, store=edge_store, settings=settings)
    world.insert_world(genre_world(films=30, fans=12, seed=3).data)
    index = world.start(towers_of_fans["true"])
    edge_store.close()  # the command opens it
    for name, value in {
        "DATA_DIR": str(edge_store._root.parent),
        "DATABASE_URL": engine.url.render_as_string(hide_password=False).replace("+psycopg", ""),
        "GATE_QUERIES": "8",
        "GATE_P95_MS": "60000",
    }.items():
        monkeypatch.setenv(f"TWINSPAN_{name}", value)
    assert run(["gate", str(index.id), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["passed"] is True
    assert shown == indexes.gate(engine, index.id)
    world.run("DELETE FROM indexer.entries WHERE index_id = :id", id=index.id)
    assert run(["gate", str(index.id)]) == 1
    text = capsys.readouterr().out
    assert "does not pass the gate" in text
    assert "twinspan verify --repair" in text
    assert run(["gate", str(index.id), "--last"]) == 1
