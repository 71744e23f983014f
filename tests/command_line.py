"""Commands as a user gives them: run in this process, or `twinspan up` beside them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DEADLINE_S = 60
GENRES = ("Comedy", "Drama", "Horror")


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of error, without what it begins with."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("error: ")


Twinspan = Callable[..., Said]


class up:  # reads as the command
    """`twinspan up` in a process of its own, in that folder, for the length of a block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "indexer.cli", "up"],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        said: list[str] = []
        for line in self._process.stderr:
            said.append(line)
            if "serving on" in line:
                return
        self._process.stderr.close()
        raise AssertionError(f"`twinspan up` ended with {self._process.wait()}: {said[-5:]}")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        assert self._process.stderr is not None
        remarks = self._process.stderr.read()
        assert self._process.wait(DEADLINE_S) == 0, remarks
        self._process.stderr.close()
