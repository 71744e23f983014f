"""CSV, JSON Lines and Parquet as rows by column name, each row with its place for messages."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

from indexer.errors import ImportFailed
from indexer.importing import sources
from indexer.importing.report import Job
from indexer.importing.sources import Source

FIELD_CHARACTERS = 64_000_000  # of one CSV field; Python's own limit is 131,072
LOOKED_AT = 200  # JSON objects that tell which columns there are
BATCH_ROWS = 5_000
FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}

Read = TypeVar("Read")
Record = tuple[str, Mapping[str, object]]  # place ("items.csv, line 7") and values by column


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file of rows. `rows` reads it from the start, as often as it is called. Where `textual`,
    every value is text and the column's type is still to be told."""

    source: Source
    columns: tuple[str, ...]
    rows: Callable[[Job], Iterator[Record]]
    textual: bool
    position: Callable[[], int]

    @property
    def size(self) -> int:
        return self.source.size


def table(path: Path, *, format: str | None = None, encoding: str | None = None) -> Table:
    """The file as a table, its format by its ending unless given. Raises ImportFailed for a file
    that is none of the formats, or has no columns."""
    source = sources.file(path)
    kind = format or FORMATS.get(Path(source.stem).suffix.lower())
    if kind in {"csv", "tsv"}:  # the separator is told by the first line
        return _csv(source, encoding or "utf-8")
    if kind == "jsonl":
        return _jsonl(source)
    if kind == "parquet":
        return _parquet(source)
    raise ImportFailed(
        f"{path}: {format or 'the ending'!r} is no known format. "
        "Say --format csv, tsv, jsonl or parquet (.csv, .tsv and .jsonl may be gzip-compressed)."
    )


# -- CSV -------------------------------------------------------------------------------------------


def _csv(source: Source, encoding: str) -> Table:
    _check_encoding(source, encoding)
    header_line = next(source.text(_marked(source, encoding)), "")
    delimiter = max("\t,;|", key=header_line.count)
    header = list(csv.reader([header_line], delimiter=delimiter))
    columns = tuple(_bare(name) for line in header for name in line)
    if not any(columns):
        raise ImportFailed(f"{source.name} is empty: its first line must name the columns.")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise ImportFailed(f"{source.name}, line 1: two columns are called {twice!r}. Rename one.")

    def rows(job: Job) -> Iterator[Record]:
        csv.field_size_limit(FIELD_CHARACTERS)
        text = source.text(_marked(source, encoding))
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        next(reader)
        return _csv_rows(source, job, reader, columns)

    return Table(source=source, columns=columns, rows=rows, textual=True, position=source.position)


def _csv_rows(source: Source, job: Job, reader: Any, columns: tuple[str, ...]) -> Iterator[Record]:
    while True:
        place = f"{source.file_name}, line {reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as cause:
            job.refuse(place, f"not CSV ({cause})")
            continue
        if fields is None:
            return
        if len(fields) == len(columns):
            yield place, dict(zip(columns, fields, strict=True))
        elif fields:
            said = f"{len(fields)} fields, {len(columns)} columns"
            job.refuse(place, "wrong number of fields", said)


def _bare(name: str) -> str:
    """A column's name without blanks and without a recommender library's `:token` types."""
    name = name.strip()
    bare, _, kind = name.partition(":")
    return bare if kind in {"token", "float", "token_seq", "float_seq"} else name


def _check_encoding(source: Source, encoding: str) -> None:
    try:
        "".encode(encoding)
    except LookupError:
        raise ImportFailed(
            f"{source.name}: there is no encoding {encoding!r}. Say utf-8, latin-1, cp1252, …"
        ) from None


def _marked(source: Source, encoding: str) -> str:
    """UTF-16 where its mark stands at the beginning, else what was said."""
    first = next(source.lines(), b"")
    return "utf-16" if first.startswith((b"\xff\xfe", b"\xfe\xff")) else encoding


# -- JSON Lines ------------------------------------------------------------------------------------


def _jsonl(source: Source) -> Table:
    def rows(job: Job) -> Iterator[Record]:
        for number, line in enumerate(source.lines(), start=1):
            place = f"{source.file_name}, line {number}"
            if line.strip():
                row = _object(line, place, job)
                if row is not None:
                    yield place, row

    first = next(source.lines(), b"").lstrip(b"\xef\xbb\xbf \t")
    if first.startswith(b"["):
        raise ImportFailed(
            f"{source.name} is one JSON array. Write one object a line (`jq -c '.[]' FILE`)."
        )
    columns: dict[str, None] = {}
    for _, row in islice(rows(Job()), LOOKED_AT):
        columns.update(dict.fromkeys(row))
    return Table(
        source=source,
        columns=tuple(columns),
        rows=rows,
        textual=False,
        position=source.position,
    )


def _object(line: bytes, place: str, job: Job) -> Mapping[str, object] | None:
    try:
        value: object = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        job.refuse(place, "not UTF-8", line[:60])
    except RecursionError:
        job.refuse(place, "JSON nested too deeply", line[:60])
    except ValueError as cause:
        reason = cause.msg if isinstance(cause, json.JSONDecodeError) else "a number is too long"
        job.refuse(place, f"not JSON ({reason})", line[:60].decode(errors="replace"))
    else:
        if isinstance(value, dict):
            return cast("Mapping[str, object]", value)
        job.refuse(place, "not a JSON object", value)
    return None


# -- Parquet ---------------------------------------------------------------------------------------


def _parquet(source: Source) -> Table:
    opened = _translated(source, lambda: _arrow("parquet").ParquetFile(source.path))
    columns = tuple(str(name) for name in opened.schema_arrow.names)
    total = max(int(opened.metadata.num_rows), 1)
    opened.close()
    done = 0

    def rows(job: Job) -> Iterator[Record]:
        del job
        nonlocal done
        done = 0
        with _arrow("parquet").ParquetFile(source.path) as reader:
            batches = reader.iter_batches(batch_size=BATCH_ROWS)
            while (batch := _translated(source, lambda: next(batches, None))) is not None:
                for values in _translated(source, lambda batch=batch: _records(batch)):
                    done += 1
                    yield f"{source.file_name}, row {done}", values

    return Table(
        source=source,
        columns=columns,
        rows=rows,
        textual=False,
        position=lambda: source.size * done // total,
    )


def _records(batch: Any) -> list[dict[str, object]]:
    """The batch's rows; nanoseconds are cut to microseconds, which is what Python can hold."""
    arrow = _arrow()
    cut = [
        column.cast(arrow.timestamp("us", tz=column.type.tz), safe=False)
        if arrow.types.is_timestamp(column.type) and column.type.unit == "ns"
        else column
        for column in batch.columns
    ]
    return arrow.RecordBatch.from_arrays(cut, names=batch.schema.names).to_pylist()


def _translated(source: Source, read: Callable[[], Read]) -> Read:
    try:
        return read()
    except (_arrow().ArrowException, OSError, ValueError, OverflowError) as cause:
        said = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise ImportFailed(f"{source.name} cannot be read as Parquet: {said}") from cause


def _arrow(part: str = "") -> Any:
    """pyarrow, or a part of it: imported late since it is heavy, untyped since it has no stubs."""
    return importlib.import_module(f"pyarrow.{part}" if part else "pyarrow")
