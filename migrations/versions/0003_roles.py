"""Roles with no more rights than their purpose needs, and which releases may share a schema.

Only adds what the release before does not read: old and new workers can run side by side.

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-21
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # One row: releases made for this revision, or for a later one, can work on the schema as it is.
    # A revision that takes something away (contracts) raises it; one that only adds leaves it.
    """
    CREATE TABLE indexer.compatibility (
        single boolean PRIMARY KEY DEFAULT true,
        oldest text NOT NULL,
        CONSTRAINT compatibility_single CHECK (single)
    )
    """,
    "INSERT INTO indexer.compatibility (oldest) VALUES ('0003')",
    # Who was given rights here, and what for: they are given anew when the schema moves on.
    """
    CREATE TABLE indexer.roles (
        role text PRIMARY KEY,
        purpose text NOT NULL,
        CONSTRAINT roles_purpose CHECK (purpose IN ('worker', 'query'))
    )
    """,
    # Entries are reached through their parent table, whose rights count: partitions need none.
    # No percent sign in here: alembic's --sql would double it.
    """
    CREATE FUNCTION indexer.permit(grantee text, wanted text) RETURNS void
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
            'indexer.entries, indexer.rollouts, indexer.verifications' || them;
        EXECUTE 'GRANT SELECT ON SEQUENCE indexer.fences' || them;
        IF wanted = 'worker' THEN
            EXECUTE 'GRANT UPDATE, DELETE ON indexer.changes' || them;
            EXECUTE 'GRANT INSERT, UPDATE, DELETE ON indexer.entries' || them;
            EXECUTE 'GRANT USAGE ON SEQUENCE indexer.fences' || them;
            EXECUTE 'GRANT UPDATE (state, spec_version, backfill_cursor, backfill_done, gate, '
                'error, live_at, standby_at, retired_at) ON indexer.indexes' || them;
            EXECUTE 'GRANT EXECUTE ON FUNCTION indexer.drop_entries(integer)' || them;
            EXECUTE 'GRANT INSERT, UPDATE, DELETE ON indexer.verifications' || them;
            EXECUTE 'GRANT INSERT ON indexer.rollouts' || them;
        ELSIF wanted = 'query' THEN
            EXECUTE 'GRANT SELECT ON indexer.interactions, indexer.users' || them;
            EXECUTE 'GRANT SELECT, INSERT ON indexer.shadow_reads' || them;
        END IF;
    END
    $twinspan$
    """,
    # What the owner has is not his to lose: a role with his rights is refused.
    """
    CREATE FUNCTION indexer.forbid(grantee text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $twinspan$
    DECLARE
        them text := ' FROM ' || quote_ident(grantee);
    BEGIN
        IF pg_has_role(grantee, (SELECT nspowner FROM pg_namespace WHERE nspname = 'indexer'),
                       'USAGE') THEN
            RAISE EXCEPTION USING
                MESSAGE = 'role ' || quote_ident(grantee) || ' has the rights of the owner',
                HINT = 'Name a role that may do nothing yet.';
        END IF;
        EXECUTE 'REVOKE ALL ON ALL TABLES IN SCHEMA indexer' || them;
        EXECUTE 'REVOKE ALL ON ALL SEQUENCES IN SCHEMA indexer' || them;
        EXECUTE 'REVOKE ALL ON FUNCTION indexer.drop_entries(integer)' || them;
        EXECUTE 'REVOKE ALL ON SCHEMA indexer' || them;
        DELETE FROM indexer.roles WHERE role = grantee;
    END
    $twinspan$
    """,
    # A worker that retires an index owns no table. It could delete the entries one by one anyway.
    """
    CREATE FUNCTION indexer.drop_entries(retired integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $twinspan$
    BEGIN
        PERFORM FROM indexer.indexes WHERE id = retired AND state = 'retired';
        IF NOT FOUND THEN
            RAISE EXCEPTION USING MESSAGE = 'index ' || retired || ' is not retired';
        END IF;
        EXECUTE 'DROP TABLE IF EXISTS indexer.entries_' || retired;
    END
    $twinspan$
    """,
    """
    REVOKE ALL ON FUNCTION indexer.permit(text, text), indexer.forbid(text),
        indexer.drop_entries(integer) FROM PUBLIC
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Twinspan's schema only moves forward: restore a backup instead.")
