"""What a drain needs: a database engine, a vector store and the towers, one of each per process."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Protocol

import sqlalchemy as sa

from indexer import database, schema
from indexer.errors import SettingsError
from indexer.settings import Settings
from indexer.stores import VectorStore, connect
from indexer.towers import Towers


class Services(Protocol):
    """Safe for several threads of one process."""

    @property
    def engine(self) -> sa.Engine: ...

    @property
    def store(self) -> VectorStore: ...

    @property
    def towers(self) -> Towers: ...


class LazyServices:
    """Each part is opened when it is first asked for, in the process that asks: connections and
    models made before a fork would be shared by accident. A part that cannot be opened is tried
    again by the next who asks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()

    @property
    def engine(self) -> sa.Engine:
        """Raises SchemaMissing, SchemaOutdated or SchemaTooNew before anything is written."""
        with self._lock:
            return self._engine

    @property
    def store(self) -> VectorStore:
        with self._lock:
            return self._store

    @property
    def towers(self) -> Towers:
        with self._lock:
            return self._towers

    def close(self) -> None:
        """What was opened is closed; the next who asks opens it again."""
        with self._lock:
            opened, store = self.__dict__.pop("_engine", None), self.__dict__.pop("_store", None)
            if store is not None:
                store.close()
            if opened is not None:
                opened.dispose()

    @cached_property
    def _engine(self) -> sa.Engine:
        engine = database.engine(database_url(self._settings))
        try:
            schema.check(engine)
        except BaseException:
            engine.dispose()
            raise
        return engine

    @cached_property
    def _store(self) -> VectorStore:
        return connect.connect(self._settings)

    @cached_property
    def _towers(self) -> Towers:
        return Towers(self._settings)


def database_url(settings: Settings) -> str:
    """Raises SettingsError when the database is the embedded one: `twinspan up` owns it."""
    if settings.database_url is None:
        raise SettingsError(
            "database_url is empty, which means the database inside `twinspan up`. "
            "A worker of its own needs TWINSPAN_DATABASE_URL=postgresql://user:password@host/name."
        )
    return settings.database_url.get_secret_value()
