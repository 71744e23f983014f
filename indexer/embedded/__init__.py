"""The embedded mode: every part that has no address runs inside, or as a child of, this process.

What is opened here is what the worker, the retriever and the HTTP side share. One process of a
`data_dir` may run it all (`indexer.up`); the others find that one with `find_server`.

    data_dir/postgres/    the embedded PostgreSQL, see `postgres`
    data_dir/edge/        Qdrant Edge, for one process at a time
    data_dir/up.json      where the running `twinspan up` answers, and the token that it asks for
    data_dir/up.lock      held by it
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from indexer import database, schema
from indexer.embedded import pgdata, postgres
from indexer.embedded.watchdog import Lock
from indexer.errors import EmbeddedError
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.stores.connect import connect
from indexer.towers import Towers

log = logging.getLogger(__name__)

POSTGRES_FOLDER = "postgres"
UP_FILE = "up.json"
UP_LOCK = "up.lock"
GUESTS_LOCK = "guests.lock"  # in the folder of PostgreSQL: shared by those who joined

JOIN_S = (
    30.0  # until a PostgreSQL that another process is starting or stopping has made up its mind
)
ANSWER_S = 5.0
COMFORTABLE_ITEMS = 100_000


@dataclass(frozen=True, kw_only=True)
class Services:
    """A database engine, a vector store and the towers, one of each, safe for several threads."""

    settings: Settings
    engine: sa.Engine
    store: VectorStore
    towers: Towers


@dataclass(frozen=True, kw_only=True)
class UpServer:
    """Where a running `twinspan up` answers. `token` is for requests that change something."""

    host: str
    port: int
    pid: int
    token: str
    instance: str

    @property
    def base_url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@contextmanager
def opened(settings: Settings) -> Generator[Services]:
    """All three parts are open, and the database has the schema of this release: an embedded one
    is brought up to it, yours is only checked. Closed in reverse order."""
    with ExitStack() as closing:
        url = closing.enter_context(owned_database_url(settings))
        engine = closing.enter_context(database.opened(url))
        if settings.database_url is None:
            schema.migrate(engine)
        else:
            schema.check(engine)
        store = connect(settings)
        closing.callback(store.close)
        yield Services(settings=settings, engine=engine, store=store, towers=Towers(settings))


@contextmanager
def owned_database_url(settings: Settings) -> Generator[str]:
    """The database that the settings name, or an embedded one that this process runs. Raises
    EmbeddedError while another process runs it: it would end with that process."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    with postgres.start(settings.data_dir / POSTGRES_FOLDER) as server:
        yield server.url


@contextmanager
def database_url(settings: Settings) -> Generator[str]:
    """For a short command: as above, but an embedded database that runs already is joined."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    folder = settings.data_dir / POSTGRES_FOLDER
    with ExitStack() as closing:
        yield _join(folder, closing) or _start_or_join(folder, closing)


def find_server(data_dir: Path) -> UpServer | None:
    """The `twinspan up` that runs on this directory, when it really answers."""
    try:
        said: dict[str, Any] = json.loads((data_dir / UP_FILE).read_text())
        server = UpServer(**said)
    except (OSError, ValueError, TypeError):  # none, unreadable to us, or of another release
        return None
    return server if _instance_at(server) == server.instance else None


def announce(data_dir: Path, server: UpServer) -> None:
    """Other processes of our user find the server from now on."""
    unfinished = data_dir / f"{UP_FILE}.new"
    pgdata.write_private(unfinished, json.dumps(asdict(server)))
    unfinished.replace(data_dir / UP_FILE)


def withdraw(data_dir: Path) -> None:
    (data_dir / UP_FILE).unlink(missing_ok=True)


def said_at_start(settings: Settings) -> list[str]:
    """Which parts are embedded, how far that carries, and what to set to move on."""
    variables = {
        "database": "TWINSPAN_DATABASE_URL=postgresql://...",
        "store": "TWINSPAN_QDRANT_URL=http://...",
        "broker": "TWINSPAN_BROKER_URL=redis://... or amqp://...",
    }
    inside = settings.embedded_parts
    if not inside:
        return ["nothing is embedded: database, store and broker are servers"]
    return [
        f"embedded: {', '.join(inside)}, in {settings.data_dir.absolute()}",
        f"comfortable up to about {COMFORTABLE_ITEMS:,} items and one machine; beyond, set "
        + ", ".join(variables[part] for part in inside),
    ]


def _join(folder: Path, closing: ExitStack) -> str | None:
    """The address of a database that runs already. A short command that runs it stays until we
    have left; `twinspan up` does not."""
    if postgres.find(folder) is None:
        return None
    guests = Lock(folder / GUESTS_LOCK)
    guests.share(patience_s=JOIN_S)
    url = postgres.find(folder)  # it may have stopped before we were a guest
    if url is None:
        guests.release()
    else:
        closing.callback(guests.release)
    return url


def _start_or_join(folder: Path, closing: ExitStack) -> str:
    """Ours, or that of a process that was faster."""
    deadline = time.monotonic() + JOIN_S
    while True:
        try:
            url = closing.enter_context(postgres.start(folder)).url
        except EmbeddedError:
            if postgres.holder(folder) is None or time.monotonic() > deadline:
                raise
        else:
            closing.callback(_see_guests_off, Lock(folder / GUESTS_LOCK))
            return url
        joined = _join(folder, closing)
        if joined is not None:
            return joined
        time.sleep(0.1)


def _see_guests_off(guests: Lock) -> None:
    """Other commands that use our database have ended; Ctrl-C waits for them no longer."""
    if not guests.take():
        log.warning("other commands still use this database: waiting for them (Ctrl-C: not)")
        guests.take(patience_s=math.inf)
    guests.release()


def _instance_at(server: UpServer) -> str | None:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/health/live")
        body: object = json.loads(connection.getresponse().read(10_000))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return str(body.get("instance")) if isinstance(body, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
