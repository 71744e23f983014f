"""Amazon-style data: `sequences.txt` ("user item item …", oldest first) and `items.jsonl[.gz]`.

There are no times in it, so they are made: each user's first event lies at the start of 2000, each
further one a second later. Where `time_gaps.txt` lies beside, it is as many days later as that
says, and events of one day are at one time: what such files list by item id has no order that is
known. Times between users mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from indexer.errors import ImportFailed
from indexer.importing import columns, generic, loading, reading, sources, values
from indexer.importing.report import Job, OnProgress, Report
from indexer.importing.sources import Source
from indexer.interactions import DEFAULT_CATALOG, Interaction

SEQUENCES, ITEMS, GAPS = "sequences.txt", "items.jsonl", "time_gaps.txt"
EVENT = "purchase"
START = datetime(2000, 1, 1, tzinfo=UTC)


def load(
    engine: sa.Engine,
    path: Path,
    *,
    catalog: str = DEFAULT_CATALOG,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """Items and purchases are in `public.items` and `interactions`. `path` is the folder of
    `sequences.txt` and `items.jsonl` (plain or .gz)."""
    job = Job(strict=strict, on_progress=on_progress)
    found = {source.stem: source for source in reversed(sources.folder(path))}
    missing = [name for name in (SEQUENCES, ITEMS) if name not in found]
    if missing:
        raise ImportFailed(f"{path}: there is no {missing[0]}. It needs {SEQUENCES}, {ITEMS}.")
    table = reading.table(found[ITEMS].path)
    meant = columns.resolve(columns.ITEMS, {"key": "id"}, table.columns, table.source.name)
    if "description" not in meant and "category_text" in table.columns:
        meant["description"] = "category_text"
    events = found[SEQUENCES]
    return loading.load(
        engine,
        job,
        source=f"Amazon-style data in {path}",
        catalog=catalog,
        items=job.follow(generic.items_of(table, meant, {}, job), "items", table),
        events=job.follow(_events(events, found.get(GAPS), job), "interactions", events),
    )


def _events(source: Source, gaps: Source | None, job: Job) -> Iterator[Interaction]:
    job.note(
        f"{source.file_name} has no times: they were made, from 2000-01-01 on, "
        + (f"with the days between events of {GAPS}." if gaps else "a second apart.")
        + " Times between users mean nothing."
    )
    days: Mapping[str, Sequence[int]] = _gaps(gaps) if gaps else {}
    seen: set[str] = set()
    for number, line in enumerate(source.text("utf-8"), start=1):
        user, *items = line.split() or [""]
        place = f"{source.file_name}, line {number}"
        if user in seen:
            job.refuse(place, "the user has a line already", user)
        elif user and not items:
            job.refuse(place, "the user has no items", user)
        elif user:
            seen.add(user)
            yield from _sequence(place, user, items, days.get(user, ()), job)


def _sequence(
    place: str, user: str, items: Sequence[str], gaps: Sequence[int], job: Job
) -> Iterator[Interaction]:
    if gaps and len(gaps) != len(items):
        job.mend("gaps that do not fit their sequence were left out")
        gaps = ()
    at = START
    for position, item in enumerate(items):
        at += timedelta(days=gaps[position]) if gaps else timedelta(seconds=1)
        try:
            yield Interaction(values.key(user), values.key(item), at, EVENT)
        except values.BadValue as cause:
            job.refuse(place, str(cause), item)


def _gaps(source: Source) -> Mapping[str, Sequence[int]]:
    """user -> days since the event before, 0 for the first."""
    gaps: dict[str, Sequence[int]] = {}
    for number, line in enumerate(source.text("utf-8"), start=1):
        user, *days = line.split() or [""]
        if not all(day.isdigit() for day in days):
            raise ImportFailed(
                f"{source.name}, line {number}: a gap is not a whole number of days."
            )
        gaps[user] = [int(day) for day in days]
    return gaps
