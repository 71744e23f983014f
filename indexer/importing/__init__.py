"""Importers: known data sets and any CSV, JSON Lines or Parquet file, into the built-in tables.

Each is one transaction: all of it or nothing. Each may be run again: only rows that differ are
touched. Rows that cannot be used are counted by reason and quoted in the report; with `strict` the
first of them ends the import. Errors are ImportFailed: file, line, remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from indexer.importing import amazon_files, generic, movielens_shapes
from indexer.importing.report import Job, OnProgress, Progress, Report
from indexer.interactions import DEFAULT_CATALOG

__all__ = [
    "OnProgress",
    "Progress",
    "Report",
    "amazon",
    "interactions",
    "items",
    "movielens",
    "movielens_edition",
    "users",
]


def movielens_edition(path: Path) -> str:
    """Which edition of MovieLens lies at `path`, by its files. Raises ImportFailed when none."""
    return movielens_shapes.find(path)[0].name


def movielens(
    engine: sa.Engine,
    path: Path,
    *,
    catalog: str = DEFAULT_CATALOG,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """MovieLens, whichever edition lies at `path`: a folder, a zip archive or wheel, or a file."""
    return movielens_shapes.load(
        engine, path, catalog=catalog, strict=strict, on_progress=on_progress
    )


def amazon(
    engine: sa.Engine,
    path: Path,
    *,
    catalog: str = DEFAULT_CATALOG,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """`sequences.txt` and `items.jsonl` (plain or .gz) in the folder `path`."""
    return amazon_files.load(engine, path, catalog=catalog, strict=strict, on_progress=on_progress)


def items(
    engine: sa.Engine,
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    encoding: str | None = None,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """The rows of one file as items. `columns` says field -> column where names do not tell
    (fields: key, title, description, genres, categories, tags, year, brand, price)."""
    job = Job(strict=strict, on_progress=on_progress)
    return generic.load_items(
        engine, path, job, said=columns or {}, format=format, encoding=encoding
    )


def users(
    engine: sa.Engine,
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    encoding: str | None = None,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """The rows of one file as users; every column but the key is a feature (field: key)."""
    job = Job(strict=strict, on_progress=on_progress)
    return generic.load_users(
        engine, path, job, said=columns or {}, format=format, encoding=encoding
    )


def interactions(
    engine: sa.Engine,
    path: Path,
    *,
    catalog: str = DEFAULT_CATALOG,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    encoding: str | None = None,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """The rows of one file as events (fields: user, item, occurred_at, event, value)."""
    job = Job(strict=strict, on_progress=on_progress)
    return generic.load_interactions(
        engine, path, job, catalog=catalog, said=columns or {}, format=format, encoding=encoding
    )
