"""Rolling out and proving: doubtful entries, adopted vectors, the log, verifications, shadow reads.

Only adds what the release before does not read: old and new workers can run side by side.

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-21
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # Adding a nullable column without a default rewrites nothing; partitions follow.
    "ALTER TABLE indexer.entries ADD COLUMN lost_at timestamptz",
    "ALTER TABLE indexer.indexes ADD COLUMN adopts text",
    # What was done to indexes, by whom, and whether against the gate's advice.
    """
    CREATE TABLE indexer.rollouts (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        index_id integer NOT NULL REFERENCES indexer.indexes (id),
        alias text NOT NULL,
        action text NOT NULL,
        by text NOT NULL DEFAULT current_user,
        at timestamptz NOT NULL DEFAULT now(),
        forced boolean NOT NULL DEFAULT false,
        report jsonb,
        CONSTRAINT rollouts_action CHECK (action IN
            ('start', 'cancel', 'gate', 'promote', 'rollback', 'retire', 'repair'))
    )
    """,
    "CREATE INDEX rollouts_by_alias ON indexer.rollouts (alias, id)",
    # One comparison of catalog, ledger and store, with the cursor that it goes on from.
    """
    CREATE TABLE indexer.verifications (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        index_id integer NOT NULL REFERENCES indexer.indexes (id),
        mode text NOT NULL,
        options jsonb NOT NULL,
        phase text NOT NULL,
        cursor text,
        counts jsonb NOT NULL DEFAULT '{}',
        examples jsonb NOT NULL DEFAULT '{}',
        started_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz,
        CONSTRAINT verifications_mode CHECK (mode IN ('once', 'continuous'))
    )
    """,
    "CREATE INDEX verifications_by_index ON indexer.verifications (index_id, id)",
    # Live queries that were also asked of an index that is being built.
    """
    CREATE TABLE indexer.shadow_reads (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        index_id integer NOT NULL REFERENCES indexer.indexes (id),
        live_index_id integer NOT NULL REFERENCES indexer.indexes (id),
        at timestamptz NOT NULL DEFAULT now(),
        k integer NOT NULL,
        overlap real NOT NULL,
        live_ms real NOT NULL,
        shadow_ms real NOT NULL
    )
    """,
    "CREATE INDEX shadow_reads_by_index ON indexer.shadow_reads (index_id, at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Twinspan's schema only moves forward: restore a backup instead.")
