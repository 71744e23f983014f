"""What users did and what is known about them: the tables `interactions` and `users`.

An interaction is one event of one user with one item of one catalog. It names its item by key and
may name one that the catalog does not hold (any more): readers leave such events out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from indexer import bulk, database, tables
from indexer.errors import UsageError

DEFAULT_CATALOG = "items"


class Interaction(NamedTuple):
    """One event, to be stored. `occurred_at` knows its time zone; `value` is the rating, the
    amount, the seconds watched, where the event has one."""

    user_key: str
    item_key: str
    occurred_at: datetime
    event: str | None = None
    value: float | None = None


class User(NamedTuple):
    """A user's features by name; None takes a feature away."""

    user_key: str
    features: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event of a history."""

    item_key: str
    event: str | None
    value: float | None
    occurred_at: datetime


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much is stored: of one catalog, or of all."""

    interactions: int
    users: int  # who have at least one interaction
    items: int  # that have at least one interaction


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge did with the rows it was given. `repeated` rows named what a later row of the
    same merge named again; the later one counts."""

    read: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    repeated: int = 0


def add(engine: sa.Engine, rows: Iterable[Interaction], *, catalog: str = DEFAULT_CATALOG) -> int:
    """All rows are stored, in order, in one transaction; returns how many. Appends: the same event
    given twice is stored twice (an import merges instead). Raises UsageError for a time without
    time zone and for text that PostgreSQL cannot hold; then nothing is stored."""
    added = 0

    def records() -> Iterable[tuple[object, ...]]:
        nonlocal added
        for row in rows:
            if row.occurred_at.tzinfo is None:
                raise UsageError(
                    f"user {row.user_key!r}, item {row.item_key!r}: occurred_at has no time zone. "
                    "Give it one: PostgreSQL would take the server's."
                )
            added += 1
            yield (catalog, *row)

    columns = ("catalog", "user_key", "item_key", "occurred_at", "event", "value")
    with database.begin(engine) as connection:
        bulk.copy_rows(connection, (database.SCHEMA, "interactions"), columns, records())
    return added


def history(engine: sa.Engine, *, catalog: str, user_key: str, limit: int) -> list[Event]:
    """The user's newest `limit` events of that catalog, oldest first; events of the same moment in
    the order in which they were stored. [] for a user who is not known."""
    table = tables.interactions
    newest = (
        sa.select(table.c.item_key, table.c.event, table.c.value, table.c.occurred_at)
        .where(table.c.catalog == catalog, table.c.user_key == user_key)
        .order_by(table.c.occurred_at.desc(), table.c.id.desc())
        .limit(limit)
    )
    with database.begin(engine) as connection:
        rows = connection.execute(newest).all()
    return [
        Event(item_key=key, event=event, value=value, occurred_at=occurred_at)
        for key, event, value, occurred_at in reversed(rows)
    ]


def set_features(engine: sa.Engine, users: Iterable[User]) -> Merged:
    """Each user has the features given; those not named are left alone, None takes one away."""
    with database.begin(engine) as connection:
        stage_users(connection, users)
        return merge_users(connection)


def features(engine: sa.Engine, user_key: str) -> dict[str, object]:
    """What is known about the user; {} when nothing is."""
    statement = sa.select(tables.users.c.features).where(tables.users.c.user_key == user_key)
    with database.begin(engine) as connection:
        found: object = connection.execute(statement).scalar_one_or_none()
    return dict(cast("Mapping[str, object]", found)) if found else {}


def sample_users(
    engine: sa.Engine, *, catalog: str, limit: int, seed: int, at_least: int
) -> list[str]:
    """`limit` users with at least so many events, drawn by the seed, in the order of their keys."""
    parameters = {"catalog": catalog, "limit": limit, "seed": seed, "at_least": at_least}
    with database.begin(engine) as connection:
        return sorted(connection.scalars(sa.text(SAMPLE_USERS), parameters))


def histories(
    engine: sa.Engine, *, catalog: str, user_keys: Sequence[str], limit: int
) -> dict[str, list[Event]]:
    """As `history`, for several users in one query; users without events are absent."""
    parameters = {"catalog": catalog, "user_keys": list(user_keys), "limit": limit}
    found: dict[str, list[Event]] = {}
    with database.begin(engine) as connection:
        for user_key, *event in connection.execute(sa.text(HISTORIES), parameters):
            key, kind, value, occurred_at = event
            found.setdefault(user_key, []).append(
                Event(item_key=key, event=kind, value=value, occurred_at=occurred_at)
            )
    return {user_key: events[::-1] for user_key, events in found.items()}


def features_of(engine: sa.Engine, user_keys: Sequence[str]) -> dict[str, dict[str, object]]:
    """What is known about each of these users; those of whom nothing is are absent."""
    columns = tables.users.c
    statement = sa.select(columns.user_key, columns.features).where(
        columns.user_key == sa.any_(sa.cast(list(user_keys), ARRAY(sa.Text)))
    )
    with database.begin(engine) as connection:
        rows = connection.execute(statement).all()
    return {key: dict(cast("Mapping[str, object]", said)) for key, said in rows}


def most_frequent(engine: sa.Engine, *, catalog: str, limit: int) -> list[str]:
    """The items with the most events, most first."""
    with database.begin(engine) as connection:
        parameters = {"catalog": catalog, "limit": limit}
        return list(connection.scalars(sa.text(MOST_FREQUENT), parameters))


def counts(engine: sa.Engine, *, catalog: str | None = None) -> Counts:
    """How many interactions there are, of how many users, with how many items."""
    table = tables.interactions
    statement = sa.select(
        sa.func.count(),
        sa.func.count(table.c.user_key.distinct()),
        sa.func.count(table.c.item_key.distinct()),
    ).select_from(table)
    if catalog is not None:
        statement = statement.where(table.c.catalog == catalog)
    with database.begin(engine) as connection:
        interactions, users, items = connection.execute(statement).one()
    return Counts(interactions=interactions, users=users, items=items)


# -- reading many ----------------------------------------------------------------------------------

SAMPLE_USERS = """
    SELECT user_key FROM indexer.interactions WHERE catalog = :catalog
    GROUP BY user_key HAVING count(*) >= :at_least
    ORDER BY hashtextextended(user_key, :seed), user_key LIMIT :limit
