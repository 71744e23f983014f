"""Serving an ASGI application from a thread, on a port that is known before it starts."""

from __future__ import annotations

import socket
import threading
import time
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from indexer.errors import EmbeddedError

START_S = 30.0
STOP_S = 10.0  # for answers under way; then their connections are closed


class HttpServer:
    """Serves from `__init__` until `stop`. Raises EmbeddedError when the port is taken."""

    def __init__(self, app: ASGIApp, *, host: str, port: int) -> None:
        listening = _listen(host, port)
        self.host = host
        self.port: int = listening.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=int(STOP_S),
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name="twinspan-http", daemon=True
        )
        self._socket = listening
        self._thread.start()
        self._wait_until_started()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Answers under way are finished, the port is free, the thread has ended."""
        self._server.should_exit = True
        self._thread.join(2 * STOP_S)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_started(self) -> None:
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if not self.alive or time.monotonic() > deadline:
                self.stop()
                raise EmbeddedError("the HTTP server did not start; the log says why.")
            time.sleep(0.01)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as cause:
        raise EmbeddedError(
            f"cannot serve on {host} port {port}: {cause.strerror or cause}. "
            "Set TWINSPAN_HTTP_PORT to another port, or to 0 for any free one."
        ) from cause
