"""Catalogs: tables and views whose items are kept in step. Attached, read, and detached here.

Owner of table `catalogs`. Attaching touches nothing of the user's schema but triggers on the
watched tables; reading selects from the table or view by its key, and never blocks a writer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from indexer import database, roles, schema, tables
from indexer.catalog import inspection, readers, reading, relations, triggers, watching
from indexer.catalog.spec import CatalogSpec
from indexer.catalog.watching import Watch
from indexer.errors import CatalogError, CatalogUnknown

ATTACH_LOCK = 7_204_004  # pg_advisory_xact_lock key: one attach or detach at a time per database
ATTEMPTS, PAUSE_S = 20, 0.2  # a busy table is tried again, for some seconds in all

Work = Callable[[sa.Connection], None]

_LOCK = sa.text("SELECT pg_advisory_xact_lock(:key)")
_QUEUE_ALL = sa.text(f"""
    INSERT INTO indexer.changes (catalog_id, item_keys, op)
    SELECT :catalog_id, NULL, 'T' WHERE EXISTS (
        SELECT FROM indexer.indexes
        WHERE catalog_id = :catalog_id AND state IN {tables.ACTIVE}
    )
""")
_QUEUE = sa.text("""
    INSERT INTO indexer.changes (catalog_id, item_keys, op)
    SELECT :catalog_id, array_agg(key), 'U'
    FROM unnest(CAST(:keys AS text[])) WITH ORDINALITY AS one (key, number)
    GROUP BY (number - 1) / 1000
""")


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """An attached catalog. `spec_version` grows by one whenever its description changes. `key_type`
    is the SQL name of the key column's type, None when the table or the column is gone."""

    id: int
    name: str
    spec: CatalogSpec
    spec_version: int
    key_type: str | None


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item as it is now. Missing values are absent. With an `error` it cannot be used: a value
    is not what the description says, and features and payload are empty."""

    key: str
    features: Mapping[str, object]
    payload: Mapping[str, object]
    error: str | None = field(default=None)


def attach(engine: sa.Engine, spec: CatalogSpec, *, notify: bool = False) -> Catalog:
    """The catalog is watched from now on: every change that commits after this call is queued.
    Repeating it changes nothing; with a changed description the triggers are adapted, its version
    grows, and all items of a catalog that has indexes are queued to be read again. Raises
    SpecError or CatalogUnwatchable, and CatalogError when a table stays locked by others."""
    schema.check(engine)
    version_before = next((one.spec_version for one in all_of(engine) if one.name == spec.name), 0)
    _until_not_busy(engine, lambda connection: _attach(connection, spec, notify=notify))
    catalog = get(engine, spec.name)
    if version_before and catalog.spec_version > version_before:
        _queue_every_key(engine, catalog)
    return catalog


def detach(engine: sa.Engine, name: str) -> None:
    """No trace of the catalog is left: triggers, functions, queued changes, history of its
    indexes. Raises CatalogUnknown, and CatalogError while it has an index that is not retired."""
    _until_not_busy(engine, lambda connection: _detach(connection, name))


def permit(engine: sa.Engine, role: str, purpose: roles.Purpose) -> bool:
    """The role has the rights that its purpose needs, and no other: in schema `indexer`, and for a
    worker those columns of the attached catalogs' tables that their descriptions name. It is made
    where there is none; returns whether. Raises as `roles.permit` does, and CatalogError."""
    schema.check(engine)
    with database.begin(engine) as connection:
        connection.execute(_LOCK, {"key": ATTACH_LOCK})
        created = roles.permit(connection, role, purpose)
        readers.withdraw(connection, role)
        readers.settle(connection)
    return created


def forbid(engine: sa.Engine, role: str) -> None:
    """The role has lost what `permit` gave it. Raises UsageError for one that was given nothing."""
    with database.begin(engine) as connection:
        connection.execute(_LOCK, {"key": ATTACH_LOCK})
        readers.withdraw(connection, role)
        roles.forbid(connection, role)


def get(engine: sa.Engine, name: str) -> Catalog:
    """Raises CatalogUnknown."""
    found = _all_where(engine, tables.catalogs.c.name == name)
    if not found:
        raise _unknown(engine, name)
    return found[0]


def get_by_id(engine: sa.Engine, catalog_id: int) -> Catalog:
    """Raises CatalogUnknown."""
    found = _all_where(engine, tables.catalogs.c.id == catalog_id)
    if not found:
        raise CatalogUnknown(f"there is no catalog {catalog_id} any more: it was detached.")
    return found[0]


def all_of(engine: sa.Engine) -> list[Catalog]:
    """Every attached catalog, oldest first."""
    return _all_where(engine)


def trigger_faults(engine: sa.Engine, catalog: Catalog) -> list[str]:
    """What keeps the catalog's triggers from capturing changes as this release would; empty when
    all is well."""
    with database.begin(engine) as connection:
        return inspection.faults(connection, catalog.id, catalog.spec)


def read(engine: sa.Engine, catalog: Catalog, keys: Sequence[str]) -> dict[str, Item]:
    """The current items of these keys; keys without a row are absent. One query, unless a row
    makes it fail: then that row alone is found out, and has an `error`."""
    select = reading.Select(spec=catalog.spec, key_type=_key_type(catalog))
    found = reading.read(engine, select, keys)
    return {key: _item(key, row) for key, row in found.items()}


def existing(engine: sa.Engine, catalog: Catalog, keys: Sequence[str]) -> set[str]:
    """Those of the keys that have a row now."""
    select = reading.Select(spec=catalog.spec, key_type=_key_type(catalog))
    return reading.existing(engine, select, keys)


def scan_keys(engine: sa.Engine, catalog: Catalog, *, after: str | None, limit: int) -> list[str]:
    """The next keys behind `after` (None: the first), in the key column's own order."""
    select = reading.Select(spec=catalog.spec, key_type=_key_type(catalog))
    return reading.scan(engine, select, after=after, limit=limit)


