"""What a command works with: settings, database, store, towers, each opened when first asked for.

Where a part is embedded and `twinspan up` runs, its PostgreSQL is used and its HTTP API answers for
the vector store, which belongs to that one process. Where it does not run, this process opens the
embedded parts itself for the length of the command.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from indexer import settings as settings_module
from indexer.errors import StoreLocked
from indexer.settings import Settings

if TYPE_CHECKING:
    import sqlalchemy as sa

    from indexer.cli.remote import Server
    from indexer.stores import VectorStore
    from indexer.towers import Towers

__all__ = ["Parts", "opened"]


class Parts:
    """Opened on first use, closed together by `opened`."""

    def __init__(self, settings: Settings, closing: ExitStack, *, check_schema: bool) -> None:
        self.settings = settings
        self._closing = closing
        self._check_schema = check_schema

    @property
    def embedded(self) -> bool:
        """Whether the vector store is the embedded one."""
        return self.settings.qdrant_url is None

    @property
    def encoders_root(self) -> str:
        """Where encoders are kept, in full: workers elsewhere read them at this address."""
        root = self.settings.encoders_root
        return root if "://" in root else str(Path(root).absolute())

    @cached_property
    def server(self) -> Server | None:
        """The running `twinspan up` of this data directory, where it holds the vector store."""
        if not self.embedded:
            return None
        from indexer.cli import remote

        found = remote.find(self.settings)
        if found is not None:
            self._closing.callback(found.close)
        return found

    @cached_property
    def engine(self) -> sa.Engine:
        """PostgreSQL, with a schema of this release; an embedded one is brought up to it."""
        from indexer import database, embedded, schema

        url = self._closing.enter_context(embedded.database_url(self.settings))
        engine = database.engine(url)
        self._closing.callback(engine.dispose)
        if self.settings.database_url is None:
            schema.migrate(engine)
        elif self._check_schema:
            schema.check(engine)
        return engine

    @cached_property
    def store(self) -> VectorStore:
        """The vector store. Raises StoreLocked where another process holds the embedded one."""
        from indexer.stores.connect import connect

        if self.server is not None:
            raise StoreLocked(
                f"the vector store belongs to `twinspan up` at {self.server.address}, which cannot "
                "do this for others: stop it, and start it again afterwards."
            )
        store = connect(self.settings)
        self._closing.callback(store.close)
        return store

    @cached_property
    def towers(self) -> Towers:
        from indexer.towers import Towers

        return Towers(self.settings)


@contextmanager
def opened(*, check_schema: bool = True) -> Generator[Parts]:
    """The parts that the settings name; whatever was opened is closed at the end of the block."""
    with ExitStack() as closing:
        yield Parts(settings_module.load(), closing, check_schema=check_schema)
