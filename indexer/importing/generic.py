"""Items, users and interactions out of any CSV, JSON Lines or Parquet file.

A CSV file says nothing about types, so each column is read once before: it becomes whole numbers,
numbers or truth values only where every value in it is one and would be written back the same
(a zip code with a leading zero stays text).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar, cast

import sqlalchemy as sa

from indexer.importing import columns as meanings
from indexer.importing import loading, reading, values
from indexer.importing.loading import Item
from indexer.importing.reading import Table
from indexer.importing.report import Job, OnProgress, Report
from indexer.interactions import DEFAULT_CATALOG, Interaction, User

PROSE = ("title", "description")
LISTS = ("genres", "categories", "tags")
SEPARATORS = "|;,"
INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?")
TRUTH = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}

Cell = Callable[[object], object]
Row = TypeVar("Row")


def load_items(
    engine: sa.Engine,
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    encoding: str | None = None,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """The rows of one file are in `public.items`. `columns` says field -> column where names do not
    tell (fields: key, title, description, genres, categories, tags, year, brand, price); a column
    without a meaning is an attribute."""
    job = Job(strict=strict, on_progress=on_progress)
    table = reading.table(path, format=format, encoding=encoding)
    meant = meanings.resolve(meanings.ITEMS, columns or {}, table.columns, str(path))
    rows = items_of(table, meant, _cells(table, job, meant), job)
    return loading.load(engine, job, source=str(path), items=job.follow(rows, "items", table))


def load_users(
    engine: sa.Engine,
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    encoding: str | None = None,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """The rows of one file are in `users`; every column but the key is a feature (field: key)."""
    job = Job(strict=strict, on_progress=on_progress)
    table = reading.table(path, format=format, encoding=encoding)
    meant = meanings.resolve(meanings.USERS, columns or {}, table.columns, str(path))
    cells = _cells(table, job, meant)
    rows = _there(_user(place, row, meant, cells, job) for place, row in table.rows(job))
    return loading.load(engine, job, source=str(path), users=job.follow(rows, "users", table))


def load_interactions(
    engine: sa.Engine,
    path: Path,
    *,
    catalog: str = DEFAULT_CATALOG,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    encoding: str | None = None,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """The rows of one file are in `interactions` (fields: user, item, occurred_at, event, value);
    columns without a meaning are not kept."""
    job = Job(strict=strict, on_progress=on_progress)
    table = reading.table(path, format=format, encoding=encoding)
    meant = meanings.resolve(meanings.INTERACTIONS, columns or {}, table.columns, str(path))
    ignored = [column for column in table.columns if column not in meant.values()]
    if ignored:
        job.note(f"columns that interactions have no place for: {', '.join(ignored)}")
    rows = _there(_interaction(place, row, meant, job) for place, row in table.rows(job))
    events = job.follow(rows, "interactions", table)
    return loading.load(engine, job, source=str(path), catalog=catalog, events=events)


def _there(rows: Iterable[Row | None]) -> Iterator[Row]:
    return (row for row in rows if row is not None)


# -- rows ------------------------------------------------------------------------------------------


def items_of(
    table: Table, meant: Mapping[str, str], cells: Mapping[str, Cell], job: Job
) -> Iterator[Item]:
    """An item for each usable row of the table."""
    for place, row in table.rows(job):
        try:
            yield _item(row, meant, cells, job)
        except values.BadValue as cause:
            job.refuse(place, str(cause), row.get(meant["key"]))


def _item(
    row: Mapping[str, object], meant: Mapping[str, str], cells: Mapping[str, Cell], job: Job
) -> Item:
    key = values.key(row.get(meant["key"]))
    attributes: dict[str, object] = {}
    names = {column: field for field, column in meant.items()}
    for column, value in row.items():
        field = names.get(column, column)
        if field not in {"key", *PROSE}:
            cell = cells.get(column, _MEANT.get(field, _same))
            attributes[values.text(field, job)] = values.storable(cell(value), job)
    says = tuple(field for field in PROSE if meant.get(field) in row)
    title, description = (_prose(row.get(meant.get(field, "")), job) for field in PROSE)
    return Item(key, title, description, attributes, says)


def _user(
    place: str,
    row: Mapping[str, object],
    meant: Mapping[str, str],
    cells: Mapping[str, Cell],
    job: Job,
) -> User | None:
    try:
        key = values.key(row.get(meant["key"]))
    except values.BadValue as cause:
        job.refuse(place, str(cause), row.get(meant["key"]))
        return None
    features = {
        values.text(column, job): values.storable(cells.get(column, _same)(value), job)
        for column, value in row.items()
        if column != meant["key"]
    }
    return User(key, features)


def _interaction(
    place: str, row: Mapping[str, object], meant: Mapping[str, str], job: Job
) -> Interaction | None:
    found = {field: row.get(column) for field, column in meant.items()}
    try:
        event = found.get("event")
        return Interaction(
            values.key(found.get("user")),
            values.key(found.get("item")),
            values.moment(found.get("occurred_at")),
            values.text(str(event), job) if event not in {None, ""} else None,
            values.number(found.get("value")),
        )
    except values.BadValue as cause:
        job.refuse(place, str(cause), " ".join(str(one) for one in found.values()))
        return None


# -- cells -----------------------------------------------------------------------------------------


def _same(value: object) -> object:
    return None if value == "" else value


def _prose(value: object, job: Job) -> str | None:
    """Text; a list of paragraphs becomes one text, nothing becomes None."""
    if isinstance(value, list):
        value = "\n".join(str(part) for part in cast("list[object]", value))
    found = values.text(str(value), job).strip() if value is not None else ""
    return found or None


def _labels(value: object) -> list[str]:
    """A list of labels, each once, out of a label, a list or a list of lists."""
    if value is None or value == "":
        return []
    if not isinstance(value, list | tuple):
        return [str(value).strip()]
    flat = (label for part in cast("list[object]", value) for label in _labels(part))
    return list(dict.fromkeys(label for label in flat if label))


def _label(value: object) -> str | None:
    return str(value).strip() or None if value is not None else None


_MEANT: Mapping[str, Cell] = {
    **dict.fromkeys(LISTS, _labels),
    "year": lambda value: None if value is None else values.year(value),
    "brand": _label,
    "price": values.price,
}


def _cells(table: Table, job: Job, meant: Mapping[str, str]) -> dict[str, Cell]:
    """How the text of each CSV column becomes a value; nothing for files that know their types."""
    if not table.textual:
        return {}
    names = {column: field for field, column in meant.items()}
    lists = {column for column, field in names.items() if field in LISTS}
    open_ = [column for column in table.columns if names.get(column, "") in {"", *LISTS}]
    kinds = {column: _Kind() for column in open_}
    for _, row in table.rows(Job()):
        for column, kind in kinds.items():
            kind.see(cast("str", row[column]))
    cells = {column: kinds[column].cell() for column in open_ if column not in lists}
    for column in lists:
        cells[column] = kinds[column].splitter()
        if kinds[column].separator:
            job.note(f"{column} was split at {kinds[column].separator!r}")
    return cells


class _Kind:
    """What the text of one column can be read as, after having seen all of it."""

    def __init__(self) -> None:
        self.integer = self.number = self.truth = self.json = True
        self.seen: set[str] = set()

    def see(self, text: str) -> None:
        if not text:
            return
        self.integer = self.integer and INTEGER.fullmatch(text) is not None
        self.number = self.number and NUMBER.fullmatch(text) is not None
        self.truth = self.truth and text in TRUTH
        self.json = self.json and text[0] in "[{" and _json(text) is not None
        self.seen.update(separator for separator in SEPARATORS if separator in text)

    @property
    def separator(self) -> str:
        return next((one for one in SEPARATORS if one in self.seen and not self.json), "")

    def cell(self) -> Cell:
        """The narrowest reading that fits every value seen."""
        for fits, read in (
            (self.integer, int),
            (self.number, float),
            (self.truth, TRUTH.__getitem__),
            (self.json, _json),
        ):
            if fits:
                return lambda value, read=read: read(cast("str", value)) if value != "" else None
        return _same

    def splitter(self) -> Cell:
        """A list of labels, by JSON or by the separator that occurs."""
        if self.json:
            return lambda value: _labels(_json(cast("str", value)) if value else None)
        separator = self.separator or "|"
        return lambda value: _labels([part.strip() for part in cast("str", value).split(separator)])


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
