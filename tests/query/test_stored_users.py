"""Users whose history lies in PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from indexer import Retriever, interactions
from query.world import World, genres_of


@pytest.fixture
def stored(movies: World, engine: sa.Engine) -> Retriever:
    """User "7" watched three westerns long ago and one item that is gone."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        interactions.Interaction("7", key, at + timedelta(minutes=number), "view")
        for number, key in enumerate(["m3", "m7", "gone", "m11"])
    ]
    interactions.add(engine, rows, catalog="films")
    interactions.set_features(engine, [interactions.User("7", {"age": "old", "country": "NZ"})])
    return Retriever(movies.store, alias="movies", settings=movies.settings, engine=engine)


def test_a_known_user_is_answered_by_their_stored_history(stored: Retriever) -> None:
    hits = stored.recommend(user_key="7", k=8)
    assert genres_of(hits) == ["Western"] * 8
    assert (hits.history, hits.unknown) == (3, ("gone",))
    assert hits.keys == stored.recommend(["m3", "m7", "m11"], k=8).keys
    assert hits.keys == stored.recommend(user_key=7, k=8).keys  # type: ignore[arg-type]


def test_a_session_follows_on_the_stored_history(stored: Retriever) -> None:
    together = stored.recommend(["m0"], user_key="7", k=60)
    assert together.history == 4
    assert together.keys == stored.recommend(["m3", "m7", "m11", "m0"], k=60).keys
    assert "m0" not in together.keys


def test_an_unknown_user_is_a_new_user(stored: Retriever) -> None:
    for user_key in ("nobody", "\ud800", "a\0b"):
        hits = stored.recommend(user_key=user_key, k=5)
        assert (len(hits), hits.history) == (5, 0)
