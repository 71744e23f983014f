"""The files of MovieLens as items, users and events: one reader a kind of file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import cast

from indexer import wording
from indexer.errors import ImportFailed
from indexer.importing import values
from indexer.importing.loading import Item
from indexer.importing.report import Job
from indexer.importing.sources import Source
from indexer.interactions import Interaction, User

EVENT = "rating"

GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)
NO_GENRE = {"unknown", "(no genres listed)", ""}

OCCUPATIONS_1M = (
    *("other", "academic/educator", "artist", "clerical/admin", "college/grad student"),
    *("customer service", "doctor/health care", "executive/managerial", "farmer", "homemaker"),
    *("K-12 student", "lawyer", "programmer", "retired", "sales/marketing", "scientist"),
    *("self-employed", "technician/engineer", "tradesman/craftsman", "unemployed", "writer"),
)

Line = tuple[str, Sequence[str]]  # place ("u.data, line 7") and fields
Named = tuple[str, dict[str, str]]  # place and fields by column
Files = Mapping[str, Source]


# -- 100K: u.item, u.user, u.data ------------------------------------------------------------------


def items_100k(source: Source, job: Job) -> Iterator[Item]:
    """id|title|release date|video date|address|19 genre flags."""
    for place, fields in _split(source, job, "|", 5 + len(GENRES_100K)):
        flags = zip(GENRES_100K, fields[5:], strict=True)
        genres = [genre for genre, flag in flags if flag == "1"]
        yield from _film(job, place, fields[0], fields[1], genres=genres)


def users_100k(source: Source, job: Job) -> Iterator[User]:
    """id|age|gender|occupation|zip code."""
    names = ("age", "gender", "occupation", "zip_code")
    for place, (key, *features) in _split(source, job, "|", 5):
        yield from _person(job, place, key, dict(zip(names, features, strict=True)))


def events_100k(source: Source, job: Job, _: Files) -> Iterator[Interaction]:
    return _ratings(job, _split(source, job, "\t", 4))


# -- 1M and 10M: movies.dat, users.dat, ratings.dat ------------------------------------------------


def items_dat(source: Source, job: Job) -> Iterator[Item]:
    """id::title::genre|genre."""
    for place, (key, title, genres) in _split(source, job, "::", 3):
        yield from _film(job, place, key, title, genres=genres.split("|"))


def users_dat(source: Source, job: Job) -> Iterator[User]:
    """id::gender::age::occupation code::zip code. The age is the lower end of a bracket; 1 means
    under 18."""
    for place, (key, gender, age, code, zip_code) in _split(source, job, "::", 5):
        known = code.isdecimal() and int(code) < len(OCCUPATIONS_1M)
        occupation = OCCUPATIONS_1M[int(code)] if known else ""
        features = {"age": age, "gender": gender, "occupation": occupation, "zip_code": zip_code}
        yield from _person(job, place, key, features)


def events_dat(source: Source, job: Job, _: Files) -> Iterator[Interaction]:
    return _ratings(job, _split(source, job, "::", 4))


def events_ranked(source: Source, job: Job, files: Files) -> Iterator[Interaction]:
    """Ratings whose fourth field is the position within the user's history, from 0. The times are
    made: each user's last is the real one, each rating before it a second earlier."""
    job.note(
        f"{source.file_name} has ranks instead of times: times were made from them, a second "
        "apart, up to each user's last one. Orders within a user are real, times between users "
        "are not."
    )
    table = _table(files["last_timestamps.csv"], job, needs=("user_id", "last_timestamp"))
    last = {row["user_id"]: row["last_timestamp"] for _, row in table}
    highest = _highest_ranks(source)
    for place, fields in _split(source, job, "::", 4):
        user, item, rating, rank = fields
        if not rank.isdecimal() or user not in last:
            reason = "the rank is not a whole number" if user in last else "no last time is known"
            job.refuse(place, reason, " ".join(fields))
            continue
        earlier = timedelta(seconds=highest[user] - int(rank))
        for event in _rating(job, place, (user, item, rating, last[user])):
            yield event._replace(occurred_at=event.occurred_at - earlier)


def _highest_ranks(source: Source) -> dict[str, int]:
    highest: dict[str, int] = {}
    for line in source.text("latin-1"):
        user, _, rest = line.partition("::")
        rank = rest.rpartition("::")[2].strip()
        if rank.isdecimal():
            highest[user] = max(highest.get(user, 0), int(rank))
    return highest


# -- latest, 20M, 25M, 32M: movies.csv, ratings.csv ------------------------------------------------


def items_csv(source: Source, job: Job) -> Iterator[Item]:
    for place, row in _table(source, job, needs=("movieId", "title", "genres")):
        genres = row["genres"].split("|")
        yield from _film(job, place, row["movieId"], row["title"], genres=genres)


def events_csv(source: Source, job: Job, _: Files) -> Iterator[Interaction]:
    names = ("userId", "movieId", "rating", "timestamp")
    rows = _table(source, job, needs=names)
    return _ratings(job, ((place, [row[name] for name in names]) for place, row in rows))


