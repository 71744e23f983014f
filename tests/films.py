"""A small catalog of films in the built-in table, with a tower that needs no text model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from encoders import artifact, content
from encoders.types import EncoderInfo, Feature, ItemRecord
from indexer import database

GENRES = ("Comedy", "Drama", "Horror", "Western")
FEATURES = (Feature(name="genres", kind="categories"), Feature(name="year", kind="number"))


def rows(count: int = 40) -> dict[str, dict[str, object]]:
    """Film i is of genre i % 4, so whoever liked one genre should get more of it."""
    return {f"m{i}": {"genres": [GENRES[i % 4]], "year": 1960 + i} for i in range(count)}


def insert(engine: sa.Engine, films: dict[str, dict[str, object]]) -> None:
    with database.begin(engine) as connection:
        connection.execute(
            sa.text(
                "INSERT INTO public.items (id, title, attributes) "
                "VALUES (:id, :title, CAST(:attributes AS jsonb))"
            ),
            [
                {"id": key, "title": f"Film {key}", "attributes": json.dumps(film)}
                for key, film in films.items()
            ],
        )


def trained(root: Path, *, weight: float = 0.4) -> EncoderInfo:
    """A content encoder on disk; another weight gives another encoder."""
    tower = content.fit(
        content.Config(category_weight=weight),
        [ItemRecord(key=key, features=film) for key, film in rows().items()],
        FEATURES,
        popularity=np.ones(len(rows()), dtype=np.float32),
    )
    return artifact.save(tower, str(root), facts={}, metrics={})
