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
IMPORTERS: Mapping[str, Importer] = {"movielens": importing.movielens, "amazon": importing.amazon}
SOURCES: Mapping[str, str] = {  # what `twinspan import` calls the kind of each
    "ml-100k": "movielens",
    "ml-1m": "movielens",
    "amazon-beauty-2014": "amazon",
    "amazon-industrial-2018": "amazon",
}


def folder(name: str) -> Path:
    """Where the data set lies: the folder of its name in TWINSPAN_DATA. Raises SystemExit."""
    found = Path(os.environ.get("TWINSPAN_DATA", "")) / name
    if not found.is_dir():
        raise SystemExit(f"{found} is not there: set TWINSPAN_DATA to its parent")
    return found


def read(name: str) -> Dataset:
    """The data set, from its folder or from an earlier import. Raises SystemExit without both."""
    with (
        postgres.start(KEPT / name / "postgres", fsync=False) as server,
        database.opened(server.url) as engine,
    ):
        schema.migrate(engine)
        attached = catalog.attach(engine, spec.BUILTIN)
        data = training_data.read_dataset(engine, attached)
        if not len(data.user):
            found = folder(name)
            print(f"importing {found}", file=sys.stderr, flush=True)
            IMPORTERS[SOURCES[name]](engine, found)
            data = training_data.read_dataset(engine, attached)
    return data
