"""How one index answers checked queries: what is known of the users, the user tower, the search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import sqlalchemy as sa

from encoders.errors import EncodeFailed
from encoders.types import FloatArray, HistoryItem, SparseVector, UserQuery, UserState
from indexer import filters, interactions, stores
from indexer.errors import QueryError
from indexer.filters import Filter
from indexer.query import asked as query_input
from indexer.query.asked import Asked, Past
from indexer.query.hits import Clock, Hit, Hits
from indexer.query.targets import Target
from indexer.stores import ScoredPoint, Search, StoredPoint, VectorStore
from indexer.towers import Tower


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """One query of a batch, with what the index and the database say of it."""

    asked: Asked
    where: Filter | None
    history: Sequence[Past]  # all of it, oldest first
    features: Mapping[str, object]
    ignored: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """One collection and the tower that built it, for one call. `clock` began before both were
    found; `database` is asked for where a `user_key` is given."""

    store: VectorStore
    target: Target
    tower: Tower
    clock: Clock
    database: Callable[[], sa.Engine]

    def recommend(self, asked: Sequence[Asked]) -> list[Hits]:
        """One answer per query: one fetch, one pass of the user tower, one batch of searches."""
        prepared = [self._prepare(query) for query in asked]
        limit = self.tower.encoder.history.limit
        newest = [query.history[-limit:] for query in prepared]
        stored = self._fetch_history(newest)
        histories = [_known(events, stored) for events in newest]
        self.clock.lap("history")
        states = [
            UserState(features=query.features, history=history)
            for query, history in zip(prepared, histories, strict=True)
        ]
        queries = _encode_users(self.tower, states)
        self.clock.lap("encode")
        searches = [self._search_for(*pair) for pair in zip(prepared, queries, strict=True)]
        found = self.store.search(self.target.collection, searches)
        self.clock.lap("search")
        return [
            self._hits(
                points,
                history=len(history),
                unknown=_missing(events, stored),
                ignored=query.ignored,
            )
            for query, events, history, points in zip(
                prepared, newest, histories, found, strict=True
            )
        ]

    def similar(self, key: str, *, where: object, k: int, exact: bool) -> Hits:
        """The items most like this one. Raises QueryError when the index does not hold it."""
        vector = self.tower.encoder.similar_vector
        condition = filters.parse(where, self.target.fields)
        values = self._vector_of(key, vector)
        self.clock.lap("history")
        self.clock.lap("encode")
        search = Search(
            vector=vector,
            values=values,
            limit=k,
            where=condition,
            exclude=(key,),
            payload=self.target.returned or False,
            exact=exact,
        )
        [points] = self.store.search(self.target.collection, [search])
        self.clock.lap("search")
        return self._hits(points, history=1)

    def _prepare(self, asked: Asked) -> _Prepared:
        known = self.tower.encoder.user_features
        features, ignored = query_input.check_features(asked.features, known)
        where = filters.parse(asked.where, self.target.fields)
        if asked.user_key is None:
            return _Prepared(
                asked=asked, where=where, history=asked.history, features=features, ignored=ignored
            )
        stored, said = self._stored_user(asked.user_key)
        usable = query_input.usable_features(said, known)
        return _Prepared(
            asked=asked,
            where=where,
            history=(*stored, *asked.history),
            features=usable | features,
            ignored=ignored,
        )

    def _stored_user(self, user_key: str) -> tuple[list[Past], dict[str, object]]:
        """The user's events, oldest first, and features; nothing for a user who is not known."""
        engine = self.database()
        if not query_input.storable(user_key):
            return [], {}
        events = interactions.history(
            engine,
            catalog=self.target.collection.catalog,
            user_key=user_key,
            limit=query_input.HISTORY_MAX,
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

    def _fetch_history(self, histories: Sequence[Sequence[Past]]) -> dict[str, StoredPoint]:
        needs = self.tower.encoder.history
        keys = _storable_keys(event for history in histories for event in history)
        if not keys:
            return {}
        return self.store.fetch(
            self.target.collection, keys, vectors=needs.vectors, payload=needs.payload or False
        )

    def _search_for(self, prepared: _Prepared, query: UserQuery) -> Search:
        asked = prepared.asked
        return Search(
            vector=query.vector,
            values=query.values,
            limit=asked.k,
            where=prepared.where,
            exclude=_storable_keys(prepared.history) if asked.exclude_seen else (),
            payload=self.target.returned or False,
            exact=asked.exact,
        )

    def _vector_of(self, key: str, vector: str) -> stores.Vector:
        found = (
            self.store.fetch(self.target.collection, [key], vectors=(vector,), payload=False)
            if query_input.storable(key)
            else {}
        )
        if key not in found:
            held_by = f"index {self.target.index_id} ({self.target.collection.name})"
            raise QueryError(
                f"{held_by} holds no item {key!r}. "
                "Check the key; an item that was added just now may need a moment."
            )
        return found[key].vectors[vector]

    def _hits(
        self,
        points: Sequence[ScoredPoint],
        *,
        history: int,
        unknown: tuple[str, ...] = (),
        ignored: tuple[str, ...] = (),
    ) -> Hits:
        return Hits(
            items=tuple(Hit(point.key, point.score, _returned(point.payload)) for point in points),
            index_id=self.target.index_id,
            collection=self.target.collection.name,
            encoder_id=self.target.encoder_id,
            timings=self.clock.timings,
            history=history,
            unknown=unknown,
            ignored=ignored,
        )


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


def _returned(payload: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in payload.items() if not name.startswith("_")}
