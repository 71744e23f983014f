"""How the command line speaks: tables and JSON on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from io import StringIO
from pathlib import Path
from typing import Annotated, cast

import typer

from indexer.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]

PIPED_WIDTH = 200  # columns of a table that goes into a file or a pipe
PROGRESS_STEP_S = 0.1


def json_document(value: object) -> None:
    """One JSON document on stdout, also for dataclasses, times and paths."""
    print(json.dumps(value, default=plain, indent=2, ensure_ascii=not _is_unicode()))


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    empty: str = "nothing",
) -> None:
    """A table on stdout; numbers are aligned right. Without rows, the line `empty`."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        print(empty)
        return
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        values = [row[number] for row in rows if row[number] is not None]
        numeric = bool(values) and all(isinstance(value, int | float) for value in values)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell(value)) for value in row))
    if sys.stdout.isatty():
        Console().print(drawn)
        return
    plain = Console(width=PIPED_WIDTH, file=StringIO())
    plain.print(drawn)
    lines = cast("StringIO", plain.file).getvalue().splitlines()
    print("\n".join(line.rstrip() for line in lines).strip("\n"))


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in cast("Sequence[object]", value))
    return " ".join(str(value).split())


def facts(values: Mapping[str, object]) -> None:
    """Name and value, a line each."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        print(f"{name:<{width}}  {cell(value)}")


def note(text: str) -> None:
    """A remark for the person at the terminal: on stderr, so that stdout stays data."""
    print(text, file=sys.stderr)


def confirmed(question: str) -> bool:
    """Whether the person at the terminal says yes. Raises UsageError where nobody is there."""
    print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
        raise UsageError("nobody is there to answer: say --yes.")
    return answer.strip().lower() in {"y", "yes"}


class Bar:
    """One progress bar: say where it stands, as often as you like."""

    def __init__(self, show: object = None, task: object = None) -> None:
        self._show = show
        self._task = task

    def at(self, done: float, total: float | None = None, label: str | None = None) -> None:
        """It stands at `done` of `total`; None leaves the total as it is."""
        from rich.progress import Progress, TaskID

        if isinstance(self._show, Progress):
            self._show.update(
                TaskID(cast("int", self._task)),
                completed=done,
                total=total,
                description=label,
            )

    def say(self, text: str) -> None:
        """A line that stays, above the bar; without one, too."""
        from rich.progress import Progress

        if isinstance(self._show, Progress):
            self._show.console.print(text, markup=False, highlight=False)
        else:
            note(text)


@contextmanager
def progress(label: str, total: float | None = None) -> Generator[Bar]:
    """A bar on stderr for the length of the block; nothing where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bar()
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as show:
        yield Bar(show, show.add_task(label, total=total))


def plain(value: object) -> object:
    """What JSON lacks, in types that it has."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    if isinstance(value, set | frozenset | tuple):
        return list(cast("Sequence[object]", value))
    if isinstance(value, Path):
        return str(value)
    item = getattr(value, "item", None)  # numpy's scalars
    if callable(item):
        return item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
