"""Events and user features: stored in order, read back in order, merged without doubling."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from indexer import database, interactions
from indexer.errors import UsageError
from indexer.interactions import Interaction, User

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def event(user: str, item: str, minutes: int, **more: object) -> Interaction:
    return Interaction(user, item, NOON + timedelta(minutes=minutes), **more)  # pyright: ignore


def merge(engine: sa.Engine, *rows: Interaction, catalog: str = "items") -> interactions.Merged:
    with database.begin(engine) as connection:
        interactions.stage_interactions(connection, rows)
        return interactions.merge_interactions(connection, catalog=catalog)


def test_a_history_is_the_newest_events_oldest_first(engine: sa.Engine) -> None:
    interactions.add(engine, [event("u", f"i{minute}", minute) for minute in (3, 1, 4, 2)])
    history = interactions.history(engine, catalog="items", user_key="u", limit=3)
    assert [one.item_key for one in history] == ["i2", "i3", "i4"]
    assert history[0].occurred_at == NOON + timedelta(minutes=2)


def test_events_of_one_moment_keep_the_order_in_which_they_were_stored(engine: sa.Engine) -> None:
    interactions.add(engine, [event("u", f"i{number}", 0) for number in range(20)])
    history = interactions.history(engine, catalog="items", user_key="u", limit=5)
    assert [one.item_key for one in history] == [f"i{number}" for number in range(15, 20)]


def test_a_history_is_of_one_catalog_and_one_user(engine: sa.Engine) -> None:
    interactions.add(engine, [event("u", "film", 0), event("w", "other", 0)])
    interactions.add(engine, [event("u", "book", 1)], catalog="books")
    history = interactions.history(engine, catalog="items", user_key="u", limit=10)
    assert [one.item_key for one in history] == ["film"]
    assert interactions.history(engine, catalog="items", user_key="nobody", limit=10) == []


def test_event_and_value_come_back_as_they_were(engine: sa.Engine) -> None:
    interactions.add(engine, [event("u", "a", 0, event="rating", value=4.5), event("u", "b", 1)])
    first, second = interactions.history(engine, catalog="items", user_key="u", limit=10)
    assert (first.event, first.value) == ("rating", 4.5)
    assert (second.event, second.value) == (None, None)


def test_times_keep_their_microseconds(engine: sa.Engine) -> None:
    exact = datetime(2001, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)
    interactions.add(engine, [Interaction("u", "a", exact)])
    assert (
        interactions.history(engine, catalog="items", user_key="u", limit=1)[0].occurred_at == exact
    )


def test_a_time_without_zone_is_refused_and_nothing_is_stored(engine: sa.Engine) -> None:
    rows = [event("u", "a", 0), Interaction("u", "b", datetime(2026, 1, 1))]
    with pytest.raises(UsageError, match=r"'b'.*time zone"):
        interactions.add(engine, rows)
    assert interactions.counts(engine).interactions == 0


@pytest.mark.parametrize("bad", ["nul\x00", "half \ud800"])
def test_text_that_postgresql_cannot_hold_is_refused_and_nothing_is_stored(
    engine: sa.Engine, bad: str
) -> None:
    with pytest.raises(UsageError, match="cannot be stored"):
        interactions.add(engine, [event("u", "a", 0), event("u", bad, 1)])
    assert interactions.counts(engine).interactions == 0


def test_a_merge_adds_each_event_once(engine: sa.Engine) -> None:
    rows = [event("u", "a", 0, event="view"), event("u", "a", 1), event("u", "a", 0, event="view")]
    first, second = merge(engine, *rows), merge(engine, *rows)
    assert (first.read, first.added, first.repeated) == (3, 2, 1)
    assert (second.added, second.changed, second.unchanged, second.repeated) == (0, 0, 2, 1)
    assert interactions.counts(engine).interactions == 2


def test_a_merge_changes_a_value_in_place(engine: sa.Engine) -> None:
    merge(engine, event("u", "a", 0, value=3.0), event("u", "b", 1, value=3.0))
    merged = merge(engine, event("u", "a", 0, value=5.0), event("u", "b", 1, value=3.0))
    assert (merged.added, merged.changed, merged.unchanged) == (0, 1, 1)
    history = interactions.history(engine, catalog="items", user_key="u", limit=10)
    assert [(one.item_key, one.value) for one in history] == [("a", 5.0), ("b", 3.0)]


def test_a_merge_keeps_catalogs_apart(engine: sa.Engine) -> None:
    merge(engine, event("u", "a", 0))
    assert merge(engine, event("u", "a", 0), catalog="books").added == 1


def test_features_are_set_kept_and_taken_away(engine: sa.Engine) -> None:
    interactions.set_features(engine, [User("u", {"age": 30, "city": "Ghent", "langs": ["nl"]})])
    merged = interactions.set_features(engine, [User("u", {"age": 31, "city": None})])
    assert merged.changed == 1
    assert interactions.features(engine, "u") == {"age": 31, "langs": ["nl"]}
    assert interactions.features(engine, "nobody") == {}


def test_setting_the_same_features_touches_nothing(engine: sa.Engine) -> None:
    user = User("u", {"age": 30, "none": None})
    interactions.set_features(engine, [user])
    assert interactions.set_features(engine, [user]).unchanged == 1


def test_counts_are_of_events_users_and_items(engine: sa.Engine) -> None:
    interactions.add(engine, [event("u", "a", 0), event("u", "b", 1), event("w", "a", 2)])
    interactions.add(engine, [event("x", "c", 0)], catalog="books")
    of_items = interactions.counts(engine, catalog="items")
    assert (of_items.interactions, of_items.users, of_items.items) == (3, 2, 2)
    assert interactions.counts(engine).interactions == 4


def test_a_history_is_read_through_its_index(engine: sa.Engine) -> None:
    rows = [event(f"u{number % 500}", f"i{number % 97}", number) for number in range(20_000)]
    interactions.add(engine, rows)
    with database.begin(engine) as connection:
        connection.execute(sa.text("ANALYZE indexer.interactions"))
        plan = connection.execute(
            sa.text(
                "EXPLAIN SELECT item_key FROM indexer.interactions WHERE catalog = 'items' "
                "AND user_key = 'u7' ORDER BY occurred_at DESC, id DESC LIMIT 50"
            )
        )
        lines = "\n".join(line for (line,) in plan)
    assert "interactions_history" in lines
    assert "Sort" not in lines
