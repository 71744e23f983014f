"""A query as it was asked, checked in full before anything is read or searched."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from numbers import Real
from typing import Protocol, cast

from encoders.types import Feature
from indexer import wording
from indexer.errors import QueryError

HISTORY_MAX = 10_000  # events of one history; all of them are excluded as seen
QUERIES_MAX = 1_000  # of one recommend_many: their histories and answers are held at once
FEATURES_MAX = 1_000  # of one user
KEY_DIGITS = 100  # of a key that is given as a number
KEY_MAX = 2_000  # characters of a key: longer ones fit into no index of PostgreSQL


class EventLike(Protocol):
    """A past event: `interactions.Event`, or anything of that shape."""

    @property
    def item_key(self) -> str: ...
    @property
    def event(self) -> str | None: ...
    @property
    def value(self) -> float | None: ...
    @property
    def occurred_at(self) -> datetime | None: ...


@dataclass(frozen=True, kw_only=True)
class Past:
    """One event of a history, checked."""

    item_key: str
    event: str | None = None
    value: float | None = None
    occurred_at: datetime | None = None


HistoryEntry = str | int | EventLike | Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Query:
    """What `recommend` is asked for; see there for what each part means."""

    history: Sequence[HistoryEntry] = ()
    features: Mapping[str, object] | None = None
    user_key: str | None = None
    where: object = None
    k: int = 20
    exclude_seen: bool = True
    exact: bool = False


QUERY_PARTS = tuple(part.name for part in fields(Query))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A query whose parts have the right types and sizes."""

    history: tuple[Past, ...]
    features: Mapping[str, object]
    user_key: str | None
    where: object
    k: int
    exclude_seen: bool
    exact: bool


def check_many(queries: object, *, k_max: int) -> list[Asked]:
    """Each query of a batch, ready to run. Raises QueryError."""
    if not _is_list(queries):
        raise QueryError(
            f"queries must be a list of Query or mappings, not {wording.typed(queries)}."
        )
    listed = list(cast("Iterable[Query | Mapping[str, object]]", queries))
    if len(listed) > QUERIES_MAX:
        raise QueryError(
            f"{len(listed):,} queries in one call; the most is {QUERIES_MAX:,}. Ask in batches."
        )
    return [check(query, k_max=k_max) for query in listed]


def check(query: Query | Mapping[str, object], *, k_max: int) -> Asked:
    """The query, ready to run. Raises QueryError that names the part and what it must be."""
    whole = query if isinstance(query, Query) else _from_mapping(query)
    return Asked(
        history=_history(whole.history),
        features=_features(whole.features),
        user_key=_user_key(whole.user_key),
        where=whole.where,
        k=check_k(whole.k, k_max=k_max),
        exclude_seen=check_flag("exclude_seen", whole.exclude_seen),
        exact=check_flag("exact", whole.exact),
    )


def check_k(k: object, *, k_max: int) -> int:
    if isinstance(k, bool) or not isinstance(k, int):
        raise QueryError(f"k must be a whole number, not {wording.typed(k)}.")
    if not 1 <= k <= k_max:
        raise QueryError(f"k must be from 1 to {k_max} (setting k_max), not {wording.short(k)}.")
    return k


def check_flag(name: str, flag: object) -> bool:
    if not isinstance(flag, bool):
        raise QueryError(f"{name} must be true or false, not {wording.typed(flag)}.")
    return flag


def check_key(name: str, key: object) -> str:
    """An item's or a user's key as text; whole numbers are taken by their digits."""
    if isinstance(key, int) and not isinstance(key, bool) and abs(key) < 10**KEY_DIGITS:
        return str(key)
    if not isinstance(key, str):
        raise QueryError(f"{name} must be a key (text), not {wording.typed(key)}.")
    if len(key) > KEY_MAX:
        raise QueryError(f"{name} has {len(key):,} characters; the most is {KEY_MAX:,}.")
    return key


def storable(key: str) -> bool:
    """Whether an item can have this key: PostgreSQL takes no NUL and no lone surrogate."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in key


def check_features(
    given: Mapping[str, object], known: Sequence[Feature]
) -> tuple[dict[str, object], tuple[str, ...]]:
    """Split features into those that the user tower reads and the names of those it does not.
    Raises QueryError when one of the first has a value of the wrong type."""
    kinds = {feature.name: feature for feature in known}
    for name, value in given.items():
        if name in kinds and not fits(kinds[name], value):
            raise QueryError(
                f"feature {wording.short(name)} must be {MEANING[kinds[name].kind]}, "
                f"not {wording.typed(value)}."
            )
    return {name: value for name, value in given.items() if name in kinds}, tuple(
        sorted(name for name in given if name not in kinds)
    )


def usable_features(stored: Mapping[str, object], known: Sequence[Feature]) -> dict[str, object]:
    """Of a user's stored features those that the user tower can read: what was stored long ago
    must not fail today's query, so an unusable value is a missing one."""
    return {
        feature.name: stored[feature.name]
        for feature in known
        if feature.name in stored and fits(feature, stored[feature.name])
    }


MEANING = {
    "category": "one text, number or bool",
    "categories": "a list of texts",
    "number": "a finite number",
    "text": "text",
}


def fits(feature: Feature, value: object) -> bool:
    """Whether the value is one of the feature's kind, or missing."""
    if value is None:
        return True
    if feature.kind == "text":
        return isinstance(value, str)
    if feature.kind == "number":
        return _is_number(value)
    if feature.kind == "category":
        return isinstance(value, str | bool) or _is_number(value)
    return isinstance(value, list | tuple | set | frozenset) and all(
        isinstance(part, str) for part in cast("Iterable[object]", value)
    )


def _from_mapping(query: object) -> Query:
    if not isinstance(query, Mapping):
        raise QueryError(f"a query must be a Query or a mapping, not {wording.typed(query)}.")
    given = cast("Mapping[str, object]", query)
    unknown = sorted(wording.short(name) for name in given if name not in QUERY_PARTS)
    if unknown:
        raise QueryError(
            f"a query has no {wording.listed(unknown)}. It may have: {', '.join(QUERY_PARTS)}."
        )
    return Query(**given)  # pyright: ignore[reportArgumentType]  # check() looks at every part


def _history(history: object) -> tuple[Past, ...]:
    if not _is_list(history):
        raise QueryError(
            f"history must be a list of item keys or events, not {wording.typed(history)}."
        )
    events = list(cast("Iterable[object]", history))
    if len(events) > HISTORY_MAX:
        raise QueryError(
            f"history has {len(events)} events; the most is {HISTORY_MAX}. Give the newest ones."
        )
    return tuple(_past(number, event) for number, event in enumerate(events))


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _past(number: int, event: object) -> Past:
    where = f"history[{number}]"
    if isinstance(event, str | int):
        return Past(item_key=check_key(where, event))
    if isinstance(event, Mapping):
        parts = dict(cast("Mapping[str, object]", event))
        if "key" in parts:
            parts.setdefault("item_key", parts.pop("key"))
        known = {"item_key", "event", "value", "occurred_at"}
        strange = sorted(wording.short(name) for name in parts if name not in known)
        if strange:
            raise QueryError(
                f"{where} has no {wording.listed(strange)}. "
                "It may have: item_key, event, value, occurred_at."
            )
    else:
        names = ("item_key", "event", "value", "occurred_at")
        parts = {name: getattr(event, name, None) for name in names}
        if parts["item_key"] is None:
            parts["item_key"] = getattr(event, "key", event)
    return Past(
        item_key=check_key(f"{where}: item_key", parts.get("item_key")),
        event=_event(where, parts.get("event")),
        value=_value(where, parts.get("value")),
        occurred_at=_time(where, parts.get("occurred_at")),
    )


def _event(where: str, event: object) -> str | None:
    if event is not None and not isinstance(event, str):
        raise QueryError(f"{where}: event must be text, not {wording.typed(event)}.")
    return event


def _value(where: str, value: object) -> float | None:
    if value is None:
        return None
    if not _is_number(value):
        raise QueryError(f"{where}: value must be a finite number, not {wording.typed(value)}.")
    return float(cast("float", value))


def _time(where: str, moment: object) -> datetime | None:
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError as cause:
            raise QueryError(
                f"{where}: occurred_at must be a time like 2026-01-31T12:00:00Z, "
                f"not {wording.short(moment)}."
            ) from cause
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise QueryError(f"{where}: occurred_at must be a time, not {wording.typed(moment)}.")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _features(features: object) -> Mapping[str, object]:
    if features is None:
        return {}
    if not isinstance(features, Mapping):
        raise QueryError(
            f"features must be a mapping of name to value, not {wording.typed(features)}."
        )
    known = cast("Mapping[object, object]", features)
    if len(known) > FEATURES_MAX:
        raise QueryError(f"{len(known):,} features; the most is {FEATURES_MAX:,}.")
    for name in known:
        if not isinstance(name, str):
            raise QueryError(f"a feature's name is text, not {wording.typed(name)}.")
    return cast("Mapping[str, object]", features)


def _user_key(user_key: object) -> str | None:
    return None if user_key is None else check_key("user_key", user_key)


def _is_number(value: object) -> bool:
    """A finite number, numpy's own included, within the range of a double."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
