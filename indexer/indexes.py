"""Indexes: which collection was built by which encoder, and in what state it is.

Owner of tables `indexes` and `encoders`, and of the ledger's partitions: an index is born with its
partition and loses it when it is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from encoders.types import EncoderInfo
from indexer import database, tables
from indexer.errors import IndexStateError, UsageError
from indexer.stores import Collection

ACTIVE = ("building", "live", "standby")
ALIAS_LOCK = 7_204  # first key of pg_advisory_xact_lock(ALIAS_LOCK, hashtext(alias))

_PARTITION_OPTIONS = (
    "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0, "
    "autovacuum_analyze_scale_factor = 0.02"
)


@dataclass(frozen=True, kw_only=True)
class Index:
    """One physical collection. `catalog` is the catalog's name."""

    id: int
    catalog_id: int
    catalog: str
    alias: str
    encoder_id: str
    encoder_uri: str
    encoder_family: str
    collection: str
    queue: str
    state: str
    spec_version: int  # of the catalog's description that its collection follows
    backfill_cursor: str | None
    backfill_done: bool
    error: str | None
    created_at: datetime
    live_at: datetime | None
    standby_at: datetime | None
    retired_at: datetime | None

    @property
    def ref(self) -> Collection:
        return Collection(name=self.collection, catalog=self.catalog)


_columns = tables.indexes.c
_SELECT = sa.select(
    _columns.id,
    _columns.catalog_id,
    _columns.alias,
    _columns.encoder_id,
    _columns.collection,
    _columns.queue,
    _columns.state,
    _columns.spec_version,
    _columns.backfill_cursor,
    _columns.backfill_done,
    _columns.error,
    _columns.created_at,
    _columns.live_at,
    _columns.standby_at,
    _columns.retired_at,
    tables.catalogs.c.name.label("catalog"),
    tables.encoders.c.uri.label("encoder_uri"),
    tables.encoders.c.family.label("encoder_family"),
).select_from(tables.indexes.join(tables.catalogs).join(tables.encoders))

_DUE = sa.text("""EXISTS (
    SELECT 1 FROM indexer.entries AS e
    WHERE e.index_id = indexes.id AND e.wanted > e.written AND NOT e.quarantined
      AND e.due_at <= now() AND (e.lease_until IS NULL OR e.lease_until <= now())
)""")


def register(
    engine: sa.Engine, *, catalog_id: int, alias: str, encoder: EncoderInfo, queue: str
) -> Index:
    """A new index in state `building`, with its partition of the ledger: from its commit on, every
    routed change reaches it. Raises UsageError for an alias that cannot name a collection."""
    check_alias(alias)
    with database.begin(engine) as connection:
        _add_encoder(connection, encoder)
        index_id = connection.execute(
            sa.insert(tables.indexes)
            .values(
                catalog_id=catalog_id,
                alias=alias,
                encoder_id=encoder.id,
                queue=queue,
                state="building",
                spec_version=sa.select(tables.catalogs.c.spec_version)
                .where(tables.catalogs.c.id == catalog_id)
                .scalar_subquery(),
                # replaced by the next statement, which knows the id; unique until then
                collection=sa.func.gen_random_uuid().cast(sa.Text),
            )
            .returning(tables.indexes.c.id)
        ).scalar_one()
        connection.execute(
            sa.update(tables.indexes)
            .where(tables.indexes.c.id == index_id)
            .values(collection=f"{alias}-{index_id}")
        )
        _create_partition(connection, index_id)
    return get(engine, index_id)