def scan_items(engine: sa.Engine, catalog: Catalog, *, after: str | None, limit: int) -> list[Item]:
    """The items of the next keys behind `after`, in the key column's own order. Those that vanish
    meanwhile are absent; only an empty list means the end."""
    while keys := scan_keys(engine, catalog, after=after, limit=limit):
        found = read(engine, catalog, keys)
        if found:
            return [found[key] for key in keys if key in found]
        after = keys[-1]
    return []


def count(engine: sa.Engine, catalog: Catalog) -> int:
    """How many items there are. Exact, and as slow as `count(*)`."""
    return reading.count(engine, reading.Select(spec=catalog.spec, key_type=_key_type(catalog)))


def _item(key: str, row: reading.Row) -> Item:
    return Item(key=key, features=row.features, payload=row.payload, error=row.error)


def _key_type(catalog: Catalog) -> str:
    if catalog.key_type is None:
        raise CatalogError(
            f"catalog {catalog.name!r} cannot be read: {catalog.spec.table} or its key column "
            f"{catalog.spec.key!r} is gone. Mend its description and attach it again, or detach it."
        )
    return catalog.key_type


def _until_not_busy(engine: sa.Engine, work: Work) -> None:
    """Do the work in one transaction. Locks are waited for briefly, since a waiting lock makes
    others wait, and asked for again after a pause outside of any transaction."""
    for left in reversed(range(ATTEMPTS)):
        try:
            _in_transaction(engine, work)
            return
        except triggers.Busy:
            if not left:
                raise
        time.sleep(PAUSE_S)


def _in_transaction(engine: sa.Engine, work: Work) -> None:
    with database.begin(engine) as connection:
        connection.execute(_LOCK, {"key": ATTACH_LOCK})
        triggers.set_lock_timeout(connection)
        work(connection)


def _attach(connection: sa.Connection, spec: CatalogSpec, *, notify: bool) -> None:
    watches = watching.resolve(connection, spec)
    before = [one.table_name for one in readers.specs(connection)]
    catalog_id, changed = _register(connection, spec)
    if changed:
        triggers.lock(connection, watches)
    functions = triggers.install(connection, catalog_id, watches, notify=notify)
    connection.execute(
        sa.update(tables.catalogs)
        .where(tables.catalogs.c.id == catalog_id)
        .values(watched={"tables": [_watched(watch) for watch in watches], "functions": functions})
    )
    readers.settle(connection, before)


