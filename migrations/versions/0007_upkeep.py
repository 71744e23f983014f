"""Upkeep under a worker's role: fences that only go up, and old records that are forgotten.

Only adds what the release before does not read: old and new workers can run side by side.

Revision ID: 0007
Revises: 0006
Create Date: 2026-11-21
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS: tuple[str, ...] = (
    # A worker that repairs may raise the fences, and only that: who could lower them could have
    # every write refused, and who raised them to the end could have no claim made any more.
    """
    CREATE FUNCTION indexer.raise_fences(above bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $twinspan$
    BEGIN
        IF above >= 4611686018427387904 THEN
            RAISE EXCEPTION USING
                MESSAGE = 'fence ' || above || ' is none that a claim was ever given',
                HINT = 'Somebody else wrote it to the vector store. Delete that point there.';
        END IF;
        RETURN setval('indexer.fences', greatest(above, nextval('indexer.fences'))) + 1;
    END
    $twinspan$
    """,
    # The history is also a trace of who did what against advice, so nobody but its owner deletes
    # of it at will. A step stays while it is not concluded, and while it says how an index that is
    # still active came to be what it is: by it `rollback` knows where to go back to.
    """
    CREATE FUNCTION indexer.forget_steps(kept_s double precision, most integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $twinspan$
    DECLARE
        gone integer;
    BEGIN
        IF kept_s IS NULL OR kept_s < 86400 THEN
            RAISE EXCEPTION USING MESSAGE = 'a step is kept for a day at least';
        END IF;
        DELETE FROM indexer.rollouts WHERE id IN (
            SELECT s.id FROM indexer.rollouts AS s
            WHERE s.at < now() - make_interval(secs => kept_s)
              AND coalesce(s.report ->> 'outcome', 'done') <> 'begun'
              AND (s.action IN ('gate', 'repair') OR NOT EXISTS (
                  SELECT FROM indexer.indexes AS i
                  WHERE i.state IN ('building', 'live', 'standby')
                    AND (i.id = s.index_id OR i.id::text = s.report ->> 'before')
              ))
            ORDER BY s.id LIMIT most
        );
        GET DIAGNOSTICS gone = ROW_COUNT;
        RETURN gone;
    END
    $twinspan$
    """,
    # As before; and a worker raises fences, and forgets old steps and shadow reads.
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
            EXECUTE 'GRANT EXECUTE ON FUNCTION indexer.drop_entries(integer), '
                'indexer.raise_fences(bigint), '
                'indexer.forget_steps(double precision, integer)' || them;
            EXECUTE 'GRANT INSERT, UPDATE, DELETE ON indexer.verifications' || them;
            EXECUTE 'GRANT INSERT, UPDATE (report) ON indexer.rollouts' || them;
            EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON indexer.paces' || them;
            EXECUTE 'GRANT SELECT, DELETE ON indexer.shadow_reads' || them;
        ELSIF wanted = 'query' THEN
            EXECUTE 'GRANT SELECT ON indexer.interactions, indexer.users' || them;
            EXECUTE 'GRANT SELECT, INSERT ON indexer.shadow_reads' || them;
        END IF;
    END
    $twinspan$
    """,
    """
    CREATE OR REPLACE FUNCTION indexer.forbid(grantee text) RETURNS void
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
        EXECUTE 'REVOKE ALL ON FUNCTION indexer.drop_entries(integer), '
            'indexer.raise_fences(bigint), '
            'indexer.forget_steps(double precision, integer)' || them;
        EXECUTE 'REVOKE ALL ON SCHEMA indexer' || them;
        DELETE FROM indexer.roles WHERE role = grantee;
    END
    $twinspan$
    """,
    """
    REVOKE ALL ON FUNCTION indexer.raise_fences(bigint),
        indexer.forget_steps(double precision, integer) FROM PUBLIC
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("Twinspan's schema only moves forward: restore a backup instead.")
