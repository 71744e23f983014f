"""A TCP cable that can be cut: what passes through it reaches a server, until a test pulls it.

It can also fail as networks do: refuse, break a request off in its middle, lose the answer to a
request that was carried out, slow down, or hold requests back and deliver them after their sender
has given up and gone.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Literal, Self

POLL_S = 0.01
BODY_BYTES = 512  # a piece that is longer has a body in it
REOPEN_S = 10.0  # patience with a port that the system has not given back yet

Loss = Literal["request", "answer"]
_Send = Callable[[socket.socket, bytes], None]


class Cable:
    """Listens on a free loopback port and passes bytes on to `port`, from `with` to its end."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._whole = True
        self._loses: Loss | None = None
        self._delay_s = 0.0
        self._stalled_until = 0.0
        self.broken_off = 0  # requests or answers lost on the way

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._begin_to_accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._listener.close()

    def cut(self) -> None:
        """Every connection is reset, and new ones are closed at once, until `mend`."""
        with self._lock:
            self._whole = False
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._open.clear()

    def refuse(self) -> None:
        """Every connection is reset, and nobody listens any more, until `mend`."""
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait of `accept`
        self._listener.close()

    def lose(self, what: Loss) -> None:
        """Until `mend` each request with a body is broken off in its middle, or each answer is lost
        while its request is carried out; the connection is gone either way."""
        self._loses = what

    def slow_down(self, delay_s: float) -> None:
        """Each piece of a request takes that much longer, until `mend`."""
        self._delay_s = delay_s

    def stall(self, seconds: float) -> None:
        """Requests lie in the cable for that time and are delivered afterwards, whether or not
        their senders still wait."""
        self._stalled_until = time.monotonic() + seconds

    def mend(self) -> None:
        """As new; what was held back is delivered now."""
        with self._lock:
            self._whole, self._loses = True, None
            self._delay_s = self._stalled_until = 0.0
        if self._listener.fileno() < 0:
            self._listener = _listen(self.port)
            self._begin_to_accept()

    def _begin_to_accept(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:  # closed: the test is over, or connections are refused
                return
            self._connect(near)

    def _connect(self, near: socket.socket) -> None:
        with self._lock:
            if not self._whole:
                near.close()
                return
            far = socket.create_connection(self._target)
            self._open |= {near, far}
        for source, sink, send in ((near, far, self._request), (far, near, self._answer)):
            threading.Thread(target=self._pass_on, args=(source, sink, send), daemon=True).start()

    def _request(self, sink: socket.socket, data: bytes) -> None:
        if self._delay_s:
            time.sleep(self._delay_s)
        while time.monotonic() < self._stalled_until:
            time.sleep(POLL_S)
        if self._loses == "request" and len(data) > BODY_BYTES:
            self.broken_off += 1
            sink.sendall(data[: len(data) // 2])
            raise ConnectionAbortedError
        sink.sendall(data)

    def _answer(self, sink: socket.socket, data: bytes) -> None:
        if self._loses == "answer":
            self.broken_off += 1
            raise ConnectionAbortedError
        sink.sendall(data)

    def _pass_on(self, source: socket.socket, sink: socket.socket, send: _Send) -> None:
        try:
            while data := source.recv(65_536):
                send(sink, data)
        except OSError:  # cut, or the other side has gone
            pass
        with self._lock:
            for one in (source, sink):
                self._open.discard(one)
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


def _listen(port: int) -> socket.socket:
    deadline = time.monotonic() + REOPEN_S
    while True:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
