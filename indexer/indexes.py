"""Indexes: which collection was built by which encoder, and in what state it is.

Owner of tables `indexes` and `encoders`, and of the ledger's partitions: an index is born with its
partition and loses it when it is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from encoders.types import EncoderInfo, VectorSpec
from indexer import database, tables
from indexer.catalog import spec
from indexer.errors import IndexStateError, IndexUnknown, UsageError
from indexer.stores import Collection

ACTIVE = tables.ACTIVE_STATES
ENDED = ("failed", "retired")
PARTITION_LOCK_S = 2.0  # workers wait behind whoever waits for this lock
NOTE_WRITES_S = 5.0  # how exact `written_at` is

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
    spec_version: int  # of the description that its collection follows; 0: not made yet
    backfill_cursor: str | None
    backfill_done: bool
    adopts: str | None  # collection whose vectors may be taken over while it is being built
    error: str | None
    created_at: datetime
    written_at: datetime | None  # last write of a worker, to a few seconds
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
    _columns.adopts,
    _columns.error,
    _columns.created_at,
    _columns.written_at,
    _columns.live_at,
    _columns.standby_at,
    _columns.retired_at,
    tables.catalogs.c.name.label("catalog"),
    tables.encoders.c.uri.label("encoder_uri"),
    tables.encoders.c.family.label("encoder_family"),
).select_from(tables.indexes.join(tables.catalogs).join(tables.encoders))

_DUE = sa.text(
    f"EXISTS (SELECT FROM indexer.entries AS e WHERE e.index_id = indexes.id AND {tables.DUE})"
)


def register(
    engine: sa.Engine, *, catalog_id: int, alias: str, encoder: EncoderInfo, queue: str
) -> Index:
    """A new index in state `building`, with its partition of the ledger: from its commit on, every
    routed change reaches it. Raises UsageError for an alias that cannot name a collection."""
    with database.begin(engine) as connection:
        index_id = add(connection, catalog_id=catalog_id, alias=alias, encoder=encoder, queue=queue)
        connection.execute(
            sa.update(tables.indexes)
            .where(tables.indexes.c.id == index_id)
            .values(spec_version=_spec_version(catalog_id))
        )
    return get(engine, index_id)


def add(
    connection: sa.Connection,
    *,
    catalog_id: int,
    alias: str,
    encoder: EncoderInfo,
    queue: str,
    adopts: str | None = None,
) -> int:
    """As `register`, in the caller's transaction, for a collection that is not made yet: changes
    are routed to the index, but `due` keeps it from workers until `set_spec_version`, so that no
    point is written before the payload indexes are there. Returns its id."""
    check_alias(alias)
    if not queue.strip():
        raise UsageError("the queue of an index needs a name.")
    _add_encoder(connection, encoder)
    index_id = connection.execute(
        sa.insert(tables.indexes)
        .values(
            catalog_id=catalog_id,
            alias=alias,
            encoder_id=encoder.id,
            queue=queue,
            state="building",
            spec_version=0,
            adopts=adopts,
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
    return index_id


def check_alias(alias: str) -> None:
    """Raises UsageError unless the alias can be part of a collection's name on every store."""
    if not spec.NAME.fullmatch(alias):
        raise UsageError(
            f"alias {alias!r}: use up to 100 letters, digits, '_', '-' and '.', "
            "beginning with a letter, digit or '_'."
        )


def get(engine: sa.Engine, index_id: int) -> Index:
    """Raises IndexUnknown for an unknown id."""
    found = _all_where(engine, tables.indexes.c.id == index_id)
    if not found:
        raise IndexUnknown(f"there is no index {index_id}. `twinspan status` lists them.")
    return found[0]


def live(engine: sa.Engine, alias: str) -> Index:
    """The index that answers under `alias`. Raises IndexUnknown when none is live."""
    found = find_live(engine, alias)
    if found is None:
        others = ", ".join(sorted(one.alias for one in active(engine) if one.state == "live"))
        said = f"no index is live under alias {alias!r}, only under: {others or 'none'}."
        raise IndexUnknown(f"{said} `twinspan reindex` builds one.")
    return found


def find_live(engine: sa.Engine, alias: str) -> Index | None:
    """The live index of the alias, by the ledger."""
    found = _all_where(engine, _columns.alias == alias, _columns.state == "live")
    return found[0] if found else None


def find_by_collection(engine: sa.Engine, name: str) -> Index | None:
    """The index whose collection it is, in whatever state."""
    found = _all_where(engine, _columns.collection == name)
    return found[0] if found else None


def all_of(engine: sa.Engine) -> list[Index]:
    """Every index that was ever registered and not forgotten, oldest first."""
    return _all_where(engine)


def active(engine: sa.Engine) -> list[Index]:
    """Those that receive changes: building, live or standby."""
    return _all_where(engine, tables.indexes.c.state.in_(ACTIVE))


def is_active(engine: sa.Engine, index_id: int) -> bool:
    """Whether the index still receives changes: False once it was cancelled, retired, forgotten."""
    return bool(_all_where(engine, _columns.id == index_id, _columns.state.in_(ACTIVE)))


def due(engine: sa.Engine) -> list[Index]:
    """Active indexes, their collections made, with at least one entry that could be claimed now."""
    return _all_where(engine, _columns.state.in_(ACTIVE), _columns.spec_version > 0, _DUE)


def standby(engine: sa.Engine, alias: str) -> list[Index]:
    """The standby indexes of the alias, those that were live last first."""
    found = _all_where(engine, _columns.alias == alias, _columns.state == "standby")
    return sorted(found, key=lambda one: (one.standby_at or one.created_at, one.id), reverse=True)


