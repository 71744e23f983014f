"""What the Qdrant adapter says over the wire, and what it makes of a server that is not well.

The contract is held against a real server in tests/stores; here a socket plays the sick ones."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from encoders.types import VectorSpec
from indexer import filters
from indexer.errors import (
    CollectionMissing,
    StoreError,
    StoreRejected,
    StoreUnavailable,
    UsageError,
)
from indexer.settings import Settings
from indexer.stores import Collection, Point, Search, qdrant_collections, qdrant_points
from indexer.stores.connect import connect
from indexer.stores.qdrant import QdrantStore

THERE = Collection(name="films-1", catalog="films")
INFO = {
    "status": "green", "optimizer_status": "ok", "segments_count": 1, "payload_schema": {},
    "config": {
        "params": {"vectors": {"tower": {"size": 2, "distance": "Dot"}}},
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10},
        "optimizer_config": {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1,
                             "default_segment_number": 0, "flush_interval_sec": 5},
        "metadata": {"twinspan": {"format": 1, "catalog": "films", "fields": {}}},
    },
}  # fmt: skip


class Server(ThreadingHTTPServer):
    """Answers the version and the collection; everything else as the test says."""

    daemon_threads = True
    version = "1.17.0"
    status = 200
    answer: Any = None
    passing = 0  # points, of any filter; 0: `answer` for counts too
    headers: dict[str, str] = {}  # noqa: RUF012  # replaced, never changed

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, Any, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = json.loads(body) if body else None
        self.server.seen.append((self.command, self.path, said, self.headers.get("api-key")))
        if self.path == "/":
            self.reply(200, {"title": "qdrant", "version": self.server.version})
        elif self.server.status == 200 and self.path == "/collections/films-1":
            self.reply(200, {"result": INFO, "status": "ok", "time": 0})
        elif self.server.passing and self.path == "/collections/films-1/points/count":
            self.reply(200, {"result": {"count": self.server.passing}, "status": "ok", "time": 0})
        else:
            self.reply(self.server.status, self.server.answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = handle_any

    def reply(self, status: int, answer: Any) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**self.server.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def store(server: Server) -> Iterator[QdrantStore]:
    store = QdrantStore(url=server.url, api_key="s3cret", timeout_s=1)
    yield store
    store.close()


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (400, StoreRejected, "no such vector"),
        (401, StoreUnavailable, "qdrant_api_key"),
        (403, StoreUnavailable, "qdrant_api_key"),
        (404, CollectionMissing, "no such vector"),
        (408, StoreUnavailable, "408"),
        (413, StoreRejected, "413"),
        (422, StoreRejected, "422"),
        (429, StoreUnavailable, "429"),
        (500, StoreUnavailable, "500"),
        (503, StoreUnavailable, "503"),
    ],
)
def test_an_answer_is_an_outage_or_a_refusal(server, store, status, error, says):
    server.status, server.answer = status, {"status": {"error": "no such vector"}, "time": 0}
    with pytest.raises(error, match=says) as caught:
        store.count(THERE)
    assert "s3cret" not in str(caught.value)
    assert server.url in str(caught.value)


def test_a_server_that_asks_to_wait_is_an_outage(server, store):
    server.status, server.answer = 429, {"status": {"error": "slow down"}}
    server.headers = {"Retry-After": "7"}
    with pytest.raises(StoreUnavailable, match="slow down"):
        store.count(THERE)


@pytest.mark.parametrize("answer", [b"<html>gateway</html>", {"result": "?"}], ids=repr)
def test_an_answer_that_is_not_understood_is_an_outage(server, store, answer):
    server.answer = answer
    with pytest.raises(StoreUnavailable):
        store.count(THERE)


def test_a_server_that_is_not_there_is_an_outage_and_is_tried_again():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://user:s3cret@127.0.0.1:{taken.getsockname()[1]}"
        store = QdrantStore(url=url, timeout_s=1)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="qdrant_url") as caught:
                store.aliases()
            assert "s3cret" not in str(caught.value)
        store.close()


def test_a_server_that_never_answers_is_given_up():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = QdrantStore(url=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=1)
        with pytest.raises(StoreUnavailable, match="in time"):
            store.collections()
        store.close()


def test_a_server_too_old_for_conditional_writes_is_refused(server, store):
    server.version = "1.16.3"
    with pytest.raises(StoreError, match=r"1\.16\.3.*1\.17"):
        store.collections()


def test_a_server_far_newer_is_noted(server, store, caplog):
    server.version, server.answer = "1.99.0", {"result": {"aliases": []}, "status": "ok", "time": 0}
    assert store.aliases() == {}
    assert store.aliases() == {}
    assert [record.message for record in caplog.records if "1.99.0" in record.message] != []
    assert len(caplog.records) == 1


def test_an_address_that_is_none_is_a_usage_error():
    for url in ("ftp://host:6333", "http://host:port"):
        with pytest.raises(UsageError, match="qdrant_url"):
            QdrantStore(url=url)


def test_nothing_is_sent_before_the_first_verb(server):
    QdrantStore(url=server.url).close()
    assert server.seen == []


def test_a_write_is_waited_for_and_conditional(server, store):
    server.answer = {
        "result": {"operation_id": 1, "status": "completed"},
        "status": "ok",
        "time": 0,
    }
    point = Point(key="a", vectors={"tower": np.array([0.1, 2], np.float32)}, payload={"x": 1})
    store.write_if_newer(THERE, [point], fence=7, mode="update_only")
    store.delete_if_newer(THERE, ["a"], fence=8)
    (put, put_path, written, key), (post, post_path, deleted, _) = server.seen[-2:]
    older = {"must_not": [{"key": "_fence", "range": {"gte": 7.0}}]}
    assert (put, put_path, key) == ("PUT", "/collections/films-1/points?wait=true", "s3cret")
    assert without_nones(written["update_filter"]) == older
    assert written["update_mode"] == "update_only"
    assert written["points"] == [
        {
            "id": THERE.point_id("a"),
            "vector": {"tower": [float(np.float32(0.1)), 2.0]},
            "payload": {"x": 1, "_key": "a", "_fence": 7},
        }
    ]
    assert (post, post_path) == ("POST", "/collections/films-1/points/delete?wait=true")
    older["must_not"][0]["range"] = {"gte": 8.0}
    assert without_nones(deleted["filter"]) == {"must": [{"has_id": [THERE.point_id("a")]}, older]}


@pytest.mark.parametrize(
    ("passing", "planned"),
    [(1_000, {"exact": True}), (1_000_000, {"hnsw_ef": 512, "acorn": {"enable": True}})],
)
def test_how_a_filtered_search_is_done_follows_the_servers_estimate(
    server, store, passing, planned
):
    server.passing = passing
    server.answer = {"result": [{"points": []}] * 3, "status": "ok", "time": 0}
    where, other = (filters.parse({"year": year}, {"year": "integer"}) for year in (1999, 2001))
    best = Search(vector="tower", values=np.array([1, 0], np.float32), limit=5)
    searches = [best, replace(best, where=where), replace(best, where=other, exact=True)]
    assert store.search(THERE, searches) == [[], [], []]
    *_, (_, counted, count, _), (_, asked, query, _) = server.seen
    assert (counted, count["exact"]) == ("/collections/films-1/points/count", False)
    assert [path for _, path, _, _ in server.seen].count(counted) == 1
    assert asked == "/collections/films-1/points/query/batch"
    unfiltered, same, scan = (without_nones(one["params"]) for one in query["searches"])
    assert unfiltered == {"exact": False, "hnsw_ef": 384}
    assert same == {"exact": False, **planned}
    assert scan == {"exact": True}


def without_nones(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nones(each) for name, each in value.items() if each is not None}
    return [without_nones(each) for each in value] if isinstance(value, list) else value


def test_requests_are_bounded_by_count_and_by_bytes():
    sized = [("a", 40), ("b", 40), ("c", 40), ("huge", 500), ("d", 1), ("e", 1), ("f", 1)]
    found = list(qdrant_points.batches(sized, max_items=2, max_bytes=100))
    assert found == [["a", "b"], ["c"], ["huge"], ["d", "e"], ["f"]]
    point = Point(key="a", vectors={"v": np.zeros(100, np.float32)}, payload={"t": "ü" * 1_000})
    built = qdrant_points.built(
        THERE.point_id("a"), point, 1, {"v": VectorSpec(name="v", dimension=100)}
    )
    assert qdrant_points.size(point) >= len(built.model_dump_json().encode())


def test_every_kind_has_an_index_and_our_own_fields_too():
    from qdrant_client import models

    from indexer.filters import FIELD_KINDS
    from indexer.stores import CollectionSpec

    spec = CollectionSpec(
        collection=THERE,
        vectors=(),
        fields={f"a {kind}": kind for kind in FIELD_KINDS},
        metadata={},
    )
    info = models.CollectionInfo.model_validate(INFO)
    wanted = qdrant_collections.missing_indexes(spec, info)
    assert {"_key", "_fence", "_gone", *(f'"a {kind}"' for kind in FIELD_KINDS)} == set(wanted)
    made = {path: {"data_type": "keyword", "points": 0} for path in wanted}
    whole = models.CollectionInfo.model_validate({**INFO, "payload_schema": made})
    assert qdrant_collections.missing_indexes(spec, whole) == {}


def test_the_settings_choose_the_store(tmp_path, server):
    embedded = connect(Settings(data_dir=tmp_path))
    assert embedded.name.startswith(f"Qdrant Edge in {tmp_path}")
    embedded.close()
    remote = connect(Settings(data_dir=tmp_path, qdrant_url=server.url))
    assert remote.name == f"Qdrant at {server.url}"
    remote.close()
