"""The triggers on users' tables: what they are made of, put up and taken down.

A statement fires one AFTER trigger, whose function reads the keys that it changed from the
transition tables and appends them to `indexer.changes`. The functions are made for their table:
one that reads column names from TG_ARGV must plan anew at each call, which doubles the cost of a
single-row update.

What the function guarantees to the user's statement:
- It waits for nobody: `changes` has no unique key but its identity, and no row is updated.
- It does not fail it. What the user's columns decide runs in a block that catches errors, e.g.
  when a watched column was dropped: then all keys are queued, and if even the keys cannot be read,
  the whole catalog (op T), with a warning.
- It costs little. A statement of one row takes a short cut past joins and aggregates. Keys of up
  to SMALL rows are gathered in an array inside that block, which then writes nothing and needs no
  transaction id of its own. Those of larger statements are streamed.
- Plans made for one row serve 100,000: a plan is kept for the session, and a transition table's
  size is not known to it. A full join can only be hashed or merged, never a nested loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc

from indexer.catalog.relations import PINNED, execute, quoted
from indexer.catalog.watching import Watch
from indexer.database import SCHEMA
from indexer.errors import CatalogError

CHANNEL = "twinspan"
CHUNK = 1_000  # keys in one row of `changes`
SMALL = 10_000  # rows of a statement whose keys are gathered in memory
LOCK_TIMEOUT_MS = 100  # while we wait for a table's lock, its writers wait behind us

_LOCK_NOT_AVAILABLE = "55P03"

_FUNCTION = """
CREATE OR REPLACE FUNCTION {schema}.{function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off{pins}
AS ${tag}${body}${tag}$
"""

# Each IF costs a microsecond in each transaction, so the way of a single row has two of them.
_CAPTURE = """
-- Made by `twinspan attach`, dropped by `twinspan detach`.
#variable_conflict use_column
DECLARE
    twinspan_keys text[];
    twinspan_gone text[];
    twinspan_many boolean;
    twinspan_queued boolean;
BEGIN
    BEGIN{capture}
    EXCEPTION WHEN OTHERS THEN
        twinspan_keys := NULL;
        twinspan_gone := NULL;
        twinspan_queued := true;
        BEGIN
            INSERT INTO {schema}.changes (catalog_id, item_keys, op)
            SELECT {catalog_id}, array_agg(key), '{op}'
            FROM (
                SELECT key, (row_number() OVER () - 1) / {chunk} AS chunk
                FROM ({touched}) AS touched WHERE key IS NOT NULL
            ) AS numbered
            GROUP BY chunk;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'twinspan does not see which items change in %: %',
                TG_RELID::regclass, SQLERRM
                USING HINT = 'Mend the description of the catalog and attach it again.';
            INSERT INTO {schema}.changes (catalog_id, item_keys, op)
            SELECT {catalog_id}, NULL, 'T' WHERE NOT EXISTS (
                SELECT FROM {schema}.changes WHERE catalog_id = {catalog_id} AND op = 'T'
            );
        END;
    END;
    IF twinspan_gone IS NULL AND cardinality(twinspan_keys) <= {chunk} THEN
        INSERT INTO {schema}.changes (catalog_id, item_keys, op)
        VALUES ({catalog_id}, twinspan_keys, '{op}');
    ELSIF twinspan_keys IS NOT NULL OR twinspan_gone IS NOT NULL THEN
        INSERT INTO {schema}.changes (catalog_id, item_keys, op)
        SELECT {catalog_id}, array_agg(key), op
        FROM (
            SELECT key, number, '{op}' AS op
            FROM unnest(twinspan_keys) WITH ORDINALITY AS one (key, number)
            UNION ALL
            SELECT key, number, 'D'
            FROM unnest(twinspan_gone) WITH ORDINALITY AS one (key, number)
        ) AS numbered
        GROUP BY op, (number - 1) / {chunk};
    END IF;{notify}
    RETURN NULL;
END
"""

_BY_SIZE = """
        IF EXISTS (SELECT FROM {rows} OFFSET {small}) THEN
            INSERT INTO {schema}.changes (catalog_id, item_keys, op)
            SELECT {catalog_id}, array_agg(key), CASE WHEN gone THEN 'D' ELSE '{op}' END
            FROM (
                SELECT key, gone, (row_number() OVER () - 1) / {chunk} AS chunk
                FROM ({changed}) AS changed WHERE key IS NOT NULL
            ) AS numbered
            GROUP BY chunk, gone;
            twinspan_queued := FOUND;
            twinspan_keys := NULL;
            twinspan_gone := NULL;
        ELSE
            SELECT array_agg(key) FILTER (WHERE NOT gone), array_agg(key) FILTER (WHERE gone)
            INTO twinspan_keys, twinspan_gone
            FROM ({changed}) AS changed WHERE key IS NOT NULL;
        END IF;"""

# The keys of a single row, or of the first of many. No join, no aggregate.
_SHORT_CUT = """
        SELECT {keys}, {gone}, EXISTS (SELECT FROM {rows} OFFSET 1)
        INTO twinspan_keys, twinspan_gone, twinspan_many FROM {tables} LIMIT 1;
        IF twinspan_many THEN{by_size}
        END IF;"""

_CAPTURE_TRUNCATE = """
-- Made by `twinspan attach`, dropped by `twinspan detach`.
BEGIN
    INSERT INTO {schema}.changes (catalog_id, item_keys, op)
    VALUES ({catalog_id}, NULL, 'T');{notify}
    RETURN NULL;
END
"""

_NOTIFY = """
    IF {queued} THEN
        PERFORM pg_notify('{channel}', '');
    END IF;"""

_QUEUED = "twinspan_queued OR twinspan_keys IS NOT NULL OR twinspan_gone IS NOT NULL"

_TRIGGER = """
CREATE OR REPLACE TRIGGER {trigger} AFTER {event} ON {table} {tables}
FOR EACH STATEMENT EXECUTE FUNCTION {schema}.{function}()
"""

_FOUND = sa.text("""
    SELECT p.proname::text FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.tgrelid = :oid AND t.tgname = :trigger AND t.tgenabled = 'A'
      AND p.pronamespace = CAST(:schema AS regnamespace)
""")
_FUNCTIONS = sa.text(f"""
    SELECT proname::text FROM pg_proc
    WHERE pronamespace = CAST('{SCHEMA}' AS regnamespace) AND starts_with(proname, :prefix)
    ORDER BY 1
""")

OLD, NEW = "twinspan_old", "twinspan_new"


class Event(NamedTuple):
    """What a trigger fires for, its letter in `changes`, and its transition tables."""

    name: str
    op: str
    tables: str


EVENTS = (
    Event("insert", "I", f"REFERENCING NEW TABLE AS {NEW}"),
    Event("update", "U", f"REFERENCING OLD TABLE AS {OLD} NEW TABLE AS {NEW}"),
    Event("delete", "D", f"REFERENCING OLD TABLE AS {OLD}"),
    Event("truncate", "T", ""),
)


def install(
    connection: sa.Connection, catalog_id: int, watches: Sequence[Watch], *, notify: bool
) -> list[str]:
    """These tables and no others are watched for the catalog; returns the functions' names. Tables
    that have their triggers already are not locked. Raises CatalogError when one is busy."""
    wanted: list[str] = []
    for watch in watches:
        for event in EVENTS:
            name = f"{_prefix(catalog_id)}{watch.relation.oid}_{event.name}"
            execute(connection, _function(name, catalog_id, watch, event, notify=notify))
            execute(connection, f"REVOKE ALL ON FUNCTION {SCHEMA}.{name}() FROM PUBLIC")
            _ensure_trigger(connection, catalog_id, watch, event, name)
            wanted.append(name)
    _drop(connection, [name for name in _installed(connection, catalog_id) if name not in wanted])
    return wanted


def lock(connection: sa.Connection, watches: Sequence[Watch]) -> None:
    """No transaction is under way that wrote to these tables under the triggers of before: what it
    changed would be missed. Held until the end of ours. Raises Busy."""
    for watch in watches:
        table = quoted(watch.relation.name)
        sql = f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"
        _run_unless_busy(connection, sql, str(watch.relation.name))


def uninstall(connection: sa.Connection, catalog_id: int) -> None:
    """No table is watched for the catalog any more, also one that was renamed or moved since."""
    _drop(connection, _installed(connection, catalog_id))


def set_lock_timeout(connection: sa.Connection) -> None:
    """Until the end of the transaction no lock is waited for long: see LOCK_TIMEOUT_MS."""
    execute(connection, f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'")


def trigger_name(catalog_id: int, event: Event) -> str:
    return f"twinspan_{catalog_id}_{event.name}"


def bodies(catalog_id: int, watch: Watch, event: Event) -> list[str]:
    """What the function of the event on the table may say, in this release: without and with
    NOTIFY."""
    return [_body(catalog_id, watch, event, notify=notify) for notify in (False, True)]


class Busy(CatalogError):
    """A transaction holds a lock on the table."""


def _prefix(catalog_id: int) -> str:
    return f"capture_{catalog_id}_"


def _installed(connection: sa.Connection, catalog_id: int) -> list[str]:
    return list(connection.scalars(_FUNCTIONS, {"prefix": _prefix(catalog_id)}))


def _drop(connection: sa.Connection, functions: Sequence[str]) -> None:
    for name in functions:
        _run_unless_busy(connection, f"DROP FUNCTION {SCHEMA}.{name}() CASCADE", "a watched table")


def _ensure_trigger(
    connection: sa.Connection, catalog_id: int, watch: Watch, event: Event, function: str
) -> None:
    trigger = trigger_name(catalog_id, event)
    scope = {"oid": watch.relation.oid, "trigger": trigger, "schema": SCHEMA}
    if connection.scalar(_FOUND, scope) == function:
        return
    table = quoted(watch.relation.name)
    sql = [
        _TRIGGER.format(
            trigger=trigger,
            event=event.name.upper(),
            table=table,
            tables=event.tables,
            schema=SCHEMA,
            function=function,
        ),
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}",
    ]
    for statement in sql:
        _run_unless_busy(connection, statement, str(watch.relation.name))


def _run_unless_busy(connection: sa.Connection, sql: str, table: str) -> None:
    try:
        execute(connection, sql)
    except exc.DBAPIError as cause:
        if getattr(cause.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise Busy(
            f"{table} is busy: another transaction holds a lock on it. Nothing was changed; "
            "try again when no long transaction writes to it (see pg_stat_activity)."
        ) from cause


def _function(name: str, catalog_id: int, watch: Watch, event: Event, *, notify: bool) -> str:
    """The whole text of the function of one event on one table."""
    pins = "" if watch.steady else "".join(f"\nSET {k} = '{v}'" for k, v in PINNED.items())
    text = _body(catalog_id, watch, event, notify=notify)
    return _FUNCTION.format(
        schema=SCHEMA, function=name, pins=pins, body=text, tag=_tag_beside(text)
    )


def _body(catalog_id: int, watch: Watch, event: Event, *, notify: bool) -> str:
    """What stands between its quotes."""
    body = _CAPTURE_TRUNCATE if event.op == "T" else _CAPTURE
    queued = "true" if event.op == "T" else _QUEUED
    return body.format(
        schema=SCHEMA,
        catalog_id=catalog_id,
        op=event.op,
        chunk=CHUNK,
        capture=_capture(catalog_id, watch, event),
        touched=_touched(watch, event),
        notify=_NOTIFY.format(channel=CHANNEL, queued=queued) if notify else "",
    )


def _tag_beside(text: str) -> str:
    """A tag for quoting the text that does not occur in it: names and expressions are users'."""
    tags = (f"twinspan{number or ''}" for number in itertools.count())
    return next(tag for tag in tags if f"${tag}" not in text)


def _transition_table(event: Event) -> str:
    """The one that has a row for every row that the statement changed."""
    return OLD if event.op == "D" else NEW


def _capture(catalog_id: int, watch: Watch, event: Event) -> str:
    """The statements that gather or write the changed keys."""
    if event.op == "T":
        return ""
    by_size = _BY_SIZE.format(
        schema=SCHEMA,
        catalog_id=catalog_id,
        op=event.op,
        chunk=CHUNK,
        small=SMALL,
        rows=_transition_table(event),
        changed=_changed(watch, event),
    )
    return _short_cut(watch, event, by_size) if watch.unique else by_size


def _short_cut(watch: Watch, event: Event, by_size: str) -> str:
    """The same, faster for a statement of one row, where a row has one key."""
    rows, names = _transition_table(event), _names(watch)
    keys, gone = "ARRAY[item.key]", "NULL"
    tables = f"({_rows(watch, rows, ())}) AS item"
    if event.op == "U":
        differ = " OR ".join(f"o.{name} IS DISTINCT FROM n.{name}" for name in ("key", *names))
        keys = f"CASE WHEN {differ} THEN ARRAY[n.key] END"
        gone = "CASE WHEN o.key <> n.key THEN ARRAY[o.key] END"
        tables = f"({_rows(watch, OLD, names)}) AS o, ({_rows(watch, NEW, names)}) AS n"
    return _SHORT_CUT.format(keys=keys, gone=gone, rows=rows, tables=tables, by_size=by_size)


def _changed(watch: Watch, event: Event) -> str:
    """SQL of the changed items: `key`, and whether the row of that key is `gone` by an update."""
    if event.op != "U":
        return _keys(watch, [_transition_table(event)])
    return _changed_by_key(watch) if watch.unique else _changed_rows(watch)


def _changed_by_key(watch: Watch) -> str:
    """Old and new rows side by side, where no two have the same key."""
    names = _names(watch)
    differ = ["o.key IS NULL", "n.key IS NULL"]
    differ += [f"o.{name} IS DISTINCT FROM n.{name}" for name in names]
    return f"""
        SELECT coalesce(n.key, o.key) AS key, n.key IS NULL AS gone
        FROM ({_rows(watch, OLD, names)}) AS o FULL JOIN ({_rows(watch, NEW, names)}) AS n
        ON o.key = n.key
        WHERE {" OR ".join(differ)}
    """


def _changed_rows(watch: Watch) -> str:
    """The difference of two bags of rows, for keys that many rows share."""
    names = _names(watch)
    differing = f"""
        SELECT key FROM (
            SELECT 1 AS twinspan_side, n.* FROM ({_rows(watch, NEW, names)}) AS n
            UNION ALL
            SELECT -1, o.* FROM ({_rows(watch, OLD, names)}) AS o
        ) AS both_sides
        GROUP BY {", ".join(["key", *names])} HAVING sum(twinspan_side) <> 0
    """
    return f"SELECT DISTINCT {_one_key(watch)}, false AS gone FROM ({differing}) AS differing"


def _touched(watch: Watch, event: Event) -> str:
    """SQL of the keys of all rows that the statement touched."""
    return _keys(watch, {"I": [NEW], "U": [OLD, NEW], "D": [OLD], "T": []}[event.op])


def _keys(watch: Watch, tables: Sequence[str]) -> str:
    distinct = "" if watch.unique and len(tables) == 1 else "DISTINCT "
    rows = " UNION ALL ".join(_rows(watch, table, ()) for table in tables)
    return f"SELECT {distinct}{_one_key(watch)}, false AS gone FROM ({rows}) AS twinspan_rows"


def _names(watch: Watch) -> list[str]:
    """What the compared columns are called in `_rows`."""
    return [f"twinspan_{number}" for number in range(len(watch.compared))]


def _rows(watch: Watch, table: str, names: Sequence[str]) -> str:
    """The key and the compared columns of a transition table, as the user's row under its name."""
    key = f"{watch.key}::text[]" if watch.keys_are_array else f'{watch.key}::text COLLATE "C"'
    compared = [f"{sql} AS {name}" for sql, name in zip(watch.compared, names, strict=False)]
    alias = quoted(watch.relation.name.name)
    return f"SELECT {', '.join([f'{key} AS key', *compared])} FROM {table} AS {alias}"


def _one_key(watch: Watch) -> str:
    return "unnest(key) AS key" if watch.keys_are_array else "key"