"""

# Newest first, as the index has them.
HISTORIES = """
    SELECT who.user_key, past.item_key, past.event, past.value, past.occurred_at
    FROM unnest(CAST(:user_keys AS text[])) AS who (user_key) CROSS JOIN LATERAL (
        SELECT id, item_key, event, value, occurred_at FROM indexer.interactions
        WHERE catalog = :catalog AND user_key = who.user_key
        ORDER BY occurred_at DESC, id DESC LIMIT :limit
    ) AS past
    ORDER BY who.user_key, past.occurred_at DESC, past.id DESC
"""

MOST_FREQUENT = """
    SELECT item_key FROM indexer.interactions WHERE catalog = :catalog
    GROUP BY item_key ORDER BY count(*) DESC, item_key LIMIT :limit
"""

# -- merging: stage (COPY into a temporary table), then one set-based statement -------------------

STAGE_INTERACTIONS = """
    CREATE TEMPORARY TABLE staged_interactions (
        ordinal bigint GENERATED ALWAYS AS IDENTITY, user_key text COLLATE "C",
        item_key text COLLATE "C", occurred_at timestamptz, event text COLLATE "C", value float8
    ) ON COMMIT DROP
"""

# An event is the same when user, item, kind and moment are; only its value can change.
MERGE_INTERACTIONS = """
    WITH wanted AS MATERIALIZED (
        SELECT DISTINCT ON (user_key, item_key, occurred_at, coalesce(event, '')) *
        FROM staged_interactions
        ORDER BY user_key, item_key, occurred_at, coalesce(event, ''), ordinal DESC
    ), known AS MATERIALIZED (
        SELECT wanted.ordinal, stored.id, stored.value IS DISTINCT FROM wanted.value AS differs,
               wanted.value
        FROM wanted JOIN indexer.interactions AS stored
          ON stored.user_key = wanted.user_key AND stored.item_key = wanted.item_key
         AND stored.occurred_at = wanted.occurred_at
         AND coalesce(stored.event, '') = coalesce(wanted.event, '')
        WHERE stored.catalog = :catalog
    ), changed AS (
        UPDATE indexer.interactions AS stored SET value = known.value
        FROM known WHERE stored.id = known.id AND known.differs
        RETURNING known.ordinal
    ), added AS (
        INSERT INTO indexer.interactions (catalog, user_key, item_key, occurred_at, event, value)
        SELECT :catalog, user_key, item_key, occurred_at, event, value FROM wanted
        WHERE NOT EXISTS (SELECT FROM known WHERE known.ordinal = wanted.ordinal)
        ORDER BY ordinal
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM staged_interactions), (SELECT count(*) FROM wanted),
           (SELECT count(*) FROM added), (SELECT count(DISTINCT ordinal) FROM changed)
