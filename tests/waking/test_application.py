"""The Celery application: how it is configured, and what it refuses to start with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery.concurrency import get_implementation
from live import REPOSITORY

from indexer.errors import SettingsError
from indexer.settings import Settings
from workers.app import check_pool, make_app


def test_the_application_is_configured_for_wake_ups(tmp_path: Path) -> None:
    app = make_app(Settings(data_dir=tmp_path))
    assert list(app.conf.accept_content) == ["json"]
    assert app.conf.task_ignore_result
    assert app.conf.task_acks_late
    assert app.conf.worker_prefetch_multiplier == 1
    assert not app.conf.worker_hijack_root_logger
    assert [name for name in app.tasks if not name.startswith("celery.")] == ["twinspan.drain"]


@pytest.mark.parametrize("url", ["nonsense", "http://host/", "hush-hush@redis"])
def test_an_address_that_is_no_broker_is_refused_without_repeating_it(
    url: str, tmp_path: Path
) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "broker_url": url})
    with pytest.raises(SettingsError, match="broker_url is not a broker's address") as raised:
        make_app(settings)
    assert url not in str(raised.value)


@pytest.mark.parametrize(
    ("pool", "concurrency", "url", "refused"),
    [
        ("prefork", 2, None, True),
        ("prefork", 1, None, False),
        ("solo", 1, None, False),
        ("threads", 4, None, False),
        ("prefork", 8, "http://127.0.0.1:6333", False),
    ],
)
def test_several_processes_over_edge_are_refused_at_the_start(
    pool: str, concurrency: int, url: str | None, refused: bool, tmp_path: Path
) -> None:
    app = make_app(Settings(data_dir=tmp_path, qdrant_url=url))
    worker = SimpleNamespace(
        app=app, concurrency=concurrency, autoscale=None, pool_cls=get_implementation(pool)
    )
    if refused:
        with pytest.raises(SettingsError, match=r"belongs to one process, but this pool has 2"):
            check_pool(worker)
    else:
        check_pool(worker)


def test_a_worker_without_a_broker_says_what_to_set(tmp_path: Path) -> None:
    ended = start_worker(tmp_path)
    assert ended.returncode == 2
    assert "TWINSPAN_BROKER_URL=redis://" in ended.stderr


def test_a_worker_without_a_database_says_what_to_set(tmp_path: Path) -> None:
    ended = start_worker(
        tmp_path, TWINSPAN_BROKER_URL="memory://", TWINSPAN_QDRANT_URL="http://127.0.0.1:6333"
    )
    assert ended.returncode == 2
    assert "TWINSPAN_DATABASE_URL=postgresql://" in last_line(ended)


def test_a_pool_of_processes_over_edge_ends_with_one_line(tmp_path: Path) -> None:
    ended = start_worker(
        tmp_path, TWINSPAN_BROKER_URL="memory://", TWINSPAN_DATABASE_URL="postgresql://x@127.0.0.1/"
    )
    assert ended.returncode == 2
    assert "TWINSPAN_QDRANT_URL=" in last_line(ended)


def start_worker(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TWINSPAN_", "CELERY"))}
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-c", "2"],
        env={**clean, "PYTHONPATH": str(REPOSITORY), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def last_line(ended: subprocess.CompletedProcess[str]) -> str:
    """What we say; Celery may have warned of something before (to run as root, for instance)."""
    assert "Traceback" not in ended.stderr, ended.stderr
    said = ended.stderr.splitlines()[-1]
    assert said.startswith("twinspan: "), ended.stderr
    return said
