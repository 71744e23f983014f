"""Looking at processes, and giving their deaths a deadline: for tests of what must not be left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


def until(true: Callable[[], object], what: str = "it is true", *, seconds: float = 30) -> None:
    """Returns as soon as it is true; fails the test when that takes longer."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def below(folder: Path) -> list[int]:
    """Processes whose command line or working directory lies below the folder."""
    return [pid for pid, text in _processes() if str(folder) in text and pid != os.getpid()]


def postgres_below(folder: Path) -> list[int]:
    """Servers and their backends on clusters below the folder (backends work in the cluster)."""
    return [pid for pid in below(folder) if "postgres" in _name(pid)]


def _processes() -> Iterator[tuple[int, str]]:
    if sys.platform == "linux":
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                yield int(entry.name), _seen(entry)
        return
    listed = subprocess.run(
        ["ps", "-axo", "pid=,args="], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        pid, _, text = line.strip().partition(" ")
        yield int(pid), text


def _seen(entry: Path) -> str:
    try:
        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{command} {(entry / 'cwd').readlink()}" if command else ""
    except OSError:
        return ""


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return "postgres" if sys.platform != "linux" else ""


@contextmanager
def python(
    code: str, *arguments: str, env: dict[str, str] | None = None, wait: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs `code`; killed at the end, should it still run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that it prints; fails the test when it ends instead."""
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    if not said:
        process.wait(timeout=30)
        assert process.stderr is not None
        raise AssertionError(f"ended with {process.returncode}: {process.stderr.read()}")
    return said


def kill(process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> int:
    """It got the signal and has ended; its exit status."""
    process.send_signal(number)
    return process.wait(timeout=60)