def _register(connection: sa.Connection, spec: CatalogSpec) -> tuple[int, bool]:
    """The id of the catalog's row, which holds this description, and whether it held another."""
    columns, described = tables.catalogs.c, spec.model_dump(mode="json")
    known = connection.execute(
        sa.select(columns.id, columns.spec).where(columns.name == spec.name).with_for_update()
    ).one_or_none()
    if known is None:
        values = {"name": spec.name, "spec": described, "watched": {}}
        added = sa.insert(tables.catalogs).values(values).returning(columns.id)
        return connection.execute(added).scalar_one(), False
    if known.spec == described:
        return known.id, False
    connection.execute(
        sa.update(tables.catalogs)
        .where(columns.id == known.id)
        .values(spec=described, spec_version=columns.spec_version + 1)
    )
    connection.execute(_QUEUE_ALL, {"catalog_id": known.id})
    return known.id, True


def _watched(watch: Watch) -> dict[str, str]:
    return {"table": str(watch.relation.name), "key": watch.key}


def _queue_every_key(engine: sa.Engine, catalog: Catalog) -> None:
    """Every key that the catalog has now is queued: some may have been missed, if the old
    description did not fit the tables any more."""
    active = tables.indexes.c.state.in_(tables.ACTIVE_STATES)
    mine = sa.select(tables.indexes.c.id).where(tables.indexes.c.catalog_id == catalog.id, active)
    with database.begin(engine) as connection:
        if connection.scalar(mine.limit(1)) is None:
            return
    after: str | None = None
    while keys := scan_keys(engine, catalog, after=after, limit=10_000):
        with database.begin(engine) as connection:
            connection.execute(_QUEUE, {"catalog_id": catalog.id, "keys": keys})
        after = keys[-1]


def _detach(connection: sa.Connection, name: str) -> None:
    columns = tables.catalogs.c
    catalog_id = connection.scalar(
        sa.select(columns.id).where(columns.name == name).with_for_update()
    )
    if catalog_id is None:
        raise _unknown(connection.engine, name)
    _check_no_index(connection, catalog_id, name)
    triggers.uninstall(connection, catalog_id)
    before = [one.table_name for one in readers.specs(connection)]
    mine = sa.select(tables.indexes.c.id).where(tables.indexes.c.catalog_id == catalog_id)
    for table in (tables.rollouts, tables.verifications, tables.shadow_reads):
        connection.execute(sa.delete(table).where(table.c.index_id.in_(mine)))
    for table in (tables.changes, tables.indexes):
        connection.execute(sa.delete(table).where(table.c.catalog_id == catalog_id))
    connection.execute(sa.delete(tables.catalogs).where(columns.id == catalog_id))
    readers.settle(connection, before)


def _check_no_index(connection: sa.Connection, catalog_id: int, name: str) -> None:
    columns = tables.indexes.c
    mine = (columns.catalog_id == catalog_id, columns.state != "retired")
    rows = connection.execute(
        sa.select(columns.id, columns.state).where(*mine).order_by(columns.id)
    ).all()
    if rows:
        named = ", ".join(f"{row.id} ({row.state})" for row in rows)
        raise CatalogError(
            f"catalog {name!r} still has indexes: {named}. "
            f"`twinspan detach {name} --drop-indexes` drops them, too."
        )


def _all_where(engine: sa.Engine, *conditions: sa.ColumnElement[bool]) -> list[Catalog]:
    columns = tables.catalogs.c
    statement = sa.select(columns.id, columns.name, columns.spec, columns.spec_version).where(
        *conditions
    )
    with database.begin(engine) as connection:
        rows = connection.execute(statement.order_by(columns.id)).all()
        return [_catalog(connection, row) for row in rows]


def _catalog(connection: sa.Connection, row: sa.Row[*tuple[Any, ...]]) -> Catalog:
    spec = CatalogSpec.model_validate(row.spec)
    return Catalog(
        id=row.id,
        name=row.name,
        spec=spec,
        spec_version=row.spec_version,
        key_type=relations.column_type(connection, spec.table_name, spec.key),
    )


def _unknown(engine: sa.Engine, name: str) -> CatalogUnknown:
    attached = [one.name for one in all_of(engine)]
    hint = relations.near(name, attached) if attached else "None is attached yet."
    return CatalogUnknown(f"no catalog {name!r} is attached. {hint}")
