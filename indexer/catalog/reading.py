"""Reading a catalog's rows by key: one query a batch, rows apart where one of them fails.

Every transaction pins what a session's settings could change in the text of keys and times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import UserDefinedType

from indexer import database
from indexer.catalog import rows
from indexer.catalog.relations import PINNED
from indexer.catalog.spec import CatalogSpec
from indexer.errors import CatalogError, DatabaseError

ARGUMENTS = 90  # of one json_build_array; PostgreSQL takes 100

Statement = sa.Select[*tuple[Any, ...]]

# Classes of errors that one row's values can cause, in a view's expressions above all.
_ROW_ERRORS = ("21", "22", "23", "38", "39", "54", "P0")
_GONE = ("42703", "42P01", "3F000", "42883", "42804", "42846")  # column, table, schema; types

# With row_security off, a policy that would hide rows from us is an error. Hidden rows would look
# like deleted ones, and leave the index.
_PIN = sa.text(
    "SELECT "
    + ", ".join(
        f"set_config('{name}', '{value}', true)"
        for name, value in {**PINNED, "row_security": "off"}.items()
    )
)


class _Named(UserDefinedType[str]):
    """A type by its name in SQL."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row's features and payload; both are empty where `error` says why."""

    features: Mapping[str, object] = field(default_factory=dict[str, object])
    payload: Mapping[str, object] = field(default_factory=dict[str, object])
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Select:
    """What is read, and the statements for it. `key_type` is SQL's name of the key's type."""

    spec: CatalogSpec
    key_type: str

    @property
    def table(self) -> sa.FromClause:
        """Under an alias, so that every column is written with it: ORDER BY takes a bare name for
        that of a result, here the key's text, which sorts otherwise than the key."""
        schema, name = self.spec.table_name
        table = sa.table(
            sa.quoted_name(name, quote=True),
            *[_column(column) for column in (self.spec.key, *self.spec.columns)],
            schema=sa.quoted_name(schema, quote=True),
        )
        return table.alias("item")

    def by_keys(self) -> Statement:
        """The rows of `:keys`: the key's text, and JSON arrays of `rows.Shape.places`."""
        table = self.table
        places = rows.shape(self.spec).places
        values = [_value(table.c[column], path) for column, path in places]
        arrays = [
            sa.cast(sa.func.json_build_array(*values[start : start + ARGUMENTS]), sa.Text)
            for start in range(0, len(values), ARGUMENTS)
        ]
        keys = sa.cast(sa.bindparam("keys", type_=ARRAY(sa.Text)), ARRAY(sa.Text))
        typed = sa.cast(keys, _Named(f"{self.key_type}[]"))
        key = table.c[self.spec.key]
        return sa.select(_text(key), *arrays).where(key == sa.any_(typed))

    def those_of(self) -> Statement:
        """The text of those of `:keys` that have a row."""
        key = self.table.c[self.spec.key]
        keys = sa.cast(sa.bindparam("keys", type_=ARRAY(sa.Text)), ARRAY(sa.Text))
        typed = sa.cast(keys, _Named(f"{self.key_type}[]"))
        return sa.select(_text(key)).where(key == sa.any_(typed))

    def keys_after(self, after: str | None, limit: int) -> Statement:
        """The next keys' text, in the key's own order, which its index gives."""
        key = self.table.c[self.spec.key]
        statement = sa.select(_text(key)).order_by(key).limit(limit)
        if after is None:
            return statement.where(key.is_not(None))
        return statement.where(key > sa.cast(sa.cast(after, sa.Text), _Named(self.key_type)))


def read(engine: sa.Engine, select: Select, keys: Iterable[str]) -> dict[str, Row]:
    """The rows of these keys, by key. A row that makes the query fail has an `error`."""
    asked = {key for key in keys if _possible(key)}
    if not asked:
        return {}
    try:
        found = _fetch(engine, select, select.by_keys(), {"keys": list(asked)})
    except DatabaseError as cause:
        if not _state(cause).startswith(_ROW_ERRORS):
            raise
        return _read_apart(engine, select, sorted(asked), cause)
    shape, times = rows.shape(select.spec), Counter(key for key, *_ in found)
    return {
        key: _row(shape, documents) if times[key] == 1 else _ambiguous(select, times[key])
        for key, *documents in found
        if key in asked
    }


