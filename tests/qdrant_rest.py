"""A stand-in for the Qdrant server, for where none can be installed.

It speaks the server's REST over real sockets and answers from qdrant-client's own in-memory
engine, so several worker processes use our real adapter and the real client against one shared
store. It is a double of the server, not of our code: no optimizer, no strict mode, no persistence
beyond the life of this process. The body of every request is parsed by the client's own models,
which forbid unknown fields.
"""

from __future__ import annotations

import json
import re
import ssl
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models
from qdrant_client.http import models as rest

Route = tuple[str, re.Pattern[str], Any, Callable[..., Any]]


class QdrantRest:
    """A server on a free loopback port, from `with` to the end of it."""

    def __init__(self, *, certificate: tuple[Path, Path] | None = None) -> None:
        """With a certificate and its key, over TLS."""
        self.engine = QdrantClient(":memory:")
        self.indexes: dict[str, dict[str, Any]] = {}
        self.requests = 0
        self._lock = threading.Lock()  # the in-memory engine has none
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self._scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._routes = self._make_routes()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.engine.close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """HTTP status and the `result` of the server's envelope, or its error."""
        self.requests += 1
        if (method, path) == ("GET", "/"):
            return 200, None
        for verb, pattern, model, act in self._routes:
            found = pattern.fullmatch(path)
            if verb == method and found:
                return self._act(act, found, model, body)
        return 404, f"no route for {method} {path}"

    def _act(
        self, act: Callable[..., Any], found: re.Match[str], model: Any, body: bytes
    ) -> tuple[int, Any]:
        try:
            given = [] if model is None else [TypeAdapter(model).validate_json(body)]
            with self._lock:
                return 200, act(*found.groups(), *given)
        except ValueError as cause:
            return (404 if "not found" in str(cause) else 400), str(cause)

    def _make_routes(self) -> list[Route]:
        one, points = r"/collections/([^/]+)", r"/collections/([^/]+)/points"
        table = [
            ("GET", "/collections", None, self.engine.get_collections),
            ("GET", one, None, self._info),
            ("PUT", one, rest.CreateCollection, self._create),
            ("PATCH", one, rest.UpdateCollection, self._update),
            ("DELETE", one, None, self.engine.delete_collection),
            ("PUT", f"{one}/index", rest.CreateFieldIndex, self._index),
            ("PUT", points, rest.PointInsertOperations, self._upsert),
            ("POST", f"{points}/delete", rest.PointsSelector, self._delete),
            ("POST", f"{points}/batch", rest.UpdateOperations, self._batch),
            ("POST", points, rest.PointRequest, self._retrieve),
            ("POST", f"{points}/scroll", rest.ScrollRequest, self._scroll),
            ("POST", f"{points}/count", rest.CountRequest, self._count),
            ("POST", f"{points}/query/batch", rest.QueryRequestBatch, self._query),
            ("GET", "/aliases", None, self.engine.get_aliases),
            ("POST", "/collections/aliases", rest.ChangeAliasesOperation, self._aliases),
        ]
        return [(verb, re.compile(path), model, act) for verb, path, model, act in table]

    def _info(self, name: str) -> models.CollectionInfo:
        info = self.engine.get_collection(name)
        return info.model_copy(update={"payload_schema": self.indexes.get(name, {})})

    def _create(self, name: str, asked: rest.CreateCollection) -> bool:
        return self.engine.create_collection(
            name,
            vectors_config=asked.vectors,
            sparse_vectors_config=asked.sparse_vectors,
            metadata=asked.metadata,
        )

    def _update(self, name: str, asked: rest.UpdateCollection) -> bool:
        return self.engine.update_collection(name, metadata=asked.metadata)

    def _index(self, name: str, asked: rest.CreateFieldIndex) -> models.UpdateResult:
        kind = getattr(asked.field_schema, "type", asked.field_schema)
        entry = models.PayloadIndexInfo(data_type=getattr(kind, "value", kind), points=0)
        self.indexes.setdefault(name, {})[asked.field_name] = entry
        return _done()

    def _upsert(self, name: str, asked: rest.PointsList) -> models.UpdateResult:
        return self.engine.upsert(
            name, asked.points, update_filter=asked.update_filter, update_mode=asked.update_mode
        )

    def _delete(self, name: str, asked: rest.PointsSelector) -> models.UpdateResult:
        return self.engine.delete(name, asked)

    def _batch(self, name: str, asked: rest.UpdateOperations) -> list[models.UpdateResult]:
        return self.engine.batch_update_points(name, asked.operations)

    def _retrieve(self, name: str, asked: rest.PointRequest) -> list[models.Record]:
        return self.engine.retrieve(
            name, asked.ids, with_payload=asked.with_payload, with_vectors=asked.with_vector
        )

    def _scroll(self, name: str, asked: rest.ScrollRequest) -> dict[str, Any]:
        found, offset = self.engine.scroll(
            name,
            scroll_filter=asked.filter,
            limit=asked.limit,
            offset=asked.offset,
            order_by=asked.order_by,
            with_payload=asked.with_payload,
            with_vectors=asked.with_vector,
        )
        return {"points": found, "next_page_offset": offset}

    def _count(self, name: str, asked: rest.CountRequest) -> models.CountResult:
        return self.engine.count(name, count_filter=asked.filter, exact=True)

    def _query(self, name: str, asked: rest.QueryRequestBatch) -> list[models.QueryResponse]:
        searches = [one.model_copy(update={"params": None}) for one in asked.searches]  # exact
        return self.engine.query_batch_points(name, searches)

    def _aliases(self, asked: rest.ChangeAliasesOperation) -> bool:
        return self.engine.update_collection_aliases(asked.actions)


def _done() -> models.UpdateResult:
    return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, store: QdrantRest, *arguments: Any) -> None:
        self.store = store
        super().__init__(*arguments)

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if path == "/":
            self._send(
                200, {"title": "qdrant - in memory, for tests", "version": version("qdrant-client")}
            )
            return
        status, result = self.store.answer(self.command, path, body)
        if status == 200:
            self._send(200, {"time": 0.0, "status": "ok", "result": _plain(result)})
        else:
            self._send(status, {"time": 0.0, "status": {"error": result}})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        """The tests' output is not a log."""


def _plain(result: Any) -> Any:
    return TypeAdapter(Any).dump_python(result, mode="json")


if __name__ == "__main__":  # a server of its own, until its stdin ends
    with QdrantRest() as _server:
        print(_server.port, flush=True)
        sys.stdin.read()
