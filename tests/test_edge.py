"""What Qdrant Edge must keep: one process per directory, crashes, and optimize() meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from encoders.types import VectorSpec
from indexer.errors import CollectionMissing, StoreError, StoreLocked, StoreUnavailable
from indexer.stores import Collection, CollectionSpec, Point, Search
from indexer.stores.edge import EdgeStore

THERE = Collection(name="films-1", catalog="films")
SPEC = CollectionSpec(
    collection=THERE,
    vectors=(VectorSpec(name="tower", dimension=16),),
    fields={"year": "integer", "genre": "keyword"},
    metadata={"index_id": 1, "encoder_id": "abc"},
)
WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_edge import EdgeStore, SPEC, THERE, points
store = EdgeStore({path!r})
store.ensure_collection(SPEC)
store.write_if_newer(THERE, points(range(300)), fence=1, mode="upsert")
store.delete_if_newer(THERE, ["k7"], fence=2)
store.flush(THERE)
print("flushed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path):
    store = EdgeStore(tmp_path / "edge", graph_kb=100)
    store.ensure_collection(SPEC)
    yield store
    store.close()


def vector(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=16).astype(np.float32)


def points(numbers, year: int = 2000) -> list[Point]:
    return [
        Point(
            key=f"k{n}",
            vectors={"tower": vector(n)},
            payload={"year": year + n % 7, "genre": "ab"[n % 2], "n": n},
        )
        for n in numbers
    ]


def years(store: EdgeStore) -> dict[str, int]:
    return {one.key: one.payload["year"] for some in store.scroll(THERE) for one in some}


def writer(path: Path) -> subprocess.Popen[str]:
    """A process that has written, flushed and holds the directory."""
    code = WRITER.format(tests=str(Path(__file__).parent), path=str(path))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "flushed\n"
    return child


def end(child: subprocess.Popen[str], number: int) -> None:
    child.send_signal(number)
    child.communicate()


def test_a_second_process_is_told_who_holds_the_directory(tmp_path: Path):
    child = writer(tmp_path)
    try:
        with pytest.raises(StoreLocked) as caught:
            EdgeStore(tmp_path)
        assert f"process {child.pid} on" in str(caught.value)
        assert "since 20" in str(caught.value)
        assert "qdrant_url" in str(caught.value)
    finally:
        end(child, signal.SIGKILL)


def test_a_second_store_in_one_process_is_refused_until_the_first_is_closed(store, tmp_path):
    with pytest.raises(StoreLocked):
        EdgeStore(tmp_path / "edge")
    store.close()
    EdgeStore(tmp_path / "edge").close()


def test_what_was_flushed_survives_kill_9_and_the_directory_is_free(tmp_path: Path):
    end(writer(tmp_path), signal.SIGKILL)
    store = EdgeStore(tmp_path)
    assert store.count(THERE) == 299
    found = store.fetch(THERE, ["k7", "k8"], vectors=["tower"])
    assert list(found) == ["k8"]
    assert np.array_equal(found["k8"].vectors["tower"], vector(8))
    assert store.status("films-1").spec == SPEC
    store.close()


def test_what_was_flushed_survives_the_loss_of_all_that_was_not(store, tmp_path: Path):
    """The power fails: of the shard, the disk has the last checkpoint, and the log as flushed."""
    shard = next((tmp_path / "edge/collections/films-1").glob("points-*"))
    before = tmp_path / "as-of-the-last-checkpoint"
    shutil.copytree(shard, before)
    store.write_if_newer(THERE, points(range(1_500)), fence=1, mode="upsert")
    store.set_payload_if_newer(THERE, {"k3": {"year": 1950}}, fence=2)
    store.delete_if_newer(THERE, ["k7"], fence=2)
    store.flush(THERE)
    shutil.copytree(shard / "wal", tmp_path / "wal")
    expected = years(store)
    store.close()
    shutil.rmtree(shard)
    before.rename(shard)
    shutil.rmtree(shard / "wal")
    (tmp_path / "wal").rename(shard / "wal")
    again = EdgeStore(tmp_path / "edge")
    assert years(again) == expected
    assert again.count(THERE) == 1_499
    again.close()


def test_a_store_opened_again_has_everything(store, tmp_path: Path):
    store.write_if_newer(THERE, points(range(50)), fence=1, mode="upsert")
    store.point_alias("films", "films-1")
    expected = years(store)
    store.close()
    again = EdgeStore(tmp_path / "edge")
    assert (years(again), again.aliases(), again.collections()) == (
        expected, {"films": "films-1"}, ["films-1"],
    )  # fmt: skip
    again.write_if_newer(THERE, points([1], year=1900), fence=1, mode="upsert")
    assert years(again) == expected, "a stale write was taken after reopening"
    again.close()


def test_a_collection_half_created_or_half_dropped_is_gone_after_reopening(store, tmp_path: Path):
    store.close()
    half = tmp_path / "edge/collections/half/points-123/segments"
    half.mkdir(parents=True)
    again = EdgeStore(tmp_path / "edge")
    assert again.collections() == ["films-1"]
    assert not half.exists()
    again.ensure_collection(SPEC)
    again.close()


def test_a_copy_that_a_crash_left_behind_is_removed(store, tmp_path: Path):
    store.write_if_newer(THERE, points(range(5)), fence=1, mode="upsert")
    store.close()
    left = tmp_path / "edge/collections/films-1/points-left"
    left.mkdir()
    again = EdgeStore(tmp_path / "edge")
    assert again.count(THERE) == 5
    assert not left.exists()
    again.close()


def test_a_damaged_description_is_a_clear_error(store, tmp_path: Path):
    store.close()
    path = tmp_path / "edge/collections/films-1/collection.json"
    path.write_text("{")
    again = EdgeStore(tmp_path / "edge")
    with pytest.raises(StoreError, match="cannot be read"):
        again.status("films-1")
    again.close()


def test_a_folder_that_cannot_be_used_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="data_dir"):
        EdgeStore(tmp_path / "file" / "edge")


def test_a_closed_store_says_so(store):
    store.close()
    for verb in (lambda: store.count(THERE), lambda: store.ensure_collection(SPEC)):
        with pytest.raises(StoreError, match="closed"):
            verb()


def test_optimize_keeps_what_is_written_meanwhile(store):
    """Inserts, updates, payloads and deletes that come while the copy is optimised are all there
    afterwards, and nothing that was deleted has come back."""
    store.write_if_newer(THERE, points(range(4_000)), fence=1, mode="upsert")
    assert not store.status("films-1").indexed
    optimizing = threading.Thread(target=store.optimize, args=(THERE,))
    optimizing.start()
    fence, rounds = 1, 0
    while optimizing.is_alive():
        fence, rounds = fence + 1, rounds + 1
        base = (rounds * 37) % 3_900
        store.write_if_newer(
            THERE, points([base, 5_000 + rounds], 1990), fence=fence, mode="upsert"
        )
        store.set_payload_if_newer(THERE, {f"k{base + 1}": {"year": fence, "n": 0}}, fence=fence)
        store.delete_if_newer(THERE, [f"k{base + 2}"], fence=fence)
        store.flush(THERE)
        assert years_of(store, base, rounds) == [fence, None, True]
    optimizing.join()
    assert rounds > 3
    assert store.status("films-1").indexed
    assert_searches_are_exact(store)


def years_of(store: EdgeStore, base: int, rounds: int) -> list[object]:
    some = store.fetch(THERE, [f"k{base + 1}", f"k{base + 2}", f"k{5_000 + rounds}"])
    changed, gone, new = some.get(f"k{base + 1}"), some.get(f"k{base + 2}"), f"k{5_000 + rounds}"
    return [changed and changed.payload["year"], gone, new in some]


def assert_searches_are_exact(store: EdgeStore) -> None:
    everything = {one.key: one for some in store.scroll(THERE, vectors=["tower"]) for one in some}
    query = vector(12_345)
    scores = {key: float(one.vectors["tower"] @ query) for key, one in everything.items()}
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:10]
    hits = store.search(THERE, [Search(vector="tower", values=query, limit=10)])[0]
    assert len(set(best) & {hit.key for hit in hits}) >= 9
    exact = store.search(THERE, [Search(vector="tower", values=query, limit=10, exact=True)])[0]
    assert [hit.key for hit in exact] == best
    assert store.count(THERE) == len(everything)


def test_after_optimize_stale_writes_are_still_refused_and_reopening_finds_all(store, tmp_path):
    store.write_if_newer(THERE, points(range(4_000)), fence=5, mode="upsert")
    store.optimize(THERE)
    store.write_if_newer(THERE, points(range(10), 1900), fence=4, mode="upsert")
    store.delete_if_newer(THERE, ["k1"], fence=4)
    assert years(store)["k1"] == 2001
    shards = list((tmp_path / "edge/collections/films-1").glob("points-*"))
    assert len(shards) == 1
    expected = years(store)
    store.close()
    again = EdgeStore(tmp_path / "edge", graph_kb=100)
    assert years(again) == expected
    assert again.status("films-1").indexed
    again.close()


def test_an_optimize_that_fails_leaves_the_collection_as_it_was(store, tmp_path, monkeypatch):
    store.write_if_newer(THERE, points(range(4_000)), fence=1, mode="upsert")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StoreUnavailable, match="films-1"):
        store.optimize(THERE)
    assert store.count(THERE) == 4_000
    assert len(list((tmp_path / "edge/collections/films-1").glob("points-*"))) == 1
    store.write_if_newer(THERE, points([9_999]), fence=1, mode="upsert")
    assert store.count(THERE) == 4_001


def test_closing_ends_an_optimize_under_way(store):
    store.write_if_newer(THERE, points(range(4_000)), fence=1, mode="upsert")
    errors: list[BaseException] = []

    def optimize() -> None:
        try:
            store.optimize(THERE)
        except StoreError as error:
            errors.append(error)

    thread = threading.Thread(target=optimize)
    thread.start()
    store.close()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert all(isinstance(one, StoreError) for one in errors)


def test_searching_while_writing_and_dropping_gives_answers_or_a_clear_error(store):
    store.write_if_newer(THERE, points(range(500)), fence=1, mode="upsert")
    answers, problems = [], []
    search = Search(vector="tower", values=vector(1), limit=5)

    def ask() -> None:
        try:
            while True:
                answers.append(len(store.search(THERE, [search])[0]))
                for _ in store.scroll(THERE, batch=100):
                    pass
        except CollectionMissing:
            return
        except Exception as problem:  # noqa: BLE001  # whatever it is, the test must see it
            problems.append(problem)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for fence in range(2, 10):
        store.write_if_newer(THERE, points(range(100)), fence=fence, mode="upsert")
    store.drop_collection("films-1")
    for thread in threads:
        thread.join(timeout=30)
    assert problems == []
    assert set(answers) == {5}
    assert store.collections() == []