def existing(engine: sa.Engine, select: Select, keys: Iterable[str]) -> set[str]:
    """Those of the keys that have a row."""
    asked = {key for key in keys if _possible(key)}
    if not asked:
        return set()
    try:
        found = _fetch(engine, select, select.those_of(), {"keys": list(asked)})
    except DatabaseError as cause:
        if not _state(cause).startswith(_ROW_ERRORS):
            raise
        return set(read(engine, select, asked))
    return asked.intersection(key for (key,) in found)


def scan(engine: sa.Engine, select: Select, *, after: str | None, limit: int) -> list[str]:
    """The next keys behind `after`."""
    return [key for (key,) in _fetch(engine, select, select.keys_after(after, limit), {})]


def count(engine: sa.Engine, select: Select) -> int:
    """How many rows have a key."""
    statement = sa.select(sa.func.count(select.table.c[select.spec.key]))
    return _fetch(engine, select, statement, {})[0][0]


def _fetch(
    engine: sa.Engine, select: Select, statement: Statement, parameters: dict[str, object]
) -> Sequence[sa.Row[*tuple[Any, ...]]]:
    try:
        with database.begin(engine) as connection:
            connection.execute(_PIN)
            return connection.execute(statement, parameters).all()
    except DatabaseError as cause:
        if _state(cause) in _GONE:
            raise CatalogError(
                f"catalog {select.spec.name!r} does not fit {select.spec.table} any more: "
                f"{_said(cause)}. Mend its description and attach it again."
            ) from cause
        raise


def _read_apart(
    engine: sa.Engine, select: Select, keys: Sequence[str], cause: DatabaseError
) -> dict[str, Row]:
    """The rows of keys that cannot be read together: halves, down to the one that fails."""
    if len(keys) > 1:
        middle = len(keys) // 2
        halves = (keys[:middle], keys[middle:])
        return {key: row for half in halves for key, row in read(engine, select, half).items()}
    if not _is_key(engine, select, keys[0]):
        return {}
    return {keys[0]: Row(error=f"the row cannot be read: {_said(cause)}")}


def _is_key(engine: sa.Engine, select: Select, key: str) -> bool:
    """Whether the text is one that the key's type can have at all."""
    typed = sa.cast(sa.cast(key, sa.Text), _Named(select.key_type))
    try:
        _fetch(engine, select, sa.select(sa.cast(typed, sa.Text)), {})
    except DatabaseError as cause:
        if _state(cause).startswith(_ROW_ERRORS):
            return False
        raise
    return True


def _row(shape: rows.Shape, documents: Sequence[str | None]) -> Row:
    try:
        features, payload = rows.fields(shape, documents)
    except rows.WrongValue as cause:
        return Row(error=str(cause))
    return Row(features=features, payload=payload)


def _ambiguous(select: Select, times: int) -> Row:
    return Row(error=f"{select.spec.table} has {times} rows of this key; it must have one")


def _column(name: str) -> sa.ColumnClause[Any]:
    return sa.column(sa.quoted_name(name, quote=True))


def _text(key: sa.ColumnElement[Any]) -> sa.Label[str]:
    return sa.cast(key, sa.Text).label("item_key")


def _value(column: sa.ColumnElement[Any], path: Sequence[str]) -> sa.ColumnElement[Any]:
    return column.op("#>")(sa.cast(list(path), ARRAY(sa.Text))) if path else column


def _possible(key: str) -> bool:
    """Whether PostgreSQL can hold this text."""
    return not rows.UNSTORABLE.search(key)


def _state(cause: DatabaseError) -> str:
    return getattr(getattr(cause.__cause__, "orig", None), "sqlstate", None) or ""


def _said(cause: DatabaseError) -> str:
    return str(getattr(cause.__cause__, "orig", cause)).strip().splitlines()[0]