def check_alias(alias: str) -> None:
    """Raises UsageError unless the alias can be part of a collection's name on every store."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", alias):
        raise UsageError(
            f"alias {alias!r}: use up to 100 letters, digits, '_', '-' and '.', "
            "beginning with a letter, digit or '_'."
        )


def get(engine: sa.Engine, index_id: int) -> Index:
    """Raises IndexStateError for an unknown id."""
    found = _all_where(engine, tables.indexes.c.id == index_id)
    if not found:
        raise IndexStateError(f"there is no index {index_id}. `twinspan status` lists them.")
    return found[0]


def live(engine: sa.Engine, alias: str) -> Index:
    """The index that answers under `alias`. Raises IndexStateError when none is live."""
    found = _all_where(engine, tables.indexes.c.alias == alias, tables.indexes.c.state == "live")
    if not found:
        raise IndexStateError(f"no index is live under alias {alias!r}. Build one: `reindex`.")
    return found[0]


def all_of(engine: sa.Engine) -> list[Index]:
    """Every index that was ever registered and not forgotten, oldest first."""
    return _all_where(engine)


def active(engine: sa.Engine) -> list[Index]:
    """Those that receive changes: building, live or standby."""
    return _all_where(engine, tables.indexes.c.state.in_(ACTIVE))


def due(engine: sa.Engine) -> list[Index]:
    """Active indexes with at least one entry that could be claimed now."""
    return _all_where(engine, tables.indexes.c.state.in_(ACTIVE), _DUE)


def set_state(engine: sa.Engine, index_id: int, state: str, *, error: str | None = None) -> None:
    """The index is in that state, with the time of it."""
    at = {"live": "live_at", "standby": "standby_at", "retired": "retired_at"}.get(state)
    values: dict[str, object] = {"state": state, "error": error}
    if at:
        values[at] = sa.func.now()
    with database.begin(engine) as connection:
        connection.execute(
            sa.update(tables.indexes).where(tables.indexes.c.id == index_id).values(values)
        )


def set_spec_version(engine: sa.Engine, index_id: int, version: int) -> None:
    """The collection follows that version of its catalog's description."""
    with database.begin(engine) as connection:
        connection.execute(
            sa.update(tables.indexes)
            .where(tables.indexes.c.id == index_id)
            .values(spec_version=version)
        )


def make_live(engine: sa.Engine, index_id: int, alias: str) -> None:
    """This index is the live one of its alias, the one before is standby: one transaction."""
    columns = tables.indexes.c
    with database.begin(engine) as connection:
        connection.execute(
            sa.update(tables.indexes)
            .where(columns.alias == alias, columns.state == "live", columns.id != index_id)
            .values(state="standby", standby_at=sa.func.now())
        )
        connection.execute(
            sa.update(tables.indexes)
            .where(columns.id == index_id)
            .values(state="live", live_at=sa.func.now(), error=None)
        )


def set_gate(engine: sa.Engine, index_id: int, report: Mapping[str, object]) -> None:
    """The index keeps this report of the gate, in place of the one before."""
    with database.begin(engine) as connection:
        connection.execute(
            sa.update(tables.indexes).where(tables.indexes.c.id == index_id).values(gate=report)
        )


def gate(engine: sa.Engine, index_id: int) -> dict[str, object] | None:
    """The latest report of the gate; None before the first."""
    statement = sa.select(tables.indexes.c.gate).where(tables.indexes.c.id == index_id)
    with database.begin(engine) as connection:
        return connection.execute(statement).scalar_one_or_none()


def advance(connection: sa.Connection, index_id: int, cursor: str | None, *, done: bool) -> None:
    """The backfill has come as far as `cursor`; part of the transaction that filled the entries."""
    values: dict[str, object] = {"backfill_done": done}
    if cursor is not None:
        values["backfill_cursor"] = cursor
    connection.execute(
        sa.update(tables.indexes).where(tables.indexes.c.id == index_id).values(values)
    )


def retire(engine: sa.Engine, index_id: int) -> None:
    """The index is retired and its part of the ledger gone; its row stays as history."""
    with database.begin(engine) as connection:
        connection.execute(
            sa.update(tables.indexes)
            .where(tables.indexes.c.id == index_id)
            .values(state="retired", retired_at=sa.func.now())
        )
        connection.execute(sa.text("SELECT indexer.drop_entries(:id)"), {"id": index_id})


def _all_where(
    engine: sa.Engine, *conditions: sa.ColumnElement[bool] | sa.TextClause
) -> list[Index]:
    statement = _SELECT.where(*conditions).order_by(tables.indexes.c.id)
    with database.begin(engine) as connection:
        return [Index(**row) for row in connection.execute(statement).mappings()]


def _add_encoder(connection: sa.Connection, encoder: EncoderInfo) -> None:
    row = {
        "id": encoder.id,
        "family": encoder.family,
        "uri": encoder.uri,
        "vectors": [asdict(vector) for vector in encoder.vectors],
        "metrics": dict(encoder.metrics),
    }
    statement = insert(tables.encoders).values(row)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_={"uri": encoder.uri})
    )


def _create_partition(connection: sa.Connection, index_id: int) -> None:
    """Made aside and attached: attaching blocks no reader or writer of the other partitions."""
    name = _partition(index_id)
    for statement in (
        f"CREATE TABLE {name} (LIKE {database.SCHEMA}.entries INCLUDING ALL)"
        f" WITH ({_PARTITION_OPTIONS})",
        f"ALTER TABLE {database.SCHEMA}.entries ATTACH PARTITION {name} FOR VALUES IN ({index_id})",
    ):
        connection.execute(sa.text(statement))


def _partition(index_id: int) -> str:
    return f"{database.SCHEMA}.entries_{int(index_id)}"
