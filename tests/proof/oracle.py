"""What must be true, worked out from the committed rows alone: a plain dict, and what follows.

Nothing here calls the code under test but the tower's own function of a title: hashes and payloads
are worked out again from their definition.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from hashing import HashingEncoder

from encoders.errors import EncodeFailed
from encoders.types import FloatArray, ItemRecord

POISON = "POISON"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the catalog's table. `title` is what the tower reads, `year` is payload only; a
    third column, `note`, is not watched."""

    title: str
    year: int | None = None

    @property
    def poisonous(self) -> bool:
        return POISON in self.title

    @property
    def payload(self) -> dict[str, object]:
        values = {"title": self.title, "year": self.year}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def content_hash(self) -> bytes:
        return _digest({"title": self.title})

    @property
    def payload_hash(self) -> bytes:
        return _digest(self.payload)


def _digest(value: Mapping[str, object]) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


Rows = dict[str, Row]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One statement of a user: what it does to the rows, and its SQL."""

    verb: str  # insert copy upsert update date touch delete truncate rename
    keys: tuple[str, ...] = ()
    row: Row = field(default_factory=lambda: Row(title="red"))
    to: str = ""  # the new key of a rename

    def apply(self, rows: Rows) -> None:
        """The rows as they are after the statement; the same that PostgreSQL makes of them."""
        match self.verb:
            case "insert" | "copy":
                rows.update({key: self.row for key in self.keys if key not in rows})
            case "upsert":
                rows.update({key: self.row for key in self.keys})
            case "update":
                rows.update({key: self.row for key in self.keys if key in rows})
            case "date":
                known = [key for key in self.keys if key in rows]
                rows.update({key: replace(rows[key], year=self.row.year) for key in known})
            case "touch":
                pass  # of a column that nobody watches
            case "delete":
                for key in self.keys:
                    rows.pop(key, None)
            case "truncate":
                rows.clear()
            case "rename":
                if self.keys[0] in rows and self.to not in rows:
                    rows[self.to] = rows.pop(self.keys[0])
            case _:
                raise AssertionError(self.verb)

    @property
    def touches(self) -> frozenset[str]:
        return frozenset({*self.keys, self.to} - {""})


@dataclass(kw_only=True)
class Oracle:
    """The committed rows, and what each open transaction would make of them."""

    rows: Rows = field(default_factory=Rows)

    def commit(self, changes: Iterable[Change]) -> None:
        for change in changes:
            change.apply(self.rows)

    def vector(self, row: Row, salt: str) -> FloatArray | None:
        """What the tower of that salt makes of the row; None when it refuses to."""
        try:
            record = ItemRecord(key="", features={"title": row.title})
            return HashingEncoder(salt=salt).encode_items([record]).vectors["hashing"][0]
        except EncodeFailed:
            return None
