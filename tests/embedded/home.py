"""A data directory, `twinspan up` on it, and what the one that serves says."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import films
import httpx
import processes

from indexer import embedded
from indexer.embedded import UpServer
from indexer.settings import Settings

UP = """
import logging, sys
from indexer import settings
from indexer import up
from indexer.errors import TwinspanError
logging.basicConfig(level="INFO")
try:
    up.up(settings.load(), say=print)
except TwinspanError as error:
    print("error:", error)
    sys.exit(1)
"""
SHORT_COMMAND = """
import sys
from indexer import embedded, settings
with embedded.database_url(settings.load()) as url:
    print(url)
    sys.stdin.readline()
"""


@dataclass(kw_only=True)
class Home:
    """A data directory, and the processes that run on it."""

    folder: Path

    @property
    def settings(self) -> Settings:
        return Settings.model_validate({"data_dir": self.folder})

    @property
    def postgres(self) -> Path:
        return self.folder / embedded.POSTGRES_FOLDER

    def environment(self, **more: str) -> dict[str, str]:
        own = {"TWINSPAN_DATA_DIR": str(self.folder), "TWINSPAN_HTTP_PORT": "0"}
        return {**own, **{f"TWINSPAN_{name}": value for name, value in more.items()}}

    @contextmanager
    def up(self, **more: str) -> Iterator[Up]:
        with processes.python(UP, env=self.environment(**more)) as process:
            lines: list[str] = []
            while not lines or not lines[-1].startswith("serving on"):
                lines.append(processes.line(process))
            server = embedded.find_server(self.folder)
            assert server is not None
            errors = _drained(process)
            with httpx.Client(
                base_url=server.base_url,
                headers={"Authorization": f"Bearer {server.token}"},
                timeout=60,
                trust_env=False,
            ) as client:
                try:
                    yield Up(process=process, said=lines, server=server, client=client, log=errors)
                finally:  # pytest shows it when the test fails
                    print(f"exit status {process.poll()}, log:", *errors, sep="\n")

    def refused(self, **more: str) -> str:
        """What an `up` says that ends with an error."""
        with processes.python(UP, env=self.environment(**more)) as process:
            out, log = process.communicate(timeout=60)
        assert process.returncode == 1, out + log
        assert "Traceback" not in out
        return out.strip().splitlines()[-1]


@dataclass(kw_only=True)
class Up:
    process: subprocess.Popen[str]
    said: list[str]
    server: UpServer
    client: httpx.Client
    log: list[str]

    def build(self, home: Home) -> int:
        """A live index of the films, by HTTP and the worker inside; its id."""
        encoder = films.trained(home.folder / "encoders")
        asked = {"catalog": "items", "encoder_uri": encoder.uri}
        response = self.client.post("/indexes", json=asked)
        assert response.status_code == 201, response.text
        index_id: int = response.json()["id"]
        processes.until(
            lambda: self.client.get(f"/indexes/{index_id}").json()["progress"]["complete"],
            seconds=60,
        )
        self.client.post(f"/indexes/{index_id}/promote").raise_for_status()
        return index_id

    def similar(self, key: str) -> list[str]:
        response = self.client.post("/similar", json={"key": key, "k": 5})
        return [hit["key"] for hit in response.json().get("hits", [])]


def _drained(process: subprocess.Popen[str]) -> list[str]:
    """The log so far; read all the time, so that a full pipe stops nobody."""
    lines: list[str] = []
    assert process.stderr is not None
    threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True).start()
    return lines
