"""One import under way, and what it did: progress, rows refused, values mended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from indexer.errors import ImportFailed
from indexer.interactions import Merged

EXAMPLES = 5  # refused rows that a report quotes
PROGRESS_ROWS = 5_000

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far one step is. `bytes_total` is 0 where it cannot be known."""

    step: str  # "items", "users", "interactions", "writing"
    rows: int
    bytes_read: int
    bytes_total: int


OnProgress = Callable[[Progress], None]


class Followed(Protocol):
    """A file of which `position` bytes of `size` have been read."""

    @property
    def size(self) -> int: ...
    @property
    def position(self) -> Callable[[], int]: ...


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an import did. Everything that was read is in it: `read` rows of each kind were added,
    changed, unchanged or repeated; `skipped` rows were refused, `mended` values changed, each by
    reason; `examples` quotes the first refused rows by file and line."""

    source: str
    items: Merged
    users: Merged
    interactions: Merged
    skipped: dict[str, int]
    mended: dict[str, int]
    examples: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


@dataclass(kw_only=True)
class Job:
    """An import under way. With `strict` the first row that would be refused ends it."""

    strict: bool = False
    on_progress: OnProgress | None = None
    skipped: Counter[str] = field(default_factory=Counter[str])
    mended: Counter[str] = field(default_factory=Counter[str])
    examples: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    started: float = field(default_factory=time.monotonic)

    def refuse(self, place: str, reason: str, said: object = "") -> None:
        """The row at `place` ("file, line 7") is left out and counted under `reason`."""
        quoted = repr(said)[:80] if said != "" else ""
        message = f"{place}: {reason}" + (f": {quoted}" if quoted else "")
        if self.strict:
            raise ImportFailed(
                f"{message}. Nothing was imported. Mend the row, or leave --strict out to skip it."
            )
        self.skipped[reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(message)

    def mend(self, what: str) -> None:
        """A value was changed on its way in."""
        self.mended[what] += 1

    def note(self, text: str) -> None:
        """Something the reader of the report should know."""
        if text not in self.notes:
            self.notes.append(text)

    def follow(self, rows: Iterable[Row], step: str, file: Followed) -> Iterator[Row]:
        """The same rows, out of that file; progress is told every few thousand of them and at the
        end."""
        count = 0
        for row in rows:
            yield row
            count += 1
            if count % PROGRESS_ROWS == 0:
                self.tell(step, count, file.position(), file.size)
        self.tell(step, count, file.size, file.size)

    def tell(self, step: str, rows: int, bytes_read: int, bytes_total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(
                Progress(step=step, rows=rows, bytes_read=bytes_read, bytes_total=bytes_total)
            )

    def report(
        self,
        source: str,
        *,
        items: Merged | None = None,
        users: Merged | None = None,
        interactions: Merged | None = None,
    ) -> Report:
        """What was done, now that it is done."""
        return Report(
            source=source,
            items=items or Merged(),
            users=users or Merged(),
            interactions=interactions or Merged(),
            skipped=dict(self.skipped),
            mended=dict(self.mended),
            examples=tuple(self.examples),
            notes=tuple(self.notes),
            seconds=time.monotonic() - self.started,
        )
