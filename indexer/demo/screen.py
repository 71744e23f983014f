"""What the demo shows: panels, tables and bars on a terminal, plain lines into a file or a pipe."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 120  # columns of what goes into a file


@dataclass(kw_only=True)
class Step:
    """A step under way: say where it stands, and at its end what it did."""

    bar: Progress | None = None
    result: str = ""
    _tasks: list[object] = field(default_factory=list[object])

    def at(self, done: float, total: float | None, text: str = "") -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done, total=total, said=text)


class Screen:
    """One console. `fancy` on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        plain = Console(width=PLAIN_WIDTH, highlight=False, soft_wrap=True)
        known = console or Console(highlight=False)
        self.console = known if known.is_terminal or console else plain
        self.fancy = self.console.is_terminal

    def headline(self, title: str, text: str) -> None:
        if self.fancy:
            self.console.print(Panel(text, title=f"[bold]{title}", border_style="cyan"))
        else:
            self._line(f"{title}: {text}")

    def chapter(self, title: str) -> None:
        self.console.print()
        if self.fancy:
            self.console.print(Rule(f"[bold cyan]{title}", align="left", style="cyan"))
        else:
            self._line(f"== {title}")

    def say(self, text: str) -> None:
        """A line of prose; Rich's markup counts."""
        self.console.print(text if self.fancy else Text.from_markup(text).plain)

    def note(self, text: str) -> None:
        """A remark that may be overlooked."""
        self.console.print(Text(text, style="dim italic"))

    def sql(self, statement: str) -> None:
        """The statement as it was run."""
        if self.fancy:
            self.console.print(Syntax(statement, "sql", word_wrap=True, background_color="default"))
        else:
            self._line(statement)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = ""
    ) -> None:
        """Columns whose name begins with # are aligned right, and lose the #."""
        if title:  # a table's own title would be wrapped to the table's width
            self.console.print(Text(title, style="bold"))
        table = Table(box=box.SIMPLE_HEAD if self.fancy else None, pad_edge=False)
        for column in columns:
            right = column.startswith("#")
            table.add_column(column.lstrip("#"), justify="right" if right else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)

    def verdict(self, text: str, *, good: bool) -> None:
        if self.fancy:
            style = "green" if good else "red"
            self.console.print(Panel(Text(text), border_style=style))
        else:
            self._line(text)

    @contextmanager
    def step(self, label: str) -> Generator[Step]:
        """A step with a bar while it runs and one line when it has ended."""
        began = time.monotonic()
        if not self.fancy:
            plain = Step()
            yield plain
            self._line(f"{label}: {plain.result} ({time.monotonic() - began:.1f} s)")
            return
        columns = (
            TextColumn(f"  {label:<10}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            bar.add_task(label, total=None, said="")
            shown = Step(bar=bar)
            yield shown
        seconds = time.monotonic() - began
        self.console.print(f"[green]✓[/] {label:<10} {shown.result} [dim]{seconds:.1f} s[/]")

    def _line(self, text: str) -> None:
        self.console.print(Text(text))