# -- typed TSV: NAME.item, NAME.user, NAME.inter ---------------------------------------------------


def items_typed(source: Source, job: Job) -> Iterator[Item]:
    for place, row in _typed(source, job, needs=("item_id",)):
        title = row.get("movie_title", row.get("title", ""))
        genres = row.get("class", row.get("genre", row.get("genres", ""))).split()
        year = values.year(row.get("release_year", ""))
        yield from _film(job, place, row["item_id"], title, genres=genres, year=year)


def users_typed(source: Source, job: Job) -> Iterator[User]:
    for place, row in _typed(source, job, needs=("user_id",)):
        yield from _person(job, place, row.pop("user_id"), row)


def events_typed(source: Source, job: Job, _: Files) -> Iterator[Interaction]:
    names = ("user_id", "item_id", "rating", "timestamp")
    rows = _typed(source, job, needs=names)
    return _ratings(job, ((place, [row[name] for name in names]) for place, row in rows))


# -- lines into fields -----------------------------------------------------------------------------


def _split(source: Source, job: Job, separator: str, width: int) -> Iterator[Line]:
    """Lines of `width` fields (0: any number); others are refused."""
    for number, line in enumerate(source.text(source.encoding()), start=1):
        place = f"{source.file_name}, line {number}"
        fields = line.rstrip("\r\n").split(separator)
        if len(fields) == width or width == 0:
            yield place, fields
        elif line.strip():
            job.refuse(place, "wrong number of fields", line.strip())


def _table(source: Source, job: Job, *, needs: Iterable[str]) -> Iterator[Named]:
    """Rows of a CSV file. Raises ImportFailed when a column is missing."""
    reader = csv.reader(source.text(source.encoding()), strict=True)

    def lines() -> Iterator[Line]:
        while True:
            place = f"{source.file_name}, line {reader.line_num + 1}"
            try:
                yield place, next(reader)
            except csv.Error as cause:
                job.refuse(place, f"not CSV ({cause})")
            except StopIteration:
                return

    return _named(source, job, lines(), needs)


def _typed(source: Source, job: Job, *, needs: Iterable[str]) -> Iterator[Named]:
    """Rows of a typed TSV file, the types cut off the names of its columns."""
    return _named(source, job, _split(source, job, "\t", 0), needs)


def _named(
    source: Source, job: Job, lines: Iterator[Line], needs: Iterable[str]
) -> Iterator[Named]:
    _, first = next(lines, ("", ()))
    header = [name.partition(":")[0].strip() for name in first]
    missing = [name for name in needs if name not in header]
    if missing:
        raise ImportFailed(
            f"{source.name}, line 1: there is no column {missing[0]!r}. "
            f"It has {wording.line(wording.listed(header)) or 'none'}."
        )
    for place, fields in lines:
        if len(fields) == len(header):
            yield place, dict(zip(header, fields, strict=True))
        elif any(fields):
            job.refuse(place, "wrong number of fields", fields[0])


# -- fields into rows: one, or none and a refusal --------------------------------------------------


def _ratings(job: Job, lines: Iterable[Line]) -> Iterator[Interaction]:
    for place, fields in lines:
        yield from _rating(job, place, fields)


def _rating(job: Job, place: str, fields: Sequence[str]) -> Iterator[Interaction]:
    """An event out of user, item, rating, Unix time."""
    user, item, rating, at = fields
    try:
        yield Interaction(
            values.key(user), values.key(item), values.moment(at), EVENT, values.number(rating)
        )
    except values.BadValue as cause:
        job.refuse(place, str(cause), " ".join(fields))


def _film(
    job: Job, place: str, key: str, title: str, *, genres: Iterable[str], year: int | None = None
) -> Iterator[Item]:
    """An item out of a title such as "Matrix, The (1999)" and its genres."""
    name, titled_year = values.film(values.text(title, job))
    known = [values.text(genre, job) for genre in genres if genre not in NO_GENRE]
    attributes = {"genres": known, "year": year or titled_year}
    try:
        yield Item(values.key(key), name or None, None, attributes)
    except values.BadValue as cause:
        job.refuse(place, str(cause), title)


def _person(job: Job, place: str, key: str, fields: Mapping[str, str]) -> Iterator[User]:
    features: dict[str, object] = {name: field or None for name, field in fields.items()}
    if "age" in fields:
        features["age"] = _age(fields["age"], job)
    try:
        stored = cast("dict[str, object]", values.storable(features, job))
        yield User(values.key(key), stored)
    except values.BadValue as cause:
        job.refuse(place, str(cause), " ".join(fields.values()))


def _age(text: str, job: Job) -> float | None:
    try:
        return values.number(text)
    except values.BadValue:
        job.mend("an age that is not a number was left out")
        return None


Items = Callable[[Source, Job], Iterator[Item]]
Users = Callable[[Source, Job], Iterator[User]]
Events = Callable[[Source, Job, Files], Iterator[Interaction]]
