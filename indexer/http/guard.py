"""What is refused before a route sees it: foreign hosts, foreign pages, bodies that are too big.

A page in somebody's browser can send requests to loopback, and can even read the answers when its
own name is made to point there (DNS rebinding). So, while we serve on loopback, a request must name
a loopback host and must not come from another site's page.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexer import wording

BODY_MAX = 2_000_000  # bytes
PROBLEMS_SHOWN = 5


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        self._app = app
        self._loopback = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._loopback and (problem := _foreign(headers)):
            await problem_response(403, "Forbidden", problem)(scope, receive, send)
            return
        body = await _read(headers, receive)
        if body is None:
            message = f"the body has more than {BODY_MAX:,} bytes, which is the most"
            await problem_response(413, "BodyTooBig", message)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def problem_response(status: int, error: str, message: str) -> JSONResponse:
    said = wording.line(message)
    return JSONResponse({"error": error, "message": said}, status_code=status)


def problems(errors: Sequence[Any]) -> str:
    """One line for all that is wrong with a request; never its content."""
    lines = (
        f"{'.'.join(str(part) for part in error['loc']) or 'request'}: {error['msg']}"
        for error in errors[:PROBLEMS_SHOWN]
    )
    return "; ".join(lines)


def _foreign(headers: Headers) -> str | None:
    """Why the request is not from this machine's own programs and pages; None when it is."""
    host = headers.get("host", "")
    if not _names_loopback(f"//{host}"):
        return f"this server answers to loopback names only, not to {host!r}"
    origin = headers.get("origin")
    if origin is not None and not _names_loopback(origin):
        return f"this server does not answer to pages of {origin!r}"
    return None


def _names_loopback(address: str) -> bool:
    try:
        return is_loopback(urlsplit(address).hostname or "")
    except ValueError:
        return False


async def _read(headers: Headers, receive: Receive) -> bytes | None:
    """The whole body, or None as soon as it is known to be too big."""
    declared = headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared) > BODY_MAX:
        return None
    chunks: deque[bytes] = deque()
    size, more = 0, True
    while more:
        message = await receive()
        chunk: bytes = message.get("body", b"")
        more = message["type"] == "http.request" and bool(message.get("more_body"))
        size += len(chunk)
        if size > BODY_MAX:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed
