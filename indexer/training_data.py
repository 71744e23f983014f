"""What towers are trained on: a catalog's items, and what users did with them, read out as arrays.

Times stay whole microseconds from PostgreSQL to numpy. User features carry no description of their
own, so their kinds are told from the values that are there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from encoders import dataset as datasets
from encoders.dataset import Dataset
from encoders.types import Feature, FeatureKind, ItemRecord
from indexer import catalog as catalogs
from indexer import database
from indexer.catalog import Catalog
from indexer.errors import UsageError

log = logging.getLogger(__name__)

Array = NDArray[Any]

ITEMS_AT_ONCE = 5_000
EVENTS_AT_ONCE = 20_000
EVENT_KINDS = 32_000  # they are numbered in int16
PROSE_WORDS = 5  # a feature of longer values, mostly distinct, is free text

USERS = """
    SELECT user_key, features FROM indexer.users AS u
    WHERE EXISTS (
        SELECT FROM indexer.interactions AS i WHERE i.catalog = :catalog AND i.user_key = u.user_key
    )
"""

# extract() is numeric, so that whole microseconds arrive, unrounded.
EVENTS = """
    SELECT user_key, item_key, (extract(epoch FROM occurred_at) * 1000000)::bigint, value, event
    FROM indexer.interactions WHERE catalog = :catalog
    ORDER BY user_key, occurred_at, id
"""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A dataset, and how many events were left out because the catalog lacks their item."""

    dataset: Dataset
    dropped_events: int


def read_dataset(engine: sa.Engine, catalog: Catalog) -> Dataset:
    """The catalog's items, its users and their events. Says in the log how many events named an
    item that the catalog does not have; those are left out."""
    reading = read(engine, catalog)
    if reading.dropped_events:
        log.warning(
            "%d of %d interactions name an item that catalog %r does not have: left out",
            reading.dropped_events,
            reading.dropped_events + len(reading.dataset.user),
            catalog.name,
        )
    return reading.dataset


def read(engine: sa.Engine, catalog: Catalog) -> Reading:
    """The same, with the number of events left out. Users whose events are all left out are left
    out with them."""
    items = _items(engine, catalog)
    events, dropped = _events(engine, catalog, {item.key: row for row, item in enumerate(items)})
    records = _user_records(engine, catalog)
    known = [records.get(key, {}) for key in events.user_keys]
    features = user_features(known)
    arranged = datasets.arrange(
        items=items,
        item_features=catalog.spec.item_features,
        user_keys=events.user_keys,
        user_records=_typed(known, features),
        user_features=features,
        user=_joined(events.user, np.int32),
        item=_joined(events.item, np.int32),
        occurred_at=_joined(events.occurred_at, np.int64),
        value=_joined(events.value, np.float32),
        event=_joined(events.event, np.int16),
        event_names=events.event_names,
    )
    return Reading(dataset=arranged, dropped_events=dropped)


# -- items and events ------------------------------------------------------------------------------


def _items(engine: sa.Engine, catalog: Catalog) -> list[ItemRecord]:
    items: list[ItemRecord] = []
    after: str | None = None
    while True:
        chunk = catalogs.scan_items(engine, catalog, after=after, limit=ITEMS_AT_ONCE)
        items += [ItemRecord(key=item.key, features=item.features) for item in chunk]
        if len(chunk) < ITEMS_AT_ONCE:
            return items
        after = chunk[-1].key


@dataclass(kw_only=True)
class _Events:
    """Events as they come in: names and keys once each, the rest in chunks of arrays."""

    user_keys: list[str]
    event_names: list[str]
    user: list[Array]
    item: list[Array]
    occurred_at: list[Array]
    value: list[Array]
    event: list[Array]


