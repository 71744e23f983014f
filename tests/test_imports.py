"""What may be imported when: torch takes seconds, and most commands do not need it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

MODELS = {"torch", "sentence_transformers", "transformers", "encoders.content"}
HEAVY = MODELS | {
    "alembic",
    "celery",
    "fastapi",
    "numpy",
    "pyarrow",
    "qdrant_client",
    "qdrant_edge",
    "sqlalchemy",
    "uvicorn",
}
HELP_CPU_S = 1.0  # of user time; on two busy cores it takes 0.45

LIGHT_MODULES = [
    "indexer",
    "indexer.sync",
    "indexer.query",
    "indexer.reindex",
    "indexer.verify",
    "indexer.embedded",
    "indexer.stores.edge",
    "indexer.stores.qdrant",
    "encoders.artifact",
    "encoders.train",
    "workers.app",
    "workers.thread",
]


def imported_by(code: str, **environment: str) -> set[str]:
    """The modules that a fresh interpreter has after running the code."""
    report = "import json, sys; print('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_importing_it_imports_no_torch(module: str) -> None:
    assert not imported_by(f"import {module}") & MODELS


def test_retriever_and_hits_are_exported() -> None:
    assert not imported_by("from indexer import Hits, Retriever") & MODELS


def test_the_command_line_starts_without_anything_heavy() -> None:
    assert not imported_by("import indexer.cli") & HEAVY
    assert not imported_by("from indexer.cli.app import run; assert run(['--help']) == 0") & HEAVY


def test_status_imports_no_torch(database_url: str) -> None:
    code = "from indexer.cli.app import run; assert run(['status']) == 0"
    assert not imported_by(code, TWINSPAN_DATABASE_URL=database_url) & MODELS


def test_help_takes_little_processor_time() -> None:
    """What may be imported, the tests above say; this one is for work done at every start. The
    bound is generous, since a busy machine takes more time for the same."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run(
            [sys.executable, "-m", "indexer.cli", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    assert any(once() < HELP_CPU_S for _ in range(3))
