"""A collection of films as `reindex` makes one, with real towers loaded from real artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from films import FEATURES, GENRES

from encoders import artifact, content
from encoders.types import EncoderInfo, ItemRecord
from indexer import Retriever
from indexer.filters import FieldKind
from indexer.query import Hits
from indexer.settings import Settings
from indexer.stores import Collection, CollectionSpec, Point, VectorStore

FIELDS: dict[str, FieldKind] = {"genres": "keyword", "year": "integer", "in_stock": "bool"}


@dataclass(kw_only=True)
class World:
    store: VectorStore
    settings: Settings
    root: Path
    retriever: Retriever = field(init=False)
    built: int = 0

    def __post_init__(self) -> None:
        self.retriever = Retriever(self.store, alias="movies", settings=self.settings)

    def build(
        self, info: EncoderInfo, rows: Mapping[str, Mapping[str, object]], *, live: bool = True
    ) -> Collection:
        """A collection of these rows by that encoder, as `reindex` makes one."""
        self.built += 1
        collection = Collection(name=f"movies-{self.built}", catalog="films")
        spec = CollectionSpec(
            collection=collection,
            vectors=info.vectors,
            fields=FIELDS,
            metadata={
                "format": 1,
                "index_id": self.built,
                "encoder_id": info.id,
                "encoder_uri": info.uri,
                "catalog": "films",
                "alias": "movies",
                "returned": ["genres", "year", "built_by"],
            },
        )
        self.store.ensure_collection(spec)
        self.write(info, collection, rows)
        if live:
            self.store.point_alias("movies", collection.name)
        return collection

    def write(
        self, info: EncoderInfo, collection: Collection, rows: Mapping[str, Mapping[str, object]]
    ) -> None:
        encoded = artifact.load(info.uri, expected_id=info.id).encode_items(records(rows))
        points = [
            Point(
                key=key,
                vectors={name: vectors[place] for name, vectors in encoded.vectors.items()},
                payload={**row, "built_by": info.id, "_key": key, "_version": 1, "_fence": 1},
            )
            for place, (key, row) in enumerate(rows.items())
        ]
        self.store.write_if_newer(collection, points, fence=1, mode="upsert")
        self.store.flush(collection)


def films(count: int = 80, *, prefix: str = "m") -> dict[str, dict[str, object]]:
    """Film i is of genre i % 4, so whoever liked one genre should get more of it."""
    return {
        f"{prefix}{i}": {"genres": [GENRES[i % 4]], "year": 1960 + i % 60, "in_stock": i % 3 == 0}
        for i in range(count)
    }


def records(rows: Mapping[str, Mapping[str, object]]) -> list[ItemRecord]:
    return [ItemRecord(key=key, features=row) for key, row in rows.items()]


def trained(root: Path, *, weight: float = 0.4) -> EncoderInfo:
    """A content encoder on disk. Another weight gives another encoder of the same dimension."""
    tower = content.fit(
        content.Config(category_weight=weight),
        records(films()),
        FEATURES,
        popularity=np.ones(80, dtype=np.float32),
    )
    return artifact.save(tower, str(root), facts={}, metrics={})


def genres_of(hits: Hits) -> list[object]:
    return [genre for hit in hits for genre in hit.payload["genres"]]  # type: ignore[attr-defined]
