"""Recommendations and similar items from whichever index is live, one encoder per answer.

A query resolves its alias once, to a physical collection and the encoder that built it, and stays
with both until it has answered; the next query looks again. So a promotion takes effect between two
queries and never within one, and vectors of two encoders never meet.

Serving needs the vector store only; PostgreSQL is read where a `user_key` is given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import sqlalchemy as sa

from encoders.errors import EncoderError
from encoders.types import Encoder
from indexer import database, metrics
from indexer import settings as settings_module
from indexer.errors import CollectionMissing, QueryError, TwinspanError
from indexer.query import asked as query_input
from indexer.query.answering import Pinned
from indexer.query.asked import EventLike, HistoryEntry, Past, Query
from indexer.query.hits import Clock, Hit, Hits
from indexer.query.shadow import Overview, Shadow
from indexer.query.targets import Resolver, Target
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.stores.connect import connect as connect_store
from indexer.towers import Tower

__all__ = ["EventLike", "HistoryEntry", "Hit", "Hits", "Past", "Query", "Retriever"]

DEFAULT_ALIAS = "items"
T = TypeVar("T")


class Retriever:
    """Answers from the index that is live under one alias. Safe for several threads: the store is,
    and the user tower runs in one thread at a time."""

    def __init__(
        self,
        store: VectorStore,
        *,
        alias: str = DEFAULT_ALIAS,
        settings: Settings | None = None,
        engine: sa.Engine | None = None,
        encoder: Tower | None = None,
    ) -> None:
        """Without `encoder`, each index gets the tower that its metadata names, loaded by digest.
        With one, an index that another built is refused with EncoderMismatch. `engine` is for
        `user_key`; without one, the setting database_url is used when it is needed first.
        The caller closes the store and the engine that it gave."""
        self._store = store
        self._settings = settings or settings_module.load()
        self._engine = engine
        self._alias = alias
        self._live = Resolver(store, alias, self._settings, encoder)
        self._lock = threading.Lock()
        self._owned: list[Callable[[], None]] = []
        self._shadow = Shadow(
            store,
            alias,
            self._settings.shadow_share,
            open_other=self._pinned_to,
            engine=lambda: self._engine,
        )

    @classmethod
    def connect(
        cls,
        url: str | Path | None = None,
        *,
        alias: str = DEFAULT_ALIAS,
        settings: Settings | None = None,
        engine: sa.Engine | None = None,
        encoder: Tower | None = None,
    ) -> Self:
        """A retriever over the Qdrant server at `url`; None takes the store that the settings name.
        Its `close` closes the store."""
        known = settings or settings_module.load()
        if url is not None:
            known = known.model_copy(update={"qdrant_url": str(url)})
        store = connect_store(known)
        retriever = cls(store, alias=alias, settings=known, engine=engine, encoder=encoder)
        retriever._owned.append(store.close)
        return retriever

    def recommend(
        self,
        history: Sequence[HistoryEntry] = (),
        *,
        features: Mapping[str, object] | None = None,
        user_key: str | None = None,
        where: object = None,
        k: int = 20,
        exclude_seen: bool = True,
        exact: bool = False,
    ) -> Hits:
        """The `k` items that the user tower puts first for this user.

        `history` is oldest first: item keys, or events with `item_key`, `event`, `value` and
        `occurred_at`. A `user_key` brings the history and the features stored in PostgreSQL;
        `history` then follows on the stored one, and `features` go before the stored ones. `where`
        is a mapping as in docs/filters.md or a `qdrant_client.models.Filter`. `exact` scans all
        items instead of the graph. Raises QueryError or FilterError before any search.
        """
        asked = Query(
            history=history,
            features=features,
            user_key=user_key,
            where=where,
            k=k,
            exclude_seen=exclude_seen,
            exact=exact,
        )
        return self.recommend_many([asked])[0]

    def recommend_many(self, queries: Sequence[Query | Mapping[str, object]]) -> list[Hits]:
        """One answer per query, in order, all from one index: one fetch, one pass of the user
        tower, one batch of searches."""
        asked = query_input.check_many(queries, k_max=self._settings.k_max)
        if not asked:
            return []
        return self._answers(lambda pinned: pinned.recommend(asked))

    def similar(self, key: str, *, where: object = None, k: int = 20, exact: bool = False) -> Hits:
        """The `k` items most like this one, without it. Raises QueryError when the index does not
        hold it."""
        key = query_input.check_key("key", key)
        k = query_input.check_k(k, k_max=self._settings.k_max)
        exact = query_input.check_flag("exact", exact)

        def ask(pinned: Pinned) -> list[Hits]:
            return [pinned.similar(key, where=where, k=k, exact=exact)]

        return self._answers(ask)[0]

    def target(self) -> Target:
        """What the alias names now. Raises CollectionMissing when it names nothing."""
        return self._again_if_dropped(self._live.resolve)

    def load(self) -> None:
        """The tower of the live index is loaded: the first query need not wait for it."""
        self.encoder()

    def encoder(self) -> Encoder:
        """The encoder of the live index, loaded. Its user features are those that count."""
        return self._again_if_dropped(lambda: self._live.tower(self._live.resolve())).encoder

    def shadow(self) -> Overview:
        """What shadow reads of this process say (setting shadow_share)."""
        return self._shadow.overview()

    def _pinned_to(self, collection: str) -> Retriever:
        """Asks that collection with the tower that built it, and casts no shadow itself."""
        settings = self._settings.model_copy(update={"shadow_share": 0.0})
        return Retriever(self._store, alias=collection, settings=settings, engine=self._engine)

    def close(self) -> None:
        """Close what `connect` opened, and the database connections opened for `user_key`."""
        self._shadow.close()
        while self._owned:
            self._owned.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- one alias, one collection, one encoder -------------------------------------------------

    def _again_if_dropped(self, answer: Callable[[], T]) -> T:
        """The answer; asked for once more, from the start, when the collection that it came from
        was dropped meanwhile."""
        try:
            return answer()
        except CollectionMissing:
            self._live.forget()
            return answer()

    def _answers(self, ask: Callable[[Pinned], list[Hits]]) -> list[Hits]:
        answers = self._measured(ask)
        self._shadow.offer(lambda other: other._measured(ask), answers)
        return answers

    def _measured(self, ask: Callable[[Pinned], list[Hits]]) -> list[Hits]:
        try:
            answers = self._again_if_dropped(lambda: ask(self._pin()))
        except (TwinspanError, EncoderError) as cause:
            metrics.query_failed(cause)
            raise
        by_alias = answers[0].collection != self._alias
        seconds = {stage: ms / 1_000 for stage, ms in answers[0].timings.items()}
        metrics.answered(alias=self._alias if by_alias else "(collection)", seconds=seconds)
        return answers

    def _pin(self) -> Pinned:
        """What the alias names now, with its tower."""
        clock = Clock()
        target = self._live.resolve()
        tower = self._live.tower(target)
        clock.lap("resolve")
        return Pinned(
            store=self._store, target=target, tower=tower, clock=clock, database=self._database
        )

    def _database(self) -> sa.Engine:
        with self._lock:
            if self._engine is None:
                url = self._settings.database_url
                if url is None:
                    raise QueryError(
                        "user_key is looked up in PostgreSQL: set database_url, give the retriever "
                        "an engine, or ask with history and features instead."
                    )
                self._engine = database.engine(url.get_secret_value())
                self._owned.append(self._engine.dispose)
            return self._engine
