"""A shop of made-up items in `public.items`, and a tower trained on it: what benchmarks index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from encoders import dataset
from encoders import train as training
from encoders.types import EncoderInfo
from indexer import bulk, catalog, database, reindex
from indexer.catalog import spec
from indexer.indexes import Index
from indexer.stores import VectorStore

GENRES = tuple(f"genre {n}" for n in range(20))
BRANDS = tuple(f"brand {n}" for n in range(500))
WORDS = tuple(f"word{n}" for n in range(5_000))
TRAINING_ITEMS, TRAINING_USERS, EVENTS_EACH = 2_000, 400, 20
TABLE = ("public", "items")
COLUMNS = ("id", "title", "attributes")

# What a tower is trained with: the defaults, whose titles a text model reads; or without the model.
AS_USERS_HAVE_IT: Mapping[str, object] = {}
TITLES_AS_WORDS: Mapping[str, object] = {"text_as": "words", "content_width": 0}


def rows(first: int, count: int, seed: int = 0) -> Iterator[tuple[str, str, str]]:
    """Items numbered from `first`: key, title of four words, attributes as JSON."""
    rng = np.random.default_rng((seed, first))
    for number in range(first, first + count):
        attributes: dict[str, object] = {
            "genres": [GENRES[g] for g in rng.choice(len(GENRES), rng.integers(1, 4), False)],
            "brand": BRANDS[rng.integers(len(BRANDS))],
            "year": int(rng.integers(1950, 2025)),
            "price": round(float(rng.gamma(2.0, 20.0)), 2),
        }
        words: list[int] = rng.integers(len(WORDS), size=4).tolist()
        title = " ".join(WORDS[word] for word in words)
        yield f"item-{number}", title, json.dumps(attributes)


def insert(engine: sa.Engine, first: int, count: int) -> None:
    """The items are committed, by one COPY."""
    with database.begin(engine) as connection:
        bulk.copy_rows(connection, TABLE, COLUMNS, rows(first, count))


def train(
    engine: sa.Engine,
    root: Path,
    *,
    family: str = "retrievalformer",
    config: Mapping[str, object] = AS_USERS_HAVE_IT,
) -> EncoderInfo:
    """A tower over the built-in catalog's features, trained for one epoch on random events: its
    weights hardly matter for its speed."""
    attached = catalog.get(engine, spec.BUILTIN.name)
    found = catalog.scan_items(engine, attached, after=None, limit=TRAINING_ITEMS)
    count = TRAINING_USERS * EVENTS_EACH
    rng = np.random.default_rng(0)
    events = dataset.arrange(
        items=[dataset.ItemRecord(key=item.key, features=item.features) for item in found],
        item_features=spec.BUILTIN.item_features,
        user_keys=[f"user-{number}" for number in range(TRAINING_USERS)],
        user_records=[{"age": int(rng.integers(16, 80))} for _ in range(TRAINING_USERS)],
        user_features=(dataset.Feature(name="age", kind="number"),),
        user=np.repeat(np.arange(TRAINING_USERS), EVENTS_EACH),
        item=rng.integers(len(found), size=count),
        occurred_at=1_600_000_000_000_000 + np.arange(count) * 60_000_000,
    )
    epochs = {} if family == "content" else {"epochs": 1}
    return training.train(family, events, str(root), config={**epochs, **config})


def build(engine: sa.Engine, store: VectorStore, encoder: EncoderInfo, *, queue: str) -> Index:
    """An index whose backfill is all in the ledger; nothing is encoded yet."""
    index = reindex.start(
        engine, store, catalog_name=spec.BUILTIN.name, encoder_uri=encoder.uri, queue=queue
    )
    for _ in reindex.fill(engine, index):
        pass
    return index
