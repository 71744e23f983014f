"""A program of PostgreSQL, run as the right user by a watchdog that ends it when we end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from indexer.embedded import pgdata, watchdog

LOG_NAME = "postgres.log"
LOG_BYTES_MAX = 5_000_000  # then it is kept as .log.1 and begun anew, at a start
LOG_TAIL_LINES = 12  # quoted in errors


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folder, the binaries that run on it, and whom they run as."""

    folder: Path
    programs: Path
    account: pgdata.Account | None

    @property
    def cluster(self) -> Path:
        return self.folder / "data"

    def command(self, name: str, *arguments: str) -> list[str]:
        return [str(self.programs / pgdata.program(name)), *arguments]


class Program:
    """A command run by a watchdog, which ends it when this process ends."""

    def __init__(self, place: Place, command: Sequence[str]) -> None:
        self._log = place.folder / LOG_NAME
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES_MAX:
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as log:
            self._begins_at = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-I", watchdog.__file__, _job(place, command)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=place.folder,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us; PostgreSQL stops after its users
                bufsize=0,
            )

    def status(self) -> int | None:
        return self._process.poll()

    def call_ready(self) -> None:
        """From now on it is started again should it die."""
        if self._process.stdin is not None:
            self._process.stdin.write(b"r")

    def wait(self) -> int:
        """Its exit status, when it ends by itself; it is stopped when we are interrupted."""
        try:
            return self._process.wait()
        finally:
            self.stop()

    def stop(self) -> None:
        """It has stopped, in order."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def forget(self) -> None:
        """In a forked child: it is the parent's, and ends with the parent."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.returncode = 0

    def said(self) -> str:
        """The end of what it wrote to the log."""
        with self._log.open("rb") as log:
            log.seek(self._begins_at)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


def _job(place: Place, command: Sequence[str]) -> str:
    who = place.account and asdict(place.account)
    stop = place.command("pg_ctl", "stop", "-m", "fast", "-D", str(place.cluster))
    lock = str(place.folder / "server.lock")
    return json.dumps({"command": command, "lock": lock, "stop": stop, **(who or {})})


def _environment() -> dict[str, str]:
    """Ours, without the variables that PostgreSQL would take orders from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}
