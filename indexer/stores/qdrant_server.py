"""The way to a Qdrant server: its address and certificate, its version, its errors as ours."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient
from qdrant_client.common.version_check import is_compatible

from indexer.errors import StoreError, UsageError
from indexer.stores.qdrant_errors import translated

MIN_SERVER = (1, 17)  # conditional writes that create nothing (`update_mode`)

log = logging.getLogger(__name__)


class Server:
    """A server, or the client's in-memory mode (`local`), which is exact and has no indexes."""

    def __init__(self, client: QdrantClient, name: str, *, local: bool = False) -> None:
        self.name = name
        self.local = local
        self._client = client
        self._closed = False
        self._version_checked = local
        self._one_at_a_time = threading.RLock()  # for the in-memory mode, which has no locks

    @contextmanager
    def calling(self) -> Generator[QdrantClient]:
        """The client, once it is known that the server understands us; its errors as ours."""
        if self._closed:
            raise StoreError(f"{self.name} was closed.")
        with translated(self.name):
            if not self._version_checked:
                _check_version(self._client.info().version, self.name)
                self._version_checked = True
            if not self.local:
                yield self._client
                return
            with self._one_at_a_time:
                yield self._client

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()


def at(url: str, *, api_key: str | None, timeout_s: float, ca_file: Path | None) -> Server:
    """The server at that address; nothing is sent yet. Raises UsageError for no address."""
    transport: dict[str, Any] = {"verify": _trust(ca_file)} if ca_file else {}
    headers = {"api-key": api_key} if api_key else None  # the client warns of it over http
    try:
        client = QdrantClient(
            url=url,
            headers=headers,
            timeout=max(1, round(timeout_s)),
            check_compatibility=False,
            **transport,
        )
    except (ValueError, TypeError) as cause:
        raise UsageError(
            f"qdrant_url is not an address: {cause}. Write http://host:6333."
        ) from cause
    return Server(client, f"Qdrant at {_without_secrets(url)}")


def in_memory() -> Server:
    return Server(QdrantClient(":memory:"), "Qdrant in memory", local=True)


def _trust(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as cause:  # ssl.SSLError is one
        raise UsageError(f"ca_file {str(ca_file)!r} cannot be used: {cause}.") from cause


def _check_version(server: str, name: str) -> None:
    """Raises StoreError for a server too old for conditional writes; warns of one too new."""
    try:
        found = tuple(int(part) for part in server.split(".")[:2])
    except ValueError:
        log.warning("%s has a version that cannot be read: %r", name, server)
        return
    if found < MIN_SERVER:
        wanted = ".".join(map(str, MIN_SERVER))
        raise StoreError(
            f"{name} is version {server}; Twinspan needs {wanted} or newer. Upgrade it."
        )
    client = version("qdrant-client")
    if not is_compatible(client, server):
        log.warning(
            "%s is version %s, more than one minor release from qdrant-client %s",
            name,
            server,
            client,
        )


def _without_secrets(url: str) -> str:
    """The address without user and password."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
