"""Data directories, and clusters of PostgreSQL, of which no process is left afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest

from embedded.home import Home
from indexer.embedded import postgres


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A data directory; no process of it is left afterwards."""
    folder = tmp_path / "twinspan"
    yield Home(folder=folder)
    processes.until(lambda: not processes.below(folder))
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a cluster that nobody runs, for tests to copy."""
    folder = tmp_path_factory.mktemp("made") / "postgres"
    postgres.start(folder, fsync=False).stop()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A cluster of this test's own; no process of it is left afterwards."""
    copy = tmp_path / "postgres"
    shutil.copytree(made, copy)
    yield copy
    processes.until(lambda: not processes.below(copy))
    shutil.rmtree(copy)