def _events(
    engine: sa.Engine, catalog: Catalog, rows_by_key: Mapping[str, int]
) -> tuple[_Events, int]:
    users, names = _Numbers(), _Numbers()
    events = _Events(
        user_keys=users.names,
        event_names=names.names,
        user=[],
        item=[],
        occurred_at=[],
        value=[],
        event=[],
    )
    dropped = 0
    for chunk in _event_rows(engine, catalog.name):
        kept = [row for row in chunk if row[1] in rows_by_key]
        dropped += len(chunk) - len(kept)
        user, item, at, value, event = zip(*kept, strict=True) if kept else ((),) * 5
        events.user.append(np.array([users[key] for key in user], dtype=np.int32))
        events.item.append(np.array([rows_by_key[key] for key in item], dtype=np.int32))
        events.occurred_at.append(np.array(at, dtype=np.int64))
        events.value.append(_values(value))
        numbers = [-1 if name is None else names[name] for name in event]
        if len(names.names) > EVENT_KINDS:
            raise UsageError(
                f"catalog {catalog.name!r} has more than {EVENT_KINDS} kinds of events. "
                "`event` is meant for a few words such as view or purchase."
            )
        events.event.append(np.array(numbers, dtype=np.int16))
    return events, dropped


class _Numbers(dict[str, int]):
    """name -> number from 0, given out as names come."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self.names)
        self.names.append(name)
        return number


Row = tuple[str, str, int, float | None, str | None]


def _event_rows(engine: sa.Engine, catalog: str) -> Iterator[Sequence[Row]]:
    with database.begin(engine) as connection:
        streamed = connection.execution_options(yield_per=EVENTS_AT_ONCE).execute(
            sa.text(EVENTS), {"catalog": catalog}
        )
        for chunk in streamed.partitions():
            yield cast("Sequence[Row]", chunk)


def _values(given: Iterable[float | None]) -> Array:
    """float32, NaN where there is none, or none that float32 could hold."""
    exact = np.array([np.nan if value is None else value for value in given], dtype=np.float64)
    exact[np.abs(exact) > np.finfo(np.float32).max] = np.nan
    return exact.astype(np.float32)


def _joined(chunks: Sequence[Array], dtype: type[np.generic]) -> Array:
    return np.concatenate(chunks) if chunks else np.array([], dtype=dtype)


# -- user features ---------------------------------------------------------------------------------


def _user_records(engine: sa.Engine, catalog: Catalog) -> dict[str, Mapping[str, object]]:
    with database.begin(engine) as connection:
        rows = connection.execute(sa.text(USERS), {"catalog": catalog.name})
        return {key: cast("Mapping[str, object]", features) for key, features in rows}


def user_features(records: Sequence[Mapping[str, object]]) -> tuple[Feature, ...]:
    """The features that users have, by name, each with the kind that all of its values fit:
    `number`, `categories` (lists), `text` (long and mostly distinct), else `category`. What holds
    objects inside is no feature."""
    seen: dict[str, list[object]] = {}
    for record in records:
        for name, value in record.items():
            if value is not None:
                seen.setdefault(name, []).append(value)
    kinds: list[tuple[str, FeatureKind | None]] = [
        (name, _kind(seen[name])) for name in sorted(seen)
    ]
    return tuple(Feature(name=name, kind=kind) for name, kind in kinds if kind is not None)


def _kind(found: Sequence[object]) -> FeatureKind | None:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in found):
        return "number"
    if any(isinstance(value, list) for value in found):
        return "categories" if all(_is_labels(value) for value in found) else None
    if not all(isinstance(value, str | int | float | bool) for value in found):
        return None
    texts = [str(value) for value in found]
    words = sum(len(text.split()) for text in texts) / len(texts)
    return "text" if words >= PROSE_WORDS and len(set(texts)) > len(texts) / 2 else "category"


def _is_labels(value: object) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str)
    return all(isinstance(one, str | int | float) for one in cast("list[object]", value))


def _typed(
    records: Sequence[Mapping[str, object]], features: Sequence[Feature]
) -> list[dict[str, object]]:
    """The records with only those features, each value of its kind."""
    return [
        {
            feature.name: _as_kind(record[feature.name], feature.kind)
            for feature in features
            if record.get(feature.name) is not None
        }
        for record in records
    ]


def _as_kind(value: object, kind: FeatureKind) -> object:
    if kind == "number":
        return float(cast("float", value))
    if kind == "categories":
        labels = cast("list[object]", value) if isinstance(value, list) else [value]
        return [str(label) for label in labels]
    return str(value)
