"""The operations guide, done: its commands run as they stand there, and what they promise holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import live
import psycopg
import pytest
from qdrant_rest import QdrantRest

from indexer.embedded import pgdata

GUIDE = Path(__file__).parent.parent / "docs" / "operations.md"
BLOCK = re.compile(r"^```sh run ?(\w*)\n(.*?)^```$", re.M | re.S)
DRAINED_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Block:
    """Commands, and what the test does around them: `wait` until the worker has done it all,
    `restore` without a worker."""

    note: str
    commands: str


def blocks() -> list[Block]:
    return [Block(note=note, commands=text) for note, text in BLOCK.findall(GUIDE.read_text())]


@dataclass(kw_only=True)
class Site:
    """A place to run the guide in."""

    folder: Path
    database: str
    environment: dict[str, str]
    worker: live.Worker

    def run(self, commands: str) -> str:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("TWINSPAN_")}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            env={**clean, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{commands}\nended with {done.returncode}:\n{said}"
        assert "Traceback" not in said
        return done.stdout

    def wait_drained(self) -> None:
        with psycopg.connect(self.database, autocommit=True) as connection:
            dirty = (
                "SELECT EXISTS (SELECT FROM indexer.changes) OR EXISTS"
                " (SELECT FROM indexer.entries WHERE wanted > written)"
            )

            def drained() -> bool:
                row = connection.execute(dirty).fetchone()
                return row == (False,)

            live.wait_until(
                drained, within_s=DRAINED_S, what="an empty ledger", log=self.worker.log
            )


@pytest.fixture
def site(tmp_path: Path, postgres_url: str, database_url: str) -> Iterator[Site]:
    number = os.getpid()
    port = live.free_port()
    roles = (f"twinspan_test_{number}_guide_worker", f"twinspan_test_{number}_guide_query")
    with live.redis_server(port, tmp_path), QdrantRest() as qdrant:
        settings = {
            "TWINSPAN_DATABASE_URL": database_url,
            "TWINSPAN_QDRANT_URL": qdrant.url,
            "TWINSPAN_BROKER_URL": f"redis://127.0.0.1:{port}/0",
            "TWINSPAN_ENCODERS_URI": str(tmp_path / "encoders"),
        }
        worker = live.Worker(folder=tmp_path, environment=settings, queue="twinspan", faults=False)
        environment = {
            **settings,
            "PATH": f"{Path(sys.executable).parent}:{pgdata.binaries()}:{os.environ['PATH']}",
            "PYTHONPATH": str(live.REPOSITORY),
            "DATABASE": database_url,
            "MAINTENANCE": postgres_url,
            "NAME": urlsplit(database_url).path.removeprefix("/"),
            "WORKER_ROLE": roles[0],
            "QUERY_ROLE": roles[1],
        }
        yield Site(folder=tmp_path, database=database_url, environment=environment, worker=worker)
    with psycopg.connect(database_url, autocommit=True) as admin:
        for role in roles:
            admin.execute(f"DROP OWNED BY {role} CASCADE")
            admin.execute(f"DROP ROLE {role}")


def test_the_guide_works(site: Site) -> None:
    found = blocks()
    assert [block.note for block in found].count("restore") == 1
    outputs: list[str] = []
    with site.worker:
        for block in found:
            if block.note == "restore":
                site.worker.kill_group()
            outputs.append(site.run(block.commands))
            print(time.monotonic(), block.commands)
            if block.note == "restore":
                site.worker.start()
            if block.note == "wait":
                site.wait_drained()
    everything = "\n".join(outputs)
    assert "schema indexer is at revision" in outputs[0]
    assert f"role {site.environment['WORKER_ROLE']} may do what a worker needs" in outputs[0]
    assert "fences from 1,000," in everything, "the restored database's fences were raised"
    [index] = json.loads(outputs[-1][outputs[-1].index("{") :])["indexes"]
    assert (index["items"], index["live"], index["backfill"]) == (50, 0, 0)


def test_every_command_that_the_guide_names_exists() -> None:
    from typer.main import get_command

    from indexer.cli.app import app

    known = set(getattr(get_command(app), "commands", {}))
    named = set(re.findall(r"twinspan ([a-z]+)\b", GUIDE.read_text()))
    assert named - known - {"attach"} == set()
    assert {"reconcile", "permit", "migrate", "verify"} <= named