def adopting(engine: sa.Engine, name: str) -> list[Index]:
    """The indexes being built that take vectors over from that collection."""
    return _all_where(engine, _columns.adopts == name, _columns.state == "building")


def leftovers(engine: sa.Engine, collections: Sequence[str]) -> list[Index]:
    """Failed and retired indexes that still have their part of the ledger, or one of these
    collections: a crash came between, or an outage."""
    partition = sa.func.to_regclass(
        sa.func.concat(f"{database.SCHEMA}.entries_", _columns.id)
    ).is_not(None)
    return _all_where(
        engine,
        _columns.state.in_(ENDED),
        sa.or_(partition, _columns.collection.in_(collections)),
    )


def vectors_of(engine: sa.Engine, index: Index) -> tuple[VectorSpec, ...]:
    """The vectors that the index's encoder writes, as it said when it was registered."""
    stored = sa.select(tables.encoders.c.vectors).where(tables.encoders.c.id == index.encoder_id)
    with database.begin(engine) as connection:
        return tuple(VectorSpec(**one) for one in connection.execute(stored).scalar_one())


def raise_ids(engine: sa.Engine, *, above: int) -> None:
    """Indexes registered from now on have numbers above that, and so have their collections."""
    sequence = "pg_get_serial_sequence('indexer.indexes', 'id')"
    raised = sa.text(f"""
        SELECT setval({sequence}, :above) WHERE :above > (
            SELECT coalesce(last_value, 0) FROM pg_sequences
            WHERE format('%I.%I', schemaname, sequencename) = {sequence}
        )
    """)
    with database.begin(engine) as connection:
        connection.execute(raised, {"above": above})


def set_state(engine: sa.Engine, index_id: int, state: str, *, error: str | None = None) -> None:
    """The index is in that state, with the time of it."""
    with database.begin(engine) as connection:
        set_state_if(connection, index_id, state, now_in=tables.INDEX_STATES, error=error)


def set_state_if(
    connection: sa.Connection,
    index_id: int,
    state: str,
    *,
    now_in: Sequence[str],
    error: str | None = None,
) -> bool:
    """Where the index is in one of the states `now_in`, it is in the new one, with the time of it;
    part of the caller's transaction. Whether it was."""
    at = {"live": "live_at", "standby": "standby_at", "retired": "retired_at"}.get(state)
    values: dict[str, object] = {"state": state, "error": error}
    if at:
        values[at] = sa.func.now()
    changed = connection.execute(
        sa.update(tables.indexes)
        .where(_columns.id == index_id, _columns.state.in_(now_in))
        .values(values)
    )
    return changed.rowcount > 0


def set_spec_version(engine: sa.Engine, index_id: int, version: int) -> None:
    """The collection follows that version of its catalog's description."""
    with database.begin(engine) as connection:
        connection.execute(
            sa.update(tables.indexes)
            .where(tables.indexes.c.id == index_id)
            .values(spec_version=version)
        )


def note_write(engine: sa.Engine, index: Index) -> None:
    """`written_at` is at most a few seconds old: said again only when what was known of the index
    is older, so that writers hardly ever meet at its row."""
    age = datetime.now(UTC) - index.written_at if index.written_at else None
    if age is not None and abs(age.total_seconds()) < NOTE_WRITES_S:
        return
    recent = sa.func.now() - timedelta(seconds=NOTE_WRITES_S)
    stale = (
        sa.select(_columns.id)
        .where(_columns.id == index.id)
        .where(_columns.written_at.is_(None) | (_columns.written_at < recent))
        .with_for_update(key_share=True, skip_locked=True)  # another says it, or it is promoted
    )
    with database.begin(engine) as connection:
        connection.execute(
            sa.update(tables.indexes).where(_columns.id.in_(stale)).values(written_at=sa.func.now())
        )


def make_live(connection: sa.Connection, index_id: int, alias: str) -> None:
    """This index is the live one of its alias, the one before is standby: part of the caller's
    transaction. Raises IndexStateError where the index is not active any more."""
    connection.execute(
        sa.update(tables.indexes)
        .where(_columns.alias == alias, _columns.state == "live", _columns.id != index_id)
        .values(state="standby", standby_at=sa.func.now())
    )
    if not set_state_if(connection, index_id, "live", now_in=ACTIVE):
        raise IndexStateError(f"index {index_id} was cancelled or retired meanwhile.")


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


def hold_active(connection: sa.Connection, index_id: int) -> bool:
    """Whether the index is active, and stays so until the end of the caller's transaction."""
    held = sa.select(_columns.state).where(_columns.id == index_id).with_for_update(key_share=True)
    return connection.scalar(held) in ACTIVE


def drop_partition(engine: sa.Engine, index_id: int) -> None:
    """The index's part of the ledger is gone; set its state first. Raises DatabaseUnavailable when
    somebody reads the ledger for longer than PARTITION_LOCK_S: try again."""
    with database.begin(engine) as connection:
        wait = sa.text("SELECT set_config('lock_timeout', :ms, true)")
        connection.execute(wait, {"ms": f"{round(1_000 * PARTITION_LOCK_S)}ms"})
        connection.execute(sa.text("SELECT indexer.drop_entries(:id)"), {"id": index_id})


def _all_where(
    engine: sa.Engine, *conditions: sa.ColumnElement[bool] | sa.TextClause
) -> list[Index]:
    statement = _SELECT.where(*conditions).order_by(tables.indexes.c.id)
    with database.begin(engine) as connection:
        return [Index(**row) for row in connection.execute(statement).mappings()]


def _spec_version(catalog_id: int) -> sa.ScalarSelect[int]:
    catalogs = tables.catalogs.c
    return sa.select(catalogs.spec_version).where(catalogs.id == catalog_id).scalar_subquery()


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
