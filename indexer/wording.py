"""Other people's values in our messages: short, on one line, whatever they are."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

NAMES_SHOWN = 20
LENGTH = 60  # characters of one text
LINE = 1_000  # and of a whole message that somebody else wrote


class _Short(reprlib.Repr):
    """Never fails: Python itself refuses to write out an integer of thousands of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = LENGTH
        self.maxlevel = 3

    def repr1(self, x: object, level: int) -> str:
        try:
            return super().repr1(x, level)
        except Exception:  # noqa: BLE001 - somebody's __repr__ may raise anything
            return f"<{type(x).__name__}>"


_SHORT = _Short()


def short(value: object) -> str:
    """As Python writes it, its beginning and end where it is long or deep; one line of UTF-8."""
    return " ".join(_SHORT.repr(value).split()).encode("utf-8", "backslashreplace").decode()


def line(text: object) -> str:
    """On one line of UTF-8, its beginning where it is long."""
    said = " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode()
    return said if len(said) <= LINE else f"{said[: LINE - 1]}…"


def typed(value: object) -> str:
    """The same after the name of its type: `str 'abc'`."""
    return f"{type(value).__name__} {short(value)}"


def listed(names: Iterable[str]) -> str:
    """The first of these names, with commas, in their order."""
    known = list(names)
    more = ", …" if len(known) > NAMES_SHOWN else ""
    return ", ".join(known[:NAMES_SHOWN]) + more
