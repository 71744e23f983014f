"""Importers: known data sets and any CSV, JSON Lines or Parquet file, into the built-in tables.

Each is one transaction: all of it or nothing. Each may be run again: only rows that differ are
touched. Rows that cannot be used are counted by reason and quoted in the report; with `strict` the
first of them ends the import. Errors are ImportFailed: file, line, remedy.
"""

from __future__ import annotations

from indexer.importing.amazon_files import load as amazon
from indexer.importing.generic import load_interactions as interactions
from indexer.importing.generic import load_items as items
from indexer.importing.generic import load_users as users
from indexer.importing.movielens_shapes import edition as movielens_edition
from indexer.importing.movielens_shapes import load as movielens
from indexer.importing.report import OnProgress, Progress, Report

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
