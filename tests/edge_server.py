"""Qdrant Edge in a process of its own that others share over a local socket.

Edge belongs to one process. Here several need one store with a real engine behind it, and no server
can be installed: this process holds the folder, and `SharedEdge` passes every verb on to it.

    python tests/edge_server.py FOLDER      (prints its port; ends with its stdin)
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

from indexer.stores import StoredPoint
from indexer.stores.edge import EdgeStore

KEY = b"twinspan-tests"  # on loopback, for as long as a test runs


class Served:
    """What the server's threads call. Answers go over a socket, so of a scroll only one batch."""

    def __init__(self, folder: Path) -> None:
        self._store = EdgeStore(folder)

    def call(self, verb: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        answer = getattr(self._store, verb)(*arguments, **named)
        return next(answer, None) if verb == "scroll" else answer

    def get_name(self) -> str:
        return self._store.name


class Manager(BaseManager):
    """`store` is the one store of the server."""


Manager.register("store")


class SharedEdge:
    """A VectorStore: each thread has a connection of its own."""

    def __init__(self, port: int) -> None:
        manager = Manager(("127.0.0.1", port), KEY)
        manager.connect()
        self._remote: Any = manager.store()  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def name(self) -> str:
        return self._remote.get_name()

    def close(self) -> None:
        """The store goes on for the others."""

    def scroll(
        self, *arguments: Any, after: str | None = None, **named: Any
    ) -> Iterator[list[StoredPoint]]:
        while found := self._remote.call("scroll", arguments, {**named, "after": after}):
            yield found
            after = found[-1].key

    def __getattr__(self, verb: str) -> Any:
        if verb.startswith("_"):
            raise AttributeError(verb)
        return lambda *arguments, **named: self._remote.call(verb, arguments, named)


def main() -> None:
    served = Served(Path(sys.argv[1]))
    Manager.register("store", callable=lambda: served, exposed=("call", "get_name"))
    server = Manager(("127.0.0.1", 0), KEY).get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
