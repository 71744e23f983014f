"""Verifications as they are stored: how far each is, what it has seen, how it ended.

Owner of table `verifications`. Place and counts are saved together, so one that was interrupted
goes on where it was last saved and counts nothing twice. `once` is what a person asked for,
`continuous` a round of the standing check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, cast

import sqlalchemy as sa

from indexer import database, tables
from indexer.verify.comparison import Comparison, Options, restored
from indexer.verify.passing import DONE, Place

Mode = Literal["once", "continuous"]
KEPT = 50  # finished verifications of an index and a mode

_columns = tables.verifications.c


@dataclass(kw_only=True)
class Record:
    """One row. `finished_at` None: interrupted, or at work."""

    id: int
    index_id: int
    mode: Mode
    options: Options
    place: Place
    seen: Comparison
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    def as_dict(self) -> dict[str, object]:
        """What it has seen and how far it is, in types that JSON knows."""
        return {
            "verification": self.id,
            "phase": self.place.phase,
            "looked": self.place.looked,
            "finished": self.finished_at is not None,
            **self.seen.as_dict(),
        }


def begin(engine: sa.Engine, index_id: int, *, mode: Mode, options: Options) -> Record:
    """A new verification, at its start."""
    place = Place()
    values = {
        "index_id": index_id,
        "mode": mode,
        "options": asdict(options),
        "phase": place.phase,
        "cursor": _written(place),
    }
    with database.begin(engine) as connection:
        added = sa.insert(tables.verifications).values(values).returning(*_columns)
        return _record(connection.execute(added).mappings().one())


def save(engine: sa.Engine, record: Record) -> None:
    """Its place and counts are stored; it has finished where its place says so."""
    seen = record.seen.as_dict()
    values: dict[str, object] = {
        "phase": record.place.phase,
        "cursor": _written(record.place),
        "examples": seen.pop("examples"),
        "counts": seen,
        "updated_at": sa.func.now(),
    }
    if record.place.phase == DONE:
        values["finished_at"] = sa.func.now()
    with database.begin(engine) as connection:
        stored = connection.execute(
            sa.update(tables.verifications)
            .where(_columns.id == record.id)
            .values(values)
            .returning(_columns.updated_at, _columns.finished_at)
        ).one_or_none()
    if stored is not None:  # else its index was forgotten meanwhile
        record.updated_at, record.finished_at = stored


def latest(
    engine: sa.Engine, index_id: int, *, mode: Mode, unfinished: bool = False
) -> Record | None:
    """The newest of the index; with `unfinished` only if it was interrupted or is at work."""
    newest = (
        sa.select(*_columns)
        .where(_columns.index_id == index_id, _columns.mode == mode)
        .order_by(_columns.id.desc())
        .limit(1)
    )
    with database.begin(engine) as connection:
        row = connection.execute(newest).mappings().one_or_none()
    record = _record(row) if row is not None else None
    return None if record and unfinished and record.finished_at else record


def trim(engine: sa.Engine, *, kept: int = KEPT) -> int:
    """Of each index and mode only the newest are left. Returns how many are gone."""
    with database.begin(engine) as connection:
        return connection.execute(_TRIM, {"kept": kept}).rowcount


_TRIM = sa.text("""
    DELETE FROM indexer.verifications WHERE id IN (
        SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY index_id, mode ORDER BY id DESC) AS nth
            FROM indexer.verifications
        ) AS numbered
        WHERE nth > :kept
    )
""")


def _written(place: Place) -> str:
    """All of the place but its phase: the key it is at, and the keys that it will look at again."""
    return json.dumps(
        {"after": place.cursor, "waiting": list(place.waiting), "looked": place.looked}
    )


def _record(row: Mapping[Any, Any]) -> Record:
    said = json.loads(row["cursor"] or "{}")
    counts = cast("dict[str, Any]", {**row["counts"], "examples": row["examples"]})
    return Record(
        id=row["id"],
        index_id=row["index_id"],
        mode=row["mode"],
        options=Options(**row["options"]),
        place=Place(
            phase=row["phase"],
            cursor=said.get("after"),
            waiting=dict.fromkeys(said.get("waiting", ())),
            looked=said.get("looked", 0),
        ),
        seen=restored(counts),
        started_at=row["started_at"],
        updated_at=row["updated_at"],
        finished_at=row["finished_at"],
    )
