"""Recommendations and similar items from whichever index is live, one encoder per answer.

A query resolves its alias once, to a physical collection and the encoder that built it, and stays
with both until it has answered; the next query looks again. So a promotion takes effect between two
queries and never within one, and vectors of two encoders never meet.

Serving needs the vector store only; PostgreSQL is read where a `user_key` is given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast

import numpy as np
import sqlalchemy as sa

from encoders.errors import EncodeFailed, EncoderError
from encoders.types import Encoder, FloatArray, HistoryItem, SparseVector, UserQuery, UserState
from indexer import database, filters, interactions, metrics, stores
from indexer import settings as settings_module
from indexer.errors import CollectionMissing, QueryError, TwinspanError
from indexer.filters import Filter
from indexer.query import asked as query_input
from indexer.query.asked import Asked, EventLike, HistoryEntry, Past, Query
from indexer.query.hits import Clock, Hit, Hits
from indexer.query.shadow import Overview, Shadow
from indexer.query.targets import Resolver, Target
from indexer.settings import Settings
from indexer.stores import ScoredPoint, Search, StoredPoint, VectorStore
from indexer.stores.connect import connect as connect_store
from indexer.towers import Tower

__all__ = ["EventLike", "HistoryEntry", "Hit", "Hits", "Past", "Query", "Retriever"]

DEFAULT_ALIAS = "items"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """One query of a batch, with what the index and the database say of it."""

    asked: Asked
    where: Filter | None
    history: Sequence[Past]  # all of it, oldest first
    features: Mapping[str, object]
    ignored: tuple[str, ...]


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
        answers = self._measured(lambda: self._recommend(asked))
        self._shadow.offer(lambda other: other._measured(lambda: other._recommend(asked)), answers)
        return answers

    def similar(self, key: str, *, where: object = None, k: int = 20, exact: bool = False) -> Hits:
        """The `k` items most like this one, without it. Raises QueryError when the index does not
        hold it."""
        key = query_input.check_key("key", key)
        k = query_input.check_k(k, k_max=self._settings.k_max)
        exact = query_input.check_flag("exact", exact)

        def ask(retriever: Retriever) -> list[Hits]:
            return [retriever._similar(key, where=where, k=k, exact=exact)]

        answers = self._measured(lambda: ask(self))
        self._shadow.offer(lambda other: other._measured(lambda: ask(other)), answers)
        return answers[0]

    def target(self) -> Target:
        """What the alias names now. Raises CollectionMissing when it names nothing."""
        return self._pinned(self._live.resolve)

    def load(self) -> None:
        """The tower of the live index is loaded: the first query need not wait for it."""
        self.encoder()

    def encoder(self) -> Encoder:
        """The encoder of the live index, loaded. Its user features are those that count."""
        return self._pinned(lambda: self._live.tower(self._live.resolve())).encoder

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

    def _pinned(self, answer: Callable[[], T]) -> T:
        """The answer; asked for once more, from the start, when the collection that it was pinned
        to was dropped meanwhile."""
        try:
            return answer()
        except CollectionMissing:
            self._live.forget()
            return answer()

    def _measured(self, answer: Callable[[], list[Hits]]) -> list[Hits]:
        try:
            answers = self._pinned(answer)
        except (TwinspanError, EncoderError) as cause:
            metrics.query_failed(cause)
            raise
        by_alias = answers[0].collection != self._alias
        seconds = {stage: ms / 1_000 for stage, ms in answers[0].timings.items()}
        metrics.answered(alias=self._alias if by_alias else "(collection)", seconds=seconds)
        return answers

    # -- recommend ------------------------------------------------------------------------------

    def _recommend(self, asked: Sequence[Asked]) -> list[Hits]:
        clock = Clock()
        target = self._live.resolve()
        tower = self._live.tower(target)
        clock.lap("resolve")
        prepared = [self._prepare(query, target, tower) for query in asked]
        needs = tower.encoder.history
        newest = [query.history[-needs.limit :] for query in prepared]
        stored = self._fetch_history(target, tower, newest)
        histories = [_known(events, stored) for events in newest]
        clock.lap("history")
        states = [
            UserState(features=query.features, history=history)
            for query, history in zip(prepared, histories, strict=True)
        ]
        queries = _encode_users(tower, states)
        clock.lap("encode")
        searches = [self._search_for(target, *pair) for pair in zip(prepared, queries, strict=True)]
        found = self._store.search(target.collection, searches)
        clock.lap("search")
        return [
            _hits(
                target,
                points,
                clock.timings,
                history=len(history),
                unknown=_missing(events, stored),
                ignored=query.ignored,
            )
            for query, events, history, points in zip(
                prepared, newest, histories, found, strict=True
            )
        ]

    def _prepare(self, asked: Asked, target: Target, tower: Tower) -> _Prepared:
        known = tower.encoder.user_features
        features, ignored = query_input.check_features(asked.features, known)
        where = filters.parse(asked.where, target.fields)
        if asked.user_key is None:
            return _Prepared(
                asked=asked, where=where, history=asked.history, features=features, ignored=ignored
            )
        stored, said = self._stored_user(asked.user_key, target.collection.catalog)
        usable = query_input.usable_features(said, known)
        return _Prepared(
            asked=asked,
            where=where,
            history=(*stored, *asked.history),
            features=usable | features,
            ignored=ignored,
        )

    def _stored_user(self, user_key: str, catalog: str) -> tuple[list[Past], dict[str, object]]:
        """The user's events, oldest first, and features; nothing for a user who is not known."""
        engine = self._database()
        if not query_input.storable(user_key):
            return [], {}
        events = interactions.history(
            engine, catalog=catalog, user_key=user_key, limit=query_input.HISTORY_MAX
        )
        past = [
            Past(
                item_key=event.item_key,
                event=event.event,
                value=event.value,
                occurred_at=event.occurred_at,
            )
            for event in events
        ]
        return past, interactions.features(engine, user_key)

    def _fetch_history(
        self, target: Target, tower: Tower, histories: Sequence[Sequence[Past]]
    ) -> dict[str, StoredPoint]:
        needs = tower.encoder.history
        keys = _storable_keys(event for history in histories for event in history)
        if not keys:
            return {}
        return self._store.fetch(
            target.collection, keys, vectors=needs.vectors, payload=needs.payload or False
        )

    def _search_for(self, target: Target, prepared: _Prepared, query: UserQuery) -> Search:
        asked = prepared.asked
        return Search(
            vector=query.vector,
            values=query.values,
            limit=asked.k,
            where=prepared.where,
            exclude=_storable_keys(prepared.history) if asked.exclude_seen else (),
            payload=target.returned or False,
            exact=asked.exact,
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

    # -- similar --------------------------------------------------------------------------------

    def _similar(self, key: str, *, where: object, k: int, exact: bool) -> Hits:
        clock = Clock()
        target = self._live.resolve()
        vector = self._live.tower(target).encoder.similar_vector
        condition = filters.parse(where, target.fields)
        clock.lap("resolve")
        values = self._vector_of(target, key, vector)
        clock.lap("history")
        clock.lap("encode")
        search = Search(
            vector=vector,
            values=values,
            limit=k,
            where=condition,
            exclude=(key,),
            payload=target.returned or False,
            exact=exact,
        )
        [points] = self._store.search(target.collection, [search])
        clock.lap("search")
        return _hits(target, points, clock.timings, history=1)

    def _vector_of(self, target: Target, key: str, vector: str) -> stores.Vector:
        found = (
            self._store.fetch(target.collection, [key], vectors=(vector,), payload=False)
            if query_input.storable(key)
            else {}
        )
        if key not in found:
            raise QueryError(
                f"index {target.index_id} ({target.collection.name}) holds no item {key!r}. "
                "Check the key; an item that was added just now may need a moment."
            )
        return found[key].vectors[vector]


def _storable_keys(events: Iterable[Past]) -> list[str]:
    """Each key once, in order, without those that no item can have."""
    keys = dict.fromkeys(event.item_key for event in events)
    return [key for key in keys if query_input.storable(key)]


def _known(events: Sequence[Past], stored: Mapping[str, StoredPoint]) -> list[HistoryItem]:
    """The events whose item the index holds, as the user tower takes them."""
    return [
        HistoryItem(
            key=event.item_key,
            # history vectors are dense: HistoryNeeds names no sparse one
            vectors=cast("Mapping[str, FloatArray]", stored[event.item_key].vectors),
            payload=stored[event.item_key].payload,
            event=event.event,
            value=event.value,
            occurred_at=event.occurred_at,
        )
        for event in events
        if event.item_key in stored
    ]


def _missing(events: Sequence[Past], stored: Mapping[str, StoredPoint]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(event.item_key for event in events if event.item_key not in stored))


def _encode_users(tower: Tower, states: Sequence[UserState]) -> list[UserQuery]:
    """One finite query per state. Raises EncodeFailed when the tower gives anything else."""
    with tower.lock:
        queries = tower.encoder.encode_users(states)
    if len(queries) != len(states):
        raise EncodeFailed(
            f"encoder {tower.id} gave {len(queries)} queries for {len(states)} users."
        )
    for query in queries:
        values = query.values.values if isinstance(query.values, SparseVector) else query.values
        if not np.isfinite(values).all():
            raise EncodeFailed(
                f"encoder {tower.id} gave a user vector that is not finite. Check the features."
            )
    return queries


def _hits(
    target: Target,
    points: Sequence[ScoredPoint],
    timings: Mapping[str, float],
    *,
    history: int,
    unknown: tuple[str, ...] = (),
    ignored: tuple[str, ...] = (),
) -> Hits:
    return Hits(
        items=tuple(Hit(point.key, point.score, _returned(point.payload)) for point in points),
        index_id=target.index_id,
        collection=target.collection.name,
        encoder_id=target.encoder_id,
        timings=timings,
        history=history,
        unknown=unknown,
        ignored=ignored,
    )


def _returned(payload: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in payload.items() if not name.startswith("_")}
