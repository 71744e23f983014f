"""MovieLens in each shape that it comes in, told apart by the files that are there.

| shape | files |
|---|---|
| 100K, original | u.data u.item [u.user] |
| 1M and 10M, original | ratings.dat movies.dat [users.dat] |
| 1M with ranks | ratings_rank.dat movies.dat last_timestamps.csv [users.dat] |
| "latest", 20M, 25M, 32M | ratings.csv movies.csv |
| typed TSV | NAME.inter NAME.item [NAME.user], columns as `name:type` |

The item files of the old ones are latin-1, the new ones UTF-8: whichever fits is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from indexer.errors import ImportFailed
from indexer.importing import loading, movielens_files, sources
from indexer.importing.report import Job, OnProgress, Report
from indexer.importing.sources import Source
from indexer.interactions import DEFAULT_CATALOG


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One way in which MovieLens comes: the files that tell it, and how each is read."""

    name: str
    items: str
    events: str
    read_items: movielens_files.Items
    read_events: movielens_files.Events
    users: str = ""
    read_users: movielens_files.Users | None = None
    needs: tuple[str, ...] = ()  # besides items and events

    @property
    def files(self) -> tuple[str, ...]:
        return (self.events, self.items, *self.needs)


SHAPES = (
    Shape(
        name="100K",
        items="u.item",
        events="u.data",
        users="u.user",
        read_items=movielens_files.items_100k,
        read_events=movielens_files.events_100k,
        read_users=movielens_files.users_100k,
    ),
    Shape(
        name="1M, .dat files",
        items="movies.dat",
        events="ratings.dat",
        users="users.dat",
        read_items=movielens_files.items_dat,
        read_events=movielens_files.events_dat,
        read_users=movielens_files.users_dat,
    ),
    Shape(
        name="1M, ranks instead of times",
        items="movies.dat",
        events="ratings_rank.dat",
        users="users.dat",
        read_items=movielens_files.items_dat,
        read_events=movielens_files.events_ranked,
        read_users=movielens_files.users_dat,
        needs=("last_timestamps.csv",),
    ),
    Shape(
        name="CSV",
        items="movies.csv",
        events="ratings.csv",
        read_items=movielens_files.items_csv,
        read_events=movielens_files.events_csv,
    ),
)

TYPED = Shape(
    name="typed TSV",
    items="item",
    events="inter",
    users="user",
    read_items=movielens_files.items_typed,
    read_events=movielens_files.events_typed,
    read_users=movielens_files.users_typed,
)


def load(
    engine: sa.Engine,
    path: Path,
    *,
    catalog: str = DEFAULT_CATALOG,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """Films, people and ratings are in `public.items`, `users` and `interactions`. `path` is a
    folder, a zip archive or wheel, or one of the files. Raises ImportFailed when no shape fits."""
    job = Job(strict=strict, on_progress=on_progress)
    shape, files = find(path)
    items, events, users = files[shape.items], files[shape.events], files.get(shape.users)
    people = None
    if users is None or shape.read_users is None:
        job.note("there is no file of users: their features stay as they are")
    else:
        people = job.follow(shape.read_users(users, job), "users", users)
    return loading.load(
        engine,
        job,
        source=f"MovieLens ({shape.name}) in {path}",
        catalog=catalog,
        items=job.follow(shape.read_items(items, job), "items", items),
        users=people,
        events=job.follow(shape.read_events(events, job, files), "interactions", events),
    )


def edition(path: Path) -> str:
    """Which edition of MovieLens lies at `path`, by its files. Raises ImportFailed when none."""
    return find(path)[0].name


def find(path: Path) -> tuple[Shape, dict[str, Source]]:
    """The shape that the files there have, and the files by name. Raises ImportFailed."""
    found = sources.folder(path)
    for shape in SHAPES:
        for files in _by_folder(found):
            if all(name in files for name in shape.files):
                return shape, files
    typed = _typed_files(path, found)
    if typed:
        return TYPED, typed
    names = ", ".join(sorted({one.file_name for one in found})[:12]) or "nothing"
    shapes = [shape.files for shape in SHAPES] + [tuple(f"NAME.{one}" for one in TYPED.files)]
    wanted = "; or ".join(" and ".join(files) for files in shapes)
    raise ImportFailed(
        f"{path} does not look like MovieLens. It needs {wanted}. There is: {names}."
    )


def _by_folder(found: Iterable[Source]) -> list[dict[str, Source]]:
    folders: dict[str, dict[str, Source]] = {}
    for source in found:
        place = source.name[: -len(source.file_name)]
        folders.setdefault(place, {})[source.stem] = source
    return list(folders.values())


def _typed_files(path: Path, found: Iterable[Source]) -> dict[str, Source]:
    """The typed files of one data set by their ending."""
    named: dict[str, dict[str, Source]] = {}
    for source in found:
        stem, _, ending = source.stem.rpartition(".")
        if ending in {*TYPED.files, TYPED.users}:
            named.setdefault(stem, {})[ending] = source
    whole = {stem: files for stem, files in named.items() if {*TYPED.files} <= files.keys()}
    if len(whole) > 1:
        raise ImportFailed(f"{path} holds several data sets: {', '.join(whole)}. Name a folder.")
    return next(iter(whole.values())) if whole else {}
