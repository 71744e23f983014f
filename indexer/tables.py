"""The tables of schema `indexer`, and the built-in catalog `public.items`.

What each is for stands in its comment; how they are created stands in `migrations/versions`, whose
result is checked against `migrations/schema.sql` and against these definitions by a test.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB

from indexer.database import SCHEMA

metadata = sa.MetaData(schema=SCHEMA)

KEY = sa.Text(collation="C")  # item keys compare bytewise: one order everywhere, cheap indexes
NOW = sa.text("now()")


def _timestamp(name: str, *, default: bool = False, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        nullable=nullable,
        server_default=NOW if default else None,
    )


# An attached catalog: its description and what was done to the user's tables for it.
catalogs = sa.Table(
    "catalogs",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("spec", JSONB, nullable=False),
    sa.Column("spec_version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("watched", JSONB, nullable=False),  # {tables: [{table, key}], functions}
    _timestamp("attached_at", default=True),
)

# What one statement changed, up to 1,000 keys a row. Append-only for the user's transaction: no
# unique key but the identity, nothing that two writers could wait for. The router deletes.
changes = sa.Table(
    "changes",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("catalog_id", sa.Integer, nullable=False),
    sa.Column("item_keys", ARRAY(sa.Text), nullable=True),  # NULL: all of them (TRUNCATE)
    sa.Column("op", sa.CHAR(1), nullable=False),  # I, U, D or T
    sa.Column(
        "changed_at",
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=sa.text("clock_timestamp()"),
    ),
)

# A trained encoder, by the digest of its files.
encoders = sa.Table(
    "encoders",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("family", sa.Text, nullable=False),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("vectors", JSONB, nullable=False),
    sa.Column("metrics", JSONB, nullable=False, server_default="{}"),
    _timestamp("created_at", default=True),
)

INDEX_STATES = ("building", "live", "standby", "retired", "failed")
ACTIVE_STATES = ("building", "live", "standby")  # changes reach these
ACTIVE = f"({', '.join(map(repr, ACTIVE_STATES))})"  # the same in SQL
# An entry that a claim may take, in SQL over `entries`.
DUE = """wanted > written AND NOT quarantined AND due_at <= now()
          AND (lease_until IS NULL OR lease_until <= now())"""

# One physical collection built by one encoder.
indexes = sa.Table(
    "indexes",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column("catalog_id", sa.Integer, sa.ForeignKey("catalogs.id"), nullable=False),
    sa.Column("alias", sa.Text, nullable=False),
    sa.Column("encoder_id", sa.Text, sa.ForeignKey("encoders.id"), nullable=False),
    sa.Column("collection", sa.Text, nullable=False, unique=True),
    sa.Column("queue", sa.Text, nullable=False),  # Celery queue of its wake-ups (CPU or GPU)
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("spec_version", sa.Integer, nullable=False),  # of the description it follows
    sa.Column("backfill_cursor", sa.Text, nullable=True),  # last key filled in, in catalog order
    sa.Column("backfill_done", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("adopts", sa.Text, nullable=True),  # collection whose vectors may be taken over
    sa.Column("gate", JSONB, nullable=True),
    sa.Column("error", sa.Text, nullable=True),
    _timestamp("written_at", nullable=True),  # to a few seconds
    _timestamp("created_at", default=True),
    _timestamp("live_at", nullable=True),
    _timestamp("standby_at", nullable=True),
    _timestamp("retired_at", nullable=True),
    sa.CheckConstraint(
        "state IN ('building', 'live', 'standby', 'retired', 'failed')", name="indexes_state"
    ),
    sa.Index(
        "indexes_one_live",
        "alias",
        unique=True,
        postgresql_where=sa.text("state = 'live'"),
    ),
    sa.Index(
        "indexes_active",
        "catalog_id",
        postgresql_where=sa.text(f"state IN {ACTIVE}"),
    ),
)

LANE_DELETE, LANE_LIVE, LANE_BACKFILL = 0, 1, 2

# One item in one index: queue, ledger and drift check in one row. Dirty while wanted > written.
# List-partitioned by index_id; each partition has fillfactor 70 and eager autovacuum, since a
# claim must be a HOT update (nothing that a claim changes is indexed).
entries = sa.Table(
    "entries",
    metadata,
    sa.Column("index_id", sa.Integer, primary_key=True),
    sa.Column("item_key", KEY, primary_key=True),
    sa.Column("wanted", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("written", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("lane", sa.SmallInteger, nullable=False),
    sa.Column(  # of the oldest change that is not in the store yet
        "changed_at", sa.DateTime(timezone=True), nullable=False
    ),
    _timestamp("due_at", default=True),
    _timestamp("lease_until", nullable=True),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("attempts", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("error", sa.Text, nullable=True),
    sa.Column("quarantined", sa.Boolean, nullable=False, server_default=sa.false()),
    # Hashes of what lies in the store; NULL while that is not known for certain. A claim takes
    # them out, an ack puts them back: whatever happens in between, the next write is a full one.
    sa.Column("content_hash", BYTEA, nullable=True),
    sa.Column("payload_hash", BYTEA, nullable=True),
    sa.Column("present", sa.Boolean, nullable=False, server_default=sa.false()),
    # When a writer last vanished whose write may still arrive; NULL: none is out there.
    _timestamp("lost_at", nullable=True),
    sa.Index(
        "entries_dirty",
        "lane",
        "changed_at",
        postgresql_where=sa.text("wanted > written AND NOT quarantined"),
    ),
    sa.Index(
        "entries_failed",
        "item_key",
        postgresql_where=sa.text("error IS NOT NULL OR quarantined"),
    ),
    postgresql_partition_by="LIST (index_id)",
)

fences = sa.Sequence("fences", metadata=metadata)  # one value per claim, over all indexes

ROLLOUT_ACTIONS = ("start", "cancel", "gate", "promote", "rollback", "retire", "repair")

# What was done to indexes, by whom, and whether against the gate's advice.
rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("index_id", sa.Integer, sa.ForeignKey("indexes.id"), nullable=False),
    sa.Column("alias", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False, server_default=sa.text("CURRENT_USER")),
    _timestamp("at", default=True),
    sa.Column("forced", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("report", JSONB, nullable=True),
    sa.CheckConstraint(
        "action IN ('start', 'cancel', 'gate', 'promote', 'rollback', 'retire', 'repair')",
        name="rollouts_action",
    ),
    sa.Index("rollouts_by_alias", "alias", "id"),
)

# Items that one worker did for an index being built, in the seconds before `at`: the rate of a
# backfill is their sum over the last minute. Forgotten after some minutes.
paces = sa.Table(
    "paces",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("index_id", sa.Integer, nullable=False),
    _timestamp("at", default=True),
    sa.Column("seconds", sa.REAL, nullable=False),
    sa.Column("items", sa.Integer, nullable=False),
    sa.Index("paces_by_index", "index_id", "at"),
)

# One comparison of catalog, ledger and store, with the cursor that it goes on from.
verifications = sa.Table(
    "verifications",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("index_id", sa.Integer, sa.ForeignKey("indexes.id"), nullable=False),
    sa.Column("mode", sa.Text, nullable=False),  # once or continuous
    sa.Column("options", JSONB, nullable=False),  # vectors, repair, rate
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("cursor", sa.Text, nullable=True),
    sa.Column("counts", JSONB, nullable=False, server_default="{}"),
    sa.Column("examples", JSONB, nullable=False, server_default="{}"),
    _timestamp("started_at", default=True),
    _timestamp("updated_at", default=True),
    _timestamp("finished_at", nullable=True),
    sa.CheckConstraint("mode IN ('once', 'continuous')", name="verifications_mode"),
    sa.Index("verifications_by_index", "index_id", "id"),
)

# Live queries that were also asked of an index that is being built.
shadow_reads = sa.Table(
    "shadow_reads",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("index_id", sa.Integer, sa.ForeignKey("indexes.id"), nullable=False),
    sa.Column("live_index_id", sa.Integer, sa.ForeignKey("indexes.id"), nullable=False),
    _timestamp("at", default=True),
    sa.Column("k", sa.Integer, nullable=False),
    sa.Column("overlap", sa.REAL, nullable=False),
    sa.Column("live_ms", sa.REAL, nullable=False),
    sa.Column("shadow_ms", sa.REAL, nullable=False),
    sa.Index("shadow_reads_by_index", "index_id", "at"),
)

# Who was given rights here, and what for. Owner: module `roles`.
roles = sa.Table(
    "roles",
    metadata,
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.CheckConstraint("purpose IN ('worker', 'query')", name="roles_purpose"),
)

# One row: releases made for revision `oldest`, or for a later one, can work on this schema.
compatibility = sa.Table(
    "compatibility",
    metadata,
    sa.Column("single", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("oldest", sa.Text, nullable=False),
    sa.CheckConstraint("single", name="compatibility_single"),
)

# What users did: training data, and the histories that `recommend(user_key=...)` reads.
interactions = sa.Table(
    "interactions",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("catalog", sa.Text, nullable=False, server_default="items"),
    sa.Column("user_key", sa.Text, nullable=False),
    sa.Column("item_key", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=True),
    sa.Column("value", sa.Float, nullable=True),
    _timestamp("occurred_at"),
    sa.Index(
        "interactions_history",
        "catalog",
        "user_key",
        sa.text("occurred_at DESC"),
        sa.text("id DESC"),
    ),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("user_key", sa.Text, primary_key=True),
    sa.Column("features", JSONB, nullable=False, server_default="{}"),
    _timestamp("updated_at", default=True),
)

# The built-in catalog, for those who have none. In schema public, as a user's own table would be.
items = sa.Table(
    "items",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("title", sa.Text, nullable=True),
    sa.Column("description", sa.Text, nullable=True),
    sa.Column("attributes", JSONB, nullable=False, server_default="{}"),
    _timestamp("updated_at", default=True),
    schema="public",
)
