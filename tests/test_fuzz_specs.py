"""Generated descriptions of catalogs: refused by file, field and remedy, or really usable.

What is accepted on paper is attached to real tables with hostile names: then its triggers see
every write, its items can be read, and detaching leaves nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import hostile
import psycopg
import pytest
import sqlalchemy as sa
from conftest import Databases
from hypothesis import given
from psycopg import sql

from indexer import catalog, database
from indexer.catalog import spec
from indexer.catalog.spec import CatalogSpec
from indexer.errors import SpecError, TwinspanError

SCHEMA, TABLE, OTHER = 'Odd "Schema"', "items % of $1 :x", "$twinspan$"
COLUMNS = {
    "id": "text",
    'a"b': "text",
    "%s": "jsonb",
    ":x": "text",
    "$twinspan$": "text",
    "日本": "int",
    "key": "text",
    "item": "jsonb",
    "gone": "boolean",
    "op": "text",
    "twinspan_0": "text",
    "twinspan_keys": "text[]",
    "n": "numeric",
    "lat": "double precision",
    "x" * 63: "timestamptz",
    "bytes": "bytea",
}
FITTING = {
    "text": ("text", "category", "keyword"),
    "jsonb": ("text", "category", "keyword", "integer", "geo", "number", "bool", "datetime"),
    "int": ("number", "integer", "float", "category"),
    "numeric": ("number", "float"),
    "double precision": ("number", "float"),
    "boolean": ("bool", "category"),
    "text[]": ("categories", "keyword"),
    "timestamptz": ("datetime", "text"),
}
FEATURES = ("text", "category", "categories", "number")
EXPRESSIONS = (
    "id", 'a"b', "lower(id)", "id -- all of it", "id /* all", "ARRAY[id, id]", "(SELECT id)",
    "count(*)", "generate_series(1, 3)", "unnest(twinspan_keys)", "row_number() OVER ()", "NULL",
    "1); DELETE FROM public.precious; SELECT (1", 'id), ("key"', "id) AS a, (id", "$1", ":x", "%s",
    "id; SELECT 1", "id) FROM pg_class WHERE (true", "'$twinspan$'", "$$a$$", "1", "'a' || id",
    "(SELECT max(id) FROM public.precious)", "now()", "nope(id)", 'id COLLATE "C"', "*",
    "id::bytea", "ROW(id, id)", "'{}'::text[]", "ARRAY[[id], [id]]", "to_jsonb(id)", "E'\\'", "",
)  # fmt: skip


USABLE = {
    "id", 'a"b', ":x", "%s", "lower(id)", "id -- all of it", "ARRAY[id, id]", "(SELECT id)", "1",
    "NULL", "'$twinspan$'", "$$a$$", "'a' || id", "(SELECT max(id) FROM public.precious)", "now()",
    'id COLLATE "C"', "'{}'::text[]", "ARRAY[[id], [id]]", "id::bytea", "ROW(id, id)",
    "to_jsonb(id)",
}  # fmt: skip


def good(rng: random.Random) -> dict[str, Any]:
    """A description that fits the tables."""
    features = {f"f{n}": place(rng, FEATURES) for n in range(rng.randint(1, 4))}
    filters = {f"g{n}": place(rng, None) for n in range(rng.randint(0, 4))}
    made = {
        "name": rng.choice(["things", "a", "x" * 100, "1.-_"]),
        "table": str(spec.TableName(SCHEMA, TABLE)),
        "key": "id",
        "features": features,
        "filters": filters,
    }
    if rng.random() < 0.3:
        made["returned"] = rng.choice(
            [["n", "%s.a"], {"key": "key", "r": ["item", "a.b", "c"]}, []]
        )
    if rng.random() < 0.4:
        table = str(spec.TableName(SCHEMA, OTHER))
        made["watch"] = [{"table": table, "key": rng.choice(EXPRESSIONS)}]
    return made


def place(rng: random.Random, kinds: tuple[str, ...] | None) -> dict[str, Any]:
    while True:
        column = rng.choice([name for name in COLUMNS if name != "bytes"])
        fitting = [kind for kind in FITTING[COLUMNS[column]] if not kinds or kind in kinds]
        fitting = fitting if kinds else [kind for kind in fitting if kind not in FEATURES]
        if fitting:
            path = ["a.b", "c"] if COLUMNS[column] == "jsonb" and rng.random() < 0.5 else []
            return {"kind": rng.choice(fitting), "from": [column, *path]}


def said_value(rng: random.Random) -> Any:
    words = [*COLUMNS, *EXPRESSIONS, "text", "keyword", "geo", "public.precious", "pg_class", "x.y"]
    return rng.choice(words) if rng.random() < 0.5 else hostile.anything(rng)


def said_name(rng: random.Random) -> Any:
    names = ["name", "table", "key", "features", "filters", "returned", "watch", "columns", "from"]
    more = ["kind", "lat", "lon", "column", "path", "ok", "_fence"]
    return rng.choice([*names, *more]) if rng.random() < 0.6 else hostile.text(rng)


def described(rng: random.Random) -> Any:
    if rng.random() < 0.2:
        return good(rng)
    return hostile.mutated(rng, good(rng), value=said_value, names=said_name)


def read(load: Callable[[], CatalogSpec], name: str) -> CatalogSpec | None:
    """What was read; None where it was refused as it should be."""
    try:
        made = load()
    except SpecError as error:
        said = hostile.sentence(error)
        assert said.startswith(name), said
        assert "\n" not in said, said
        return None
    assert spec.parse(json.loads(made.model_dump_json()), name="again") == made
    return made


@hostile.times(1_200)
@given(rng=hostile.rngs)
def test_a_description_is_refused_by_name_or_survives_its_own_dump(rng: random.Random) -> None:
    raw = described(rng)
    read(lambda: spec.parse(raw, name="here"), "here")


@hostile.times(300)
@given(rng=hostile.rngs)
def test_a_description_in_a_file_is_refused_by_name_or_read(
    rng: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "catalog.toml"
    parts = described(rng)
    pairs = parts.items() if isinstance(parts, dict) else [("name", parts)]
    lines = [f"{json.dumps(str(name))} = {hostile.toml(part)}" for name, part in pairs]
    path.write_bytes(hostile.garbled(rng, "\n".join(lines).encode("utf-8", "surrogatepass")))
    read(lambda: spec.load(path), str(path))


def test_good_descriptions_are_read() -> None:
    """Else the tests above would prove little."""
    for seed in range(50):
        raw = good(random.Random(seed))
        if all(one["key"] for one in raw.get("watch", ())):
            assert spec.parse(raw, name="here").name == raw["name"]


@dataclass(kw_only=True, repr=False)
class Tables:
    engine: sa.Engine
    db: psycopg.Connection[Any]
    notices: list[str] = field(default_factory=list)

    def traces(self) -> list[Any]:
        """Triggers, functions, queued changes, catalogs."""
        return self.db.execute("""
            SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT proname::text FROM pg_proc
                WHERE pronamespace = 'indexer'::regnamespace AND starts_with(proname, 'capture_')
            UNION ALL SELECT 'change' FROM indexer.changes
            UNION ALL SELECT name FROM indexer.catalogs
        """).fetchall()

    def write(self, table: str) -> None:
        """Every kind of write; none fails, none warns."""
        name = sql.Identifier(SCHEMA, table)
        for statement in (
            "INSERT INTO {} (id, \"key\") VALUES ('k1', 'a'), ('k2', 'b')",
            "UPDATE {} SET \"key\" = 'c', \"%s\" = '{{\"a\": 1}}' WHERE id = 'k1'",
            "DELETE FROM {} WHERE id = 'k2'",
        ):
            self.db.execute(sql.SQL(statement).format(name))

    def clear(self) -> None:
        for table in (TABLE, OTHER):
            self.db.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(SCHEMA, table)))


@pytest.fixture(scope="module")
def odd_tables(postgres_url: str, databases: Callable[[str], Databases]) -> Iterator[Tables]:
    scratch = databases(postgres_url)
    url = scratch.create()
    engine = database.engine(url)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
        db.execute("CREATE TABLE public.precious AS SELECT 'x' AS id")
        columns = sql.SQL(", ").join(
            sql.SQL("{} " + type_ + (" PRIMARY KEY" if name == "id" else "")).format(  # pyright: ignore
                sql.Identifier(name)
            )
            for name, type_ in COLUMNS.items()
        )
        for table in (TABLE, OTHER):
            made = sql.SQL("CREATE TABLE {} ({})")
            db.execute(made.format(sql.Identifier(SCHEMA, table), columns))
        tables = Tables(engine=engine, db=db)
        db.add_notice_handler(lambda one: tables.notices.append(str(one.message_primary)))
        yield tables
    engine.dispose()
    scratch.drop(url)


@hostile.times(70)
@given(rng=hostile.rngs)
def test_what_is_accepted_can_be_attached_used_and_detached_or_is_refused_by_name(
    odd_tables: Tables, rng: random.Random
) -> None:
    raw = good(rng)
    if rng.random() < 0.4:
        raw = hostile.mutated(rng, raw, value=said_value, names=said_name)
    attach_use_and_detach(odd_tables, raw)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_key_expression_sees_every_write_or_is_refused_by_name(
    odd_tables: Tables, expression: str
) -> None:
    watch = {"table": str(spec.TableName(SCHEMA, OTHER)), "key": expression}
    raw = {**good(random.Random(1)), "watch": [watch]}
    assert attach_use_and_detach(odd_tables, raw) is (expression in USABLE)


@pytest.mark.parametrize("seed", range(10))
def test_a_good_description_of_odd_tables_is_usable(odd_tables: Tables, seed: int) -> None:
    """Else the tests above would prove little."""
    raw = {**good(random.Random(seed)), "watch": []}
    assert attach_use_and_detach(odd_tables, raw)


def attach_use_and_detach(tables: Tables, raw: Any) -> bool:
    """Whether it was accepted; if so, it was used."""
    accepted = False
    try:
        attached = catalog.attach(tables.engine, spec.parse(raw, name="here"))
    except TwinspanError as error:
        hostile.sentence(error)
    else:
        accepted = True
        try:
            use(tables, attached)
        finally:
            catalog.detach(tables.engine, attached.name)
            tables.clear()
    assert tables.traces() == []
    assert tables.db.execute("SELECT count(*) FROM public.precious").fetchone() == (1,)
    return accepted


def use(tables: Tables, attached: catalog.Catalog) -> None:
    tables.notices.clear()
    for table in (TABLE, OTHER):
        tables.write(table)
    assert tables.notices == [], attached.spec
    queued = tables.db.execute("SELECT DISTINCT unnest(item_keys) FROM indexer.changes").fetchall()
    assert {("k1",), ("k2",)} <= set(queued), (attached.spec, queued)
    item = catalog.read(tables.engine, attached, ["k1", "k2"])
    assert item.keys() == {"k1"}
    assert item["k1"].error is None or "." in item["k1"].error
