"""How fast an index is being built; what a worker may do to finish a roll-out that was cut short.

Only adds what the release before does not read: old and new workers can run side by side.

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-21
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # Items that one worker did for an index being built, in the seconds before `at`.
    """
    CREATE TABLE indexer.paces (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        index_id integer NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        seconds real NOT NULL,
        items integer NOT NULL
    )
    """,
    "CREATE INDEX paces_by_index ON indexer.paces (index_id, at)",
    # As before, and for an index that was cancelled: its state is failed.
    """
    CREATE OR REPLACE FUNCTION indexer.drop_entries(retired integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $twinspan$
    BEGIN
        PERFORM FROM indexer.indexes WHERE id = retired AND state IN ('failed', 'retired');
        IF NOT FOUND THEN
            RAISE EXCEPTION USING MESSAGE = 'index ' || retired || ' has not ended';
        END IF;
        EXECUTE 'DROP TABLE IF EXISTS indexer.entries_' || retired;
    END
    $twinspan$
    """,
    # As before; and a worker concludes steps that a crash left begun, and notes its pace.
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
                'error, live_at, standby_at, retired_at) ON indexer.indexes' || them;
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
