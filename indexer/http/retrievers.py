"""One retriever per alias, made when the alias is first asked for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from encoders.errors import EncoderError
from indexer.embedded import Services
from indexer.errors import TwinspanError
from indexer.query import Retriever

log = logging.getLogger(__name__)


class Retrievers:
    """Safe for several threads. They share the store and the engine, and leave both open."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: dict[str, Retriever] = {}
        self._lock = threading.Lock()

    def get(self, alias: str) -> Retriever:
        """Raises CollectionMissing for an alias that names nothing, and does not remember it."""
        with self._lock:
            known = self._known.get(alias)
        if known is not None:
            return known
        made = Retriever(
            self._services.store,
            alias=alias,
            settings=self._services.settings,
            engine=self._services.engine,
        )
        made.target()
        with self._lock:
            return self._known.setdefault(alias, made)

    def warm_up(self, aliases: Iterable[str]) -> None:
        """Their towers are loaded in the background, so that the first who asks need not wait."""
        wanted = sorted(aliases)
        if wanted:
            threading.Thread(
                target=self._warm_up, args=(wanted,), name="twinspan-warm-up", daemon=True
            ).start()

    def close(self) -> None:
        with self._lock:
            for retriever in self._known.values():
                retriever.close()
            self._known.clear()

    def _warm_up(self, aliases: list[str]) -> None:
        for alias in aliases:
            try:
                self.get(alias).recommend(k=1)
            except (TwinspanError, EncoderError) as cause:
                log.warning("alias %s cannot answer yet: %s", alias, cause)
