"""The ledger: catalogs, the outbox, entries, indexes, encoders; users and their interactions.

The triggers that fill `indexer.changes` belong to each attached table and are made by
`twinspan attach` (indexer/triggers.py), since their text names the table's own columns.

Revision ID: 0001
Revises:
Create Date: 2026-11-21
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    """
    CREATE TABLE indexer.catalogs (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL UNIQUE,
        spec jsonb NOT NULL,
        spec_version integer NOT NULL DEFAULT 1,
        watched jsonb NOT NULL,
        attached_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # Filled by the users' own transactions, emptied by the router: never wait for vacuum.
    """
    CREATE TABLE indexer.changes (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        catalog_id integer NOT NULL,
        item_keys text[],
        op char(1) NOT NULL,
        changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
    ) WITH (
        autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000,
        autovacuum_vacuum_cost_delay = 0
    )
    """,
    """
    CREATE TABLE indexer.encoders (
        id text PRIMARY KEY,
        family text NOT NULL,
        uri text NOT NULL,
        vectors jsonb NOT NULL,
        metrics jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE indexer.indexes (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        catalog_id integer NOT NULL REFERENCES indexer.catalogs (id),
        alias text NOT NULL,
        encoder_id text NOT NULL REFERENCES indexer.encoders (id),
        collection text NOT NULL UNIQUE,
        queue text NOT NULL,
        state text NOT NULL,
        spec_version integer NOT NULL,
        backfill_cursor text,
        backfill_done boolean NOT NULL DEFAULT false,
        gate jsonb,
        error text,
        created_at timestamptz NOT NULL DEFAULT now(),
        live_at timestamptz,
        standby_at timestamptz,
        retired_at timestamptz,
        CONSTRAINT indexes_state
            CHECK (state IN ('building', 'live', 'standby', 'retired', 'failed'))
    )
    """,
    "CREATE UNIQUE INDEX indexes_one_live ON indexer.indexes (alias) WHERE state = 'live'",
    """
    CREATE INDEX indexes_active ON indexer.indexes (catalog_id)
    WHERE state IN ('building', 'live', 'standby')
    """,
    # Its partitions, one per index, are made with fillfactor 70 and eager autovacuum when an
    # index is registered: a partitioned table has no storage of its own to set that on.
    """
    CREATE TABLE indexer.entries (
        index_id integer NOT NULL,
        item_key text COLLATE "C" NOT NULL,
        wanted bigint NOT NULL DEFAULT 1,
        written bigint NOT NULL DEFAULT 0,
        lane smallint NOT NULL,
        changed_at timestamptz NOT NULL,
        due_at timestamptz NOT NULL DEFAULT now(),
        lease_until timestamptz,
        fence bigint NOT NULL DEFAULT 0,
        attempts smallint NOT NULL DEFAULT 0,
        error text,
        quarantined boolean NOT NULL DEFAULT false,
        content_hash bytea,
        payload_hash bytea,
        present boolean NOT NULL DEFAULT false,
        PRIMARY KEY (index_id, item_key)
    ) PARTITION BY LIST (index_id)
    """,
    """
    CREATE INDEX entries_dirty ON indexer.entries (lane, changed_at)
    WHERE wanted > written AND NOT quarantined
    """,
    "CREATE SEQUENCE indexer.fences",
    """
    CREATE TABLE indexer.interactions (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        catalog text NOT NULL DEFAULT 'items',
        user_key text NOT NULL,
        item_key text NOT NULL,
        event text,
        value double precision,
        occurred_at timestamptz NOT NULL
    )
    """,
    """
    CREATE INDEX interactions_history
    ON indexer.interactions (catalog, user_key, occurred_at DESC, id DESC)
    """,
    """
    CREATE TABLE indexer.users (
        user_key text PRIMARY KEY,
        features jsonb NOT NULL DEFAULT '{}',
        updated_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # The built-in catalog, unless a table of that name is there already (it may well be the
    # reader's own) or this user may not create tables in schema public.
    """
    DO $$
    BEGIN
        IF to_regclass('public.items') IS NULL
           AND to_regnamespace('public') IS NOT NULL
           AND has_schema_privilege('public', 'CREATE')
        THEN
            CREATE TABLE public.items (
                id text PRIMARY KEY,
                title text,
                description text,
                attributes jsonb NOT NULL DEFAULT '{}',
                updated_at timestamptz NOT NULL DEFAULT now()
            );
        END IF;
    END
    $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Twinspan's schema only moves forward: restore a backup instead.")
