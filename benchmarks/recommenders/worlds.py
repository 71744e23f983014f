"""The data sets, read as a user's are: imported into PostgreSQL, read back as training data."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import sqlalchemy as sa

from encoders.dataset import Dataset
from indexer import catalog, database, importing, schema, training_data
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.importing import Report

KEPT = Path(".data/recommenders")  # imported once, and checkpoints of runs that are under way

Importer = Callable[[sa.Engine, Path], Report]
IMPORTERS: Mapping[str, Importer] = {
    "ml-100k": importing.movielens,
    "ml-1m": importing.movielens,
    "amazon-beauty-2014": importing.amazon,
    "amazon-industrial-2018": importing.amazon,
}


def read(name: str) -> Dataset:
    """The data set that lies in the folder of its name in TWINSPAN_DATA. Raises SystemExit without
    it."""
    folder = Path(os.environ.get("TWINSPAN_DATA", "")) / name
    with postgres.start(KEPT / name / "postgres", fsync=False) as server:
        engine = database.engine(server.url)
        try:
            schema.migrate(engine)
            attached = catalog.attach(engine, spec.BUILTIN)
            data = training_data.read_dataset(engine, attached)
            if not len(data.user):
                if not folder.is_dir():
                    raise SystemExit(f"{folder} is not there: set TWINSPAN_DATA to its parent")
                print(f"importing {folder}", file=sys.stderr, flush=True)
                IMPORTERS[name](engine, folder)
                data = training_data.read_dataset(engine, attached)
        finally:
            engine.dispose()
    return data
