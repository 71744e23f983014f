"""Seeing it run: when an index was last written to, and failed items found without a scan.

Only adds what the release before does not read: old and new workers can run side by side.

Revision ID: 0006
Revises: 0004
Create Date: 2026-11-21
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # To a few seconds: workers set it at most that often.
    "ALTER TABLE indexer.indexes ADD COLUMN written_at timestamptz",
    # A claim and an ack of an item that never failed change nothing that this names: still HOT.
    """
    CREATE INDEX entries_failed ON indexer.entries (item_key)
        WHERE error IS NOT NULL OR quarantined
    """,
    # As before; and a worker says when it wrote.
    """
    CREATE OR REPLACE FUNCTION indexer.permit(grantee text, wanted text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $twinspan$
    DECLARE
        them text := ' TO ' || quote_ident(grantee);
    BEGIN
        PERFORM indexer.forbid(grantee);
        INSERT INTO indexer.roles (role, purpose) VALUES (grantee, wanted);
        EXECUTE 'GRANT USAGE ON SCHEMA indexer' || them;
        EXECUTE 'GRANT SELECT ON indexer.alembic_version, indexer.compatibility, '
            'indexer.catalogs, indexer.encoders, indexer.indexes, indexer.changes, '
            'indexer.entries, indexer.rollouts, indexer.verifications, indexer.paces' || them;
        EXECUTE 'GRANT SELECT ON SEQUENCE indexer.fences' || them;
        IF wanted = 'worker' THEN
            EXECUTE 'GRANT UPDATE, DELETE ON indexer.changes' || them;
            EXECUTE 'GRANT INSERT, UPDATE, DELETE ON indexer.entries' || them;
            EXECUTE 'GRANT USAGE ON SEQUENCE indexer.fences' || them;
            EXECUTE 'GRANT UPDATE (state, spec_version, backfill_cursor, backfill_done, gate, '
                'error, live_at, standby_at, retired_at, written_at) ON indexer.indexes' || them;
            EXECUTE 'GRANT EXECUTE ON FUNCTION indexer.drop_entries(integer)' || them;
            EXECUTE 'GRANT INSERT, UPDATE, DELETE ON indexer.verifications' || them;
            EXECUTE 'GRANT INSERT, UPDATE (report) ON indexer.rollouts' || them;
            EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON indexer.paces' || them;
        ELSIF wanted = 'query' THEN
            EXECUTE 'GRANT SELECT ON indexer.interactions, indexer.users' || them;
            EXECUTE 'GRANT SELECT, INSERT ON indexer.shadow_reads' || them;
        END IF;
    END
    $twinspan$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Twinspan's schema only moves forward: restore a backup instead.")