"""

STAGE_USERS = """
    CREATE TEMPORARY TABLE staged_users (
        ordinal bigint GENERATED ALWAYS AS IDENTITY, user_key text COLLATE "C",
        features jsonb, cleared text[]
    ) ON COMMIT DROP
"""

MERGE_USERS = """
    WITH wanted AS MATERIALIZED (
        SELECT DISTINCT ON (user_key) * FROM staged_users ORDER BY user_key, ordinal DESC
    ), merged AS (
        SELECT wanted.user_key, stored.features AS before,
               (CASE WHEN jsonb_typeof(stored.features) = 'object' THEN stored.features
                     ELSE '{}' END - wanted.cleared) || wanted.features AS features
        FROM wanted LEFT JOIN indexer.users AS stored ON stored.user_key = wanted.user_key
    ), written AS (
        INSERT INTO indexer.users (user_key, features)
        SELECT user_key, features FROM merged WHERE features IS DISTINCT FROM before
        ORDER BY user_key
        ON CONFLICT (user_key) DO UPDATE SET features = excluded.features, updated_at = now()
        RETURNING (xmax = 0) AS added
    )
    SELECT (SELECT count(*) FROM staged_users), (SELECT count(*) FROM wanted),
           (SELECT count(*) FROM written WHERE added),
           (SELECT count(*) FROM written WHERE NOT added)
"""


def stage_interactions(connection: sa.Connection, rows: Iterable[Interaction]) -> None:
    """The rows lie in a temporary table of this transaction."""
    connection.execute(sa.text(STAGE_INTERACTIONS))
    bulk.copy_rows(connection, ("staged_interactions",), Interaction._fields, rows)
    connection.execute(sa.text("ANALYZE staged_interactions"))


def merge_interactions(connection: sa.Connection, *, catalog: str) -> Merged:
    """The staged events are stored once each; those that were there already are left alone."""
    row = connection.execute(sa.text(MERGE_INTERACTIONS), {"catalog": catalog}).one()
    return merged(*row)


def stage_users(connection: sa.Connection, users: Iterable[User]) -> None:
    """The users lie in a temporary table of this transaction."""
    connection.execute(sa.text(STAGE_USERS))
    rows = ((user.user_key, *split_nulls(user.features)) for user in users)
    bulk.copy_rows(connection, ("staged_users",), ("user_key", "features", "cleared"), rows)
    connection.execute(sa.text("ANALYZE staged_users"))


def merge_users(connection: sa.Connection) -> Merged:
    """The staged users have the features that were given; only rows that differ are touched."""
    return merged(*connection.execute(sa.text(MERGE_USERS)).one())


def merged(read: int, distinct: int, added: int, changed: int) -> Merged:
    """The counts of one merge, from what its statement returns."""
    return Merged(
        read=read,
        added=added,
        changed=changed,
        unchanged=distinct - added - changed,
        repeated=read - distinct,
    )


def split_nulls(values: Mapping[str, object]) -> tuple[str, list[str]]:
    """The values that are there as JSON text, and the names of those to be taken away."""
    kept = {name: value for name, value in values.items() if value is not None}
    cleared = [name for name, value in values.items() if value is None]
    return json.dumps(kept, ensure_ascii=False), cleared
