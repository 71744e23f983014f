"""A catalog's description: what to read, by which key, what the towers see, what can be filtered.

Written as TOML (`load`), checked here for everything that can be known without a database; what
only the database knows (do the table and its columns exist?) `catalog.attach` checks.
`docs/catalogs.md` explains the file to its readers.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from encoders.types import Feature, FeatureKind
from indexer import sayable, wording
from indexer.errors import SpecError
from indexer.filters import FieldKind

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # also of an alias, by default the same
FIELD = re.compile(r"[^\W_][\w-]{0,62}")  # no dots: a field's name is one step of a payload path
SPEC_BYTES = 1_000_000
DEPTH_MAX = 8  # levels of tables and lists
NAMES_MAX = 1_000  # features, filters, or returned fields: PostgreSQL's tables end at 1,600 columns
TABLE_MAX = 300  # characters; PostgreSQL's names end at 63 bytes each
PATH_MAX = 32  # keys of JSON into each other
WATCHES_MAX = 100
PROBLEMS_SHOWN = 10

_IDENTIFIER = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^".\s][^".]*?))\s*(\.|\Z)')
_PLAIN = re.compile(r'[^".\s](?:[^".]*[^".\s])?')


class TableName(NamedTuple):
    """A table or view as PostgreSQL stores its name: no quotes, case as it is."""

    schema: str
    name: str

    def __str__(self) -> str:
        return ".".join(part if _is_plain(part) else _quoted(part) for part in self)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `table`, `schema.table`, or either part in double quotes. Raises ValueError."""
        parts: list[str] = []
        position, more = 0, True
        while more and len(text) <= TABLE_MAX and (found := _IDENTIFIER.match(text, position)):
            quoted, plain, dot = found.groups()
            parts.append(quoted.replace('""', '"') if quoted else plain)
            position, more = found.end(), dot == "."
        if more or position != len(text) or len(parts) not in (1, 2) or "\0" in text:
            raise ValueError(
                f"{wording.short(text)} is not the name of a table. Write table or schema.table, "
                'names with dots or spaces in double quotes: "my schema"."my table"'
            )
        return cls(*(["public", *parts][-2:]))


