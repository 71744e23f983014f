"""Real users, as the query side meets them: a history, features, and what they did next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from encoders.types import Encoder
from indexer import interactions
from indexer.gate.subject import Subject
from indexer.indexes import Index
from indexer.interactions import Event
from indexer.offline import DEPTH
from indexer.query import Query, Retriever
from indexer.query.asked import usable_features

USERS_AT_ONCE = 64
EVENTS_MAX = 1_000  # of one history; older ones are left out
EVENTS_LEAST = 3  # of a user, as encoders.dataset.leave_one_out has it


@dataclass(frozen=True, kw_only=True)
class Person:
    """A user before the last event, whose item is `target`."""

    user_key: str
    features: dict[str, object]
    history: tuple[Event, ...]
    target: str
    tied: bool  # the event before the last shares its moment

    @property
    def seen(self) -> set[str]:
        return {event.item_key for event in self.history}

    def query(self, encoder: Encoder, *, where: object = None, exact: bool = False) -> Query:
        """What this user would ask. Seen items are left out, unless the target is one of them."""
        return Query(
            history=self.history,
            features=usable_features(self.features, encoder.user_features),
            where=where,
            k=DEPTH,
            exclude_seen=self.target not in self.seen,
            exact=exact,
        )


def held_out(subject: Subject, *, limit: int) -> Iterator[list[Person]]:
    """At most `limit` users with enough events, drawn by the seed, in batches."""
    catalog = subject.catalog.name
    keys = interactions.sample_users(
        subject.engine, catalog=catalog, limit=limit, seed=subject.seed, at_least=EVENTS_LEAST
    )
    for start in range(0, len(keys), USERS_AT_ONCE):
        some = keys[start : start + USERS_AT_ONCE]
        histories = interactions.histories(
            subject.engine, catalog=catalog, user_keys=some, limit=EVENTS_MAX
        )
        features = interactions.features_of(subject.engine, some)
        yield [
            Person(
                user_key=key,
                features=features.get(key, {}),
                history=tuple(events[:-1]),
                target=events[-1].item_key,
                tied=events[-1].occurred_at == events[-2].occurred_at,
            )
            for key, events in histories.items()
        ]


def retriever(subject: Subject, index: Index) -> Retriever:
    """Asks that index, whatever its alias names, with the tower that the subject's process has."""
    settings = subject.settings
    return Retriever(
        subject.store,
        alias=index.collection,
        settings=settings.model_copy(
            update={"k_max": max(DEPTH, settings.k_max), "shadow_share": 0.0}
        ),
        encoder=subject.towers.get(index.encoder_id, index.encoder_uri),
    )
