"""Which column of a file means what: by the caller's word, else by the names that are in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from indexer import wording
from indexer.errors import ImportFailed


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What the rows of one kind of file are made of: field -> names that columns have for it,
    the likeliest first. `required` fields must have a column."""

    kind: str
    names: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]


ITEMS = Meaning(
    kind="items",
    names={
        "key": (
            *("key", "item_key", "item_id", "id", "sku", "asin", "parent_asin", "product_id"),
            *("movie_id", "book_id", "article_id", "track_id", "isbn", "ean", "gtin", "name"),
        ),
        "title": ("title", "movie_title", "product_title", "product_name", "name", "headline"),
        "description": ("description", "desc", "summary", "overview", "plot", "abstract", "text"),
        "genres": ("genres", "genre"),
        "categories": ("categories", "category", "product_category"),
        "tags": ("tags", "keywords"),
        "year": ("year", "release_year", "publication_year"),
        "brand": ("brand", "manufacturer"),
        "price": ("price",),
    },
    required=("key",),
)

USERS = Meaning(
    kind="users",
    names={
        "key": ("key", "user_key", "user_id", "user", "uid", "customer_id", "reviewer_id", "id"),
    },
    required=("key",),
)

INTERACTIONS = Meaning(
    kind="interactions",
    names={
        "user": ("user_key", "user_id", "user", "uid", "customer_id", "reviewer_id", "visitor_id"),
        "item": (
            *("item_key", "item_id", "item", "iid", "sku", "asin", "parent_asin", "product_id"),
            *("movie_id", "book_id", "article_id", "track_id"),
        ),
        "occurred_at": (
            *("occurred_at", "timestamp", "unix_review_time", "time", "ts", "event_time"),
            *("datetime", "date", "created_at"),
        ),
        "event": ("event", "event_type", "action", "interaction", "behavior", "type"),
        "value": ("value", "rating", "score", "overall", "stars", "weight"),
    },
    required=("user", "item", "occurred_at"),
)


def resolve(
    meaning: Meaning, said: Mapping[str, str], columns: Sequence[str], file: str
) -> dict[str, str]:
    """field -> column of the file. What was said counts, then the names in use, whatever their
    case and underscores. Raises ImportFailed that names the file's columns and the remedy."""
    found: dict[str, str] = {}
    for field, column in said.items():
        if field not in meaning.names:
            raise ImportFailed(
                f"{meaning.kind} have no field {field!r}. They have {', '.join(meaning.names)}."
            )
        if column not in columns:
            raise ImportFailed(f"{file} has no column {column!r}. It has {_shown(columns)}.")
        found[field] = column
    for field in meaning.names:
        column = None if field in found else _named(meaning.names[field], columns, found)
        if column is not None:
            found[field] = column
    for field in meaning.required:
        if field not in found:
            raise ImportFailed(
                f"{file} has no column for the {field} of its {meaning.kind}. "
                f"It has {_shown(columns)}. Say which: --column {field}=NAME."
            )
    return found


def _shown(columns: Sequence[str]) -> str:
    """What may be anything: a file that is no table has a first line, too."""
    return wording.line(wording.listed(columns)) or "none"


def _named(names: Sequence[str], columns: Sequence[str], taken: Mapping[str, str]) -> str | None:
    plain = {_plain(column): column for column in reversed(columns)}
    candidates = (plain.get(_plain(name)) for name in names)
    return next((one for one in candidates if one and one not in taken.values()), None)


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