class Source(BaseModel):
    """Where a value is read: a column, then keys of its JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    path: tuple[str, ...] = ()

    @field_validator("column")
    @classmethod
    def _names_a_column(cls, column: str) -> str:
        if not column or "\0" in column:
            raise ValueError("a column's name is not empty and has no NUL")
        return column

    def __str__(self) -> str:
        return ".".join((self.column, *self.path))


class FeatureSource(Source):
    """One feature of the item tower."""

    kind: FeatureKind


class FieldSource(Source):
    """One field to filter by. A `geo` field is one JSON value {lat, lon}, or two numbers: then
    `column` and `path` are the latitude, `lon` is the longitude."""

    kind: FieldKind
    lon: Source | None = None

    @model_validator(mode="after")
    def _only_geo_is_two(self) -> Self:
        if self.lon is not None and self.kind != "geo":
            raise ValueError('"lat" and "lon" belong to kind "geo"')
        return self


class WatchSpec(BaseModel):
    """A table whose changes concern the catalog. `key` is one of its columns, or an SQL expression
    over a row of it, that yields the item's key (or an array of keys). `columns` are those that
    matter, None for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    key: str
    columns: tuple[str, ...] | None = None

    @property
    def table_name(self) -> TableName:
        return TableName.parse(self.table)

    @field_validator("table")
    @classmethod
    def _is_a_table(cls, text: str) -> str:
        return str(TableName.parse(text))

    @field_validator("key")
    @classmethod
    def _has_a_key(cls, key: str) -> str:
        if not key.strip() or "\0" in key:
            raise ValueError("it names a column, or is an SQL expression; it may not be empty")
        return key

    @field_validator("columns")
    @classmethod
    def _names_columns(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if columns is not None and not columns:
            raise ValueError("name at least one column, or leave `columns` out to watch all")
        return columns


class CatalogSpec(BaseModel):
    """The whole description. Frozen; equal descriptions dump to equal JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    table: str
    key: str
    features: dict[str, FeatureSource]
    filters: dict[str, FieldSource] = {}
    returned: dict[str, Source] = {}
    watch: tuple[WatchSpec, ...] = ()

    @property
    def table_name(self) -> TableName:
        return TableName.parse(self.table)

    @property
    def item_features(self) -> tuple[Feature, ...]:
        """What the item tower is given."""
        return tuple(Feature(name=name, kind=one.kind) for name, one in self.features.items())

    @property
    def fields(self) -> dict[str, FieldKind]:
        """What can be filtered by."""
        return {name: one.kind for name, one in self.filters.items()}

    @property
    def sources(self) -> dict[str, Source]:
        """Every source by the place in the file that names it, e.g. "filters.price"."""
        places: dict[str, Source] = {f"features.{name}": one for name, one in self.features.items()}
        for name, one in self.filters.items():
            places[f"filters.{name}"] = one
            if one.lon is not None:
                places[f"filters.{name}.lon"] = one.lon
        return places | {f"returned.{name}": one for name, one in self.returned.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the description reads, but for the key."""
        named = dict.fromkeys(source.column for source in self.sources.values())
        return tuple(column for column in named if column != self.key)

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError("the description is a table of names and values")
        raw = dict(cast("Mapping[str, Any]", given))
        sayable.check(raw, depth_max=DEPTH_MAX, place="the description", nul=False)
        for part in ("features", "filters"):
            raw[part] = _expanded(raw.get(part, {}), part)
        raw["returned"] = _returned(raw)
        return raw

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("use up to 100 letters, digits, '_', '-' and '.'")
        return name

    @field_validator("table")
    @classmethod
    def _is_a_table(cls, text: str) -> str:
        return str(TableName.parse(text))

    @field_validator("key")
    @classmethod
    def _has_a_key(cls, key: str) -> str:
        if not key or "\0" in key:
            raise ValueError("name the column that holds the items' keys")
        return key

    @field_validator("features", "filters", "returned")
    @classmethod
    def _have_names(cls, named: dict[str, Source]) -> dict[str, Source]:
        if len(named) > NAMES_MAX:
            raise ValueError(f"{len(named):,} names; the most is {NAMES_MAX:,}")
        for name in named:
            if name.startswith("_"):
                raise ValueError(
                    f"{wording.short(name)}: names that begin with '_' are reserved; rename it"
                )
            if not FIELD.fullmatch(name):
                raise ValueError(
                    f"{wording.short(name)}: use letters, digits, '_' and '-', and write where the "
                    f'value lies as {{ ..., from = "column.key" }}'
                )
        return named

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if not self.features:
            raise ValueError("features: name at least one, or the towers have nothing to read")
        for name in self.returned.keys() & self.filters.keys():
            field = self.filters[name]
            if field.lon is None and _place(self.returned[name]) != _place(field):
                raise ValueError(
                    f"returned.{name}: the filter of that name reads {field}, "
                    f"this one {self.returned[name]}; rename one of them"
                )
        if len(self.watch) > WATCHES_MAX:
            raise ValueError(f"watch: {len(self.watch):,} tables; the most is {WATCHES_MAX}")
        tables = [watch.table for watch in self.watch]
        for table in tables:
            if tables.count(table) > 1:
                raise ValueError(f"watch: {table} is named twice; make it one [[watch]]")
        return self


def load(path: Path) -> CatalogSpec:
    """The description that the file holds. Raises SpecError naming file, field and remedy."""
    try:
        if path.stat().st_size > SPEC_BYTES:
            raise SpecError(f"{path}: larger than {SPEC_BYTES:,} bytes; is it a catalog's TOML?")
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise SpecError(
            f"{path}: cannot be read ({cause.strerror or cause}). Give the path of a catalog's "
            "TOML file, or `items` for the built-in catalog."
        ) from cause
    except UnicodeDecodeError as cause:
        raise SpecError(f"{path}: not UTF-8 at byte {cause.start}. Save it as UTF-8.") from cause
    except (ValueError, RecursionError) as cause:
        raise SpecError(f"{path}: not TOML: {wording.line(cause)}") from cause
    return parse(raw, name=str(path))


def parse(raw: Mapping[str, object], *, name: str) -> CatalogSpec:
    """The description that a mapping holds; `name` is for messages. Raises SpecError."""
    try:
        return CatalogSpec.model_validate(raw)
    except ValidationError as cause:
        raise SpecError(f"{name}: {'; '.join(_problems(cause))}") from cause


def _problems(cause: ValidationError) -> list[str]:
    """Each as "field: what is wrong", one line."""
    said: list[str] = []
    for error in cause.errors(include_input=False, include_url=False)[:PROBLEMS_SHOWN]:
        place = wording.line(".".join(str(part) for part in error["loc"]))
        what = error["msg"].removeprefix("Value error, ")
        if error["type"] == "missing":
            what = "missing; every catalog has name, table, key and [features]"
        if error["type"] == "extra_forbidden":
            what = "unknown here; remove it or mend its spelling"
        said.append(f"{place}: {what}" if place else what)
    return said


def _expanded(given: object, part: str) -> object:
    """`name = "kind"` and `name = { kind, from }` as {kind, column, path}."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{part}: it is a table: [{part}] and one line per name")
    named = cast("Mapping[str, object]", given)
    return {name: _source(name, raw, f"{part}.{name}") for name, raw in named.items()}


def _source(name: str, raw: object, where: str) -> object:
    if isinstance(raw, str):
        return {"kind": raw, "column": name}
    if isinstance(raw, Source):
        return raw.model_dump()
    if not isinstance(raw, Mapping):
        raise ValueError(f'{where}: write {name} = "kind" or {{ kind = "...", from = "column" }}')
    source = dict(cast("Mapping[str, object]", raw))
    if "column" in source:  # our own dump
        return source
    places = [place for place in ("from", "lat", "lon") if place in source]
    if places and places not in (["from"], ["lat", "lon"]):
        raise ValueError(f"{where}: give `from`, or for two columns of a place `lat` and `lon`")
    if "lat" in source:
        source["lon"] = _column_and_path(source["lon"], where)
    at = [source.pop(place) for place in ("from", "lat") if place in source]
    return {**source, **(_column_and_path(at[0], where) if at else {"column": name})}


def _returned(raw: Mapping[str, Any]) -> object:
    """A list of places, or `name = place`; left out, all that features and filters read."""
    given: object = raw.get("returned")
    if given is None:
        both: dict[str, dict[str, object]] = {**raw["features"], **raw["filters"]}
        return {
            name: {key: one[key] for key in ("column", "path") if key in one}
            for name, one in both.items()
            if "lon" not in one
        }
    if isinstance(given, list):
        places = [_column_and_path(at, "returned") for at in cast("list[object]", given)]
        return {[place["column"], *place["path"]][-1]: place for place in places}
    if not isinstance(given, Mapping):
        raise ValueError('returned: write a list of columns, or [returned] with name = "column"')
    named = cast("Mapping[str, object]", given)
    ours: dict[str, object] = {
        name: at for name, at in named.items() if isinstance(at, Mapping | Source)
    }
    rest = {name: at for name, at in named.items() if name not in ours}
    return ours | {name: _column_and_path(at, f"returned.{name}") for name, at in rest.items()}


def _column_and_path(at: object, where: str) -> dict[str, Any]:
    """ "column.key.key", or ["column", "key", ...] for names that have dots themselves."""
    steps: list[object] = []
    if isinstance(at, str):
        steps += at.split(".")
    elif isinstance(at, list):
        steps += cast("list[object]", at)
    names = [step for step in steps if isinstance(step, str) and step]
    if not names or len(names) < len(steps) or len(names) > PATH_MAX + 1:
        raise ValueError(
            f"{where}: {wording.short(cast('object', at))} is no place to read; "
            'write "column", "column.key" or ["column", "key"]'
        )
    return {"column": names[0], "path": names[1:]}


def _place(source: Source) -> tuple[str, tuple[str, ...]]:
    return source.column, source.path


def _is_plain(name: str) -> bool:
    return _PLAIN.fullmatch(name) is not None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


BUILTIN = parse(
    {
        "name": "items",
        "table": "public.items",
        "key": "id",
        "features": {
            "title": "text",
            "description": "text",
            "genres": {"kind": "categories", "from": "attributes.genres"},
            "categories": {"kind": "categories", "from": "attributes.categories"},
            "brand": {"kind": "category", "from": "attributes.brand"},
            "year": {"kind": "number", "from": "attributes.year"},
            "price": {"kind": "number", "from": "attributes.price"},
        },
        "filters": {
            "genres": {"kind": "keyword", "from": "attributes.genres"},
            "categories": {"kind": "keyword", "from": "attributes.categories"},
            "brand": {"kind": "keyword", "from": "attributes.brand"},
            "year": {"kind": "integer", "from": "attributes.year"},
            "price": {"kind": "float", "from": "attributes.price"},
        },
        "returned": {
            "title": "title",
            "genres": "attributes.genres",
            "categories": "attributes.categories",
            "brand": "attributes.brand",
            "year": "attributes.year",
            "price": "attributes.price",
        },
    },
    name="the built-in catalog",
)
