"""What whoever installs Twinspan gets: a data set imported, learnt, indexed and evaluated by the
commands that the README shows, a process each, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.recommenders import runs, worlds
from encoders.evaluate import Interval

NAME = "served.json"  # beside the folders of protocols
SHOWN = ("recall@10", "recall@20", "recall@20_unmasked")
HEADINGS = ("", "exact", "through the index", "loss", "relative")
EVERYBODY = 10_000_000


def do(data: str, *, threads: int | None) -> None:
    """Its file is there."""
    path = runs.RESULTS / data / NAME
    if path.exists():
        runs.say(f"{data}/{NAME} is there already")
        return
    folder = worlds.KEPT / data / "served"
    torch = ["--threads", str(threads)] if threads else []
    steps: Mapping[str, list[str]] = {
        "import": ["import", worlds.SOURCES[data], str(worlds.folder(data))],
        "train": ["train", "retrievalformer", *torch],
        "index": ["reindex", "--promote", "--here"],
        "evaluate": ["evaluate", "--through", "items", "--users", str(EVERYBODY), "--json"],
    }
    seconds: dict[str, float] = {}
    said = ""
    for step, command in steps.items():
        runs.say(f"{data}: twinspan {' '.join(command)}")
        began = time.monotonic()
        said = _twinspan(command, folder)
        seconds[step] = round(time.monotonic() - began, 1)
    kept = {"data": data, "seconds": seconds, **runs.circumstances(), "found": json.loads(said)}
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def section(folder: Path) -> str:
    """Of the page, for a data set whose files lie in `folder`; "" where it was not done."""
    if not (folder / NAME).exists():
        return ""
    kept = json.loads((folder / NAME).read_text(encoding="utf-8"))
    found, seconds = kept["found"], kept["seconds"]
    exact, through, loss = found["encoder"], found["through"]["index"], found["through"]["loss"]
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    for name in SHOWN:
        share = loss[name]["mean"] / exact[name]["mean"]
        lines.append(
            f"| {name} | {_text(exact[name])} | {_text(through[name])} "
            f"| {_text(loss[name], signed=True)} | {share:+.2%} |"
        )
    overlap = (found["through"][name]["mean"] for name in ("overlap@20", "overlap@20_unmasked"))
    return (
        f"Served, by the commands of the README as of commit `{kept['commit']}`, "
        f"{kept['ended'].partition(' ')[0]} ({found['users']:,} users asked; imported in "
        f"{seconds['import']:.0f} s, trained in {seconds['train'] / 60:.0f} min, indexed in "
        f"{seconds['index']:.0f} s). Of the exact first 20 the index has "
        f"{' and '.join(f'{share:.2%}' for share in overlap)}, without and with what was seen.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _twinspan(command: list[str], folder: Path) -> str:
    """What it says. Raises SystemExit where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "indexer.cli", *command],
        env={**os.environ, "TWINSPAN_DATA_DIR": str(folder.absolute())},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"twinspan {' '.join(command)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def _text(interval: Mapping[str, Any], *, signed: bool = False) -> str:
    one = Interval(**interval)
    form = "+.4f" if signed else ".4f"
    return f"{one.mean:{form}} ({one.low:{form}} to {one.high:{form}})"
