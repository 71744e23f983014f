CREATE TABLE indexer.catalogs (
    id integer NOT NULL GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    spec jsonb NOT NULL,
    spec_version integer NOT NULL DEFAULT 1,
    watched jsonb NOT NULL,
    attached_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT catalogs_name_key UNIQUE (name),
    CONSTRAINT catalogs_pkey PRIMARY KEY (id)
);

CREATE TABLE indexer.changes (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    catalog_id integer NOT NULL,
    item_keys text[],
    op character(1) NOT NULL,
    changed_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT changes_pkey PRIMARY KEY (id)
) WITH (
    autovacuum_vacuum_scale_factor=0,
    autovacuum_vacuum_threshold=5000,
    autovacuum_vacuum_insert_scale_factor=0,
    autovacuum_vacuum_insert_threshold=20000,
    autovacuum_vacuum_cost_delay=0
);

CREATE TABLE indexer.compatibility (
    single boolean NOT NULL DEFAULT true,
    oldest text NOT NULL,
    CONSTRAINT compatibility_pkey PRIMARY KEY (single),
    CONSTRAINT compatibility_single CHECK (single)
);

CREATE TABLE indexer.encoders (
    id text NOT NULL,
    family text NOT NULL,
    uri text NOT NULL,
    vectors jsonb NOT NULL,
    metrics jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT encoders_pkey PRIMARY KEY (id)
);

CREATE TABLE indexer.entries (
    index_id integer NOT NULL,
    item_key text COLLATE "C" NOT NULL,
    wanted bigint NOT NULL DEFAULT 1,
    written bigint NOT NULL DEFAULT 0,
    lane smallint NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    due_at timestamp with time zone NOT NULL DEFAULT now(),
    lease_until timestamp with time zone,
    fence bigint NOT NULL DEFAULT 0,
    attempts smallint NOT NULL DEFAULT 0,
    error text,
    quarantined boolean NOT NULL DEFAULT false,
    content_hash bytea,
    payload_hash bytea,
    present boolean NOT NULL DEFAULT false,
    lost_at timestamp with time zone,
    CONSTRAINT entries_pkey PRIMARY KEY (index_id, item_key)
) PARTITION BY LIST (index_id);
CREATE INDEX entries_dirty ON ONLY indexer.entries USING btree (lane, changed_at) WHERE ((wanted > written) AND (NOT quarantined));
CREATE INDEX entries_failed ON ONLY indexer.entries USING btree (item_key) WHERE ((error IS NOT NULL) OR quarantined);

CREATE SEQUENCE indexer.fences;

CREATE TABLE indexer.indexes (
    id integer NOT NULL GENERATED ALWAYS AS IDENTITY,
    catalog_id integer NOT NULL,
    alias text NOT NULL,
    encoder_id text NOT NULL,
    collection text NOT NULL,
    queue text NOT NULL,
    state text NOT NULL,
    spec_version integer NOT NULL,
    backfill_cursor text,
    backfill_done boolean NOT NULL DEFAULT false,
    gate jsonb,
    error text,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    live_at timestamp with time zone,
    standby_at timestamp with time zone,
    retired_at timestamp with time zone,
    adopts text,
    written_at timestamp with time zone,
    CONSTRAINT indexes_catalog_id_fkey FOREIGN KEY (catalog_id) REFERENCES indexer.catalogs(id),
    CONSTRAINT indexes_collection_key UNIQUE (collection),
    CONSTRAINT indexes_encoder_id_fkey FOREIGN KEY (encoder_id) REFERENCES indexer.encoders(id),
    CONSTRAINT indexes_pkey PRIMARY KEY (id),
    CONSTRAINT indexes_state CHECK ((state = ANY (ARRAY['building'::text, 'live'::text, 'standby'::text, 'retired'::text, 'failed'::text])))
);
CREATE INDEX indexes_active ON indexer.indexes USING btree (catalog_id) WHERE (state = ANY (ARRAY['building'::text, 'live'::text, 'standby'::text]));
CREATE UNIQUE INDEX indexes_one_live ON indexer.indexes USING btree (alias) WHERE (state = 'live'::text);

CREATE TABLE indexer.interactions (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    catalog text NOT NULL DEFAULT 'items'::text,
    user_key text NOT NULL,
    item_key text NOT NULL,
    event text,
    value double precision,
    occurred_at timestamp with time zone NOT NULL,
    CONSTRAINT interactions_pkey PRIMARY KEY (id)
);
CREATE INDEX interactions_history ON indexer.interactions USING btree (catalog, user_key, occurred_at DESC, id DESC);

CREATE TABLE indexer.paces (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    index_id integer NOT NULL,
    at timestamp with time zone NOT NULL DEFAULT now(),
    seconds real NOT NULL,
    items integer NOT NULL,
    CONSTRAINT paces_pkey PRIMARY KEY (id)
);
CREATE INDEX paces_by_index ON indexer.paces USING btree (index_id, at);

CREATE TABLE indexer.roles (
    role text NOT NULL,
    purpose text NOT NULL,
    CONSTRAINT roles_pkey PRIMARY KEY (role),
    CONSTRAINT roles_purpose CHECK ((purpose = ANY (ARRAY['worker'::text, 'query'::text])))
);

CREATE TABLE indexer.rollouts (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    index_id integer NOT NULL,
    alias text NOT NULL,
    action text NOT NULL,
    by text NOT NULL DEFAULT CURRENT_USER,
    at timestamp with time zone NOT NULL DEFAULT now(),
    forced boolean NOT NULL DEFAULT false,
    report jsonb,
    CONSTRAINT rollouts_action CHECK ((action = ANY (ARRAY['start'::text, 'cancel'::text, 'gate'::text, 'promote'::text, 'rollback'::text, 'retire'::text, 'repair'::text]))),
    CONSTRAINT rollouts_index_id_fkey FOREIGN KEY (index_id) REFERENCES indexer.indexes(id),
    CONSTRAINT rollouts_pkey PRIMARY KEY (id)
);
CREATE INDEX rollouts_by_alias ON indexer.rollouts USING btree (alias, id);

CREATE TABLE indexer.shadow_reads (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    index_id integer NOT NULL,
    live_index_id integer NOT NULL,
    at timestamp with time zone NOT NULL DEFAULT now(),
    k integer NOT NULL,
    overlap real NOT NULL,
    live_ms real NOT NULL,
    shadow_ms real NOT NULL,
    CONSTRAINT shadow_reads_index_id_fkey FOREIGN KEY (index_id) REFERENCES indexer.indexes(id),
    CONSTRAINT shadow_reads_live_index_id_fkey FOREIGN KEY (live_index_id) REFERENCES indexer.indexes(id),
    CONSTRAINT shadow_reads_pkey PRIMARY KEY (id)
);
CREATE INDEX shadow_reads_by_index ON indexer.shadow_reads USING btree (index_id, at);

CREATE TABLE indexer.users (
    user_key text NOT NULL,
    features jsonb NOT NULL DEFAULT '{}'::jsonb,
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT users_pkey PRIMARY KEY (user_key)
);

CREATE TABLE indexer.verifications (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    index_id integer NOT NULL,
    mode text NOT NULL,
    options jsonb NOT NULL,
    phase text NOT NULL,
    cursor text,
    counts jsonb NOT NULL DEFAULT '{}'::jsonb,
    examples jsonb NOT NULL DEFAULT '{}'::jsonb,
    started_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    finished_at timestamp with time zone,
    CONSTRAINT verifications_index_id_fkey FOREIGN KEY (index_id) REFERENCES indexer.indexes(id),
    CONSTRAINT verifications_mode CHECK ((mode = ANY (ARRAY['once'::text, 'continuous'::text]))),
    CONSTRAINT verifications_pkey PRIMARY KEY (id)
);
CREATE INDEX verifications_by_index ON indexer.verifications USING btree (index_id, id);

CREATE OR REPLACE FUNCTION indexer.drop_entries(retired integer)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    BEGIN
        PERFORM FROM indexer.indexes WHERE id = retired AND state IN ('failed', 'retired');
        IF NOT FOUND THEN
            RAISE EXCEPTION USING MESSAGE = 'index ' || retired || ' has not ended';
        END IF;
        EXECUTE 'DROP TABLE IF EXISTS indexer.entries_' || retired;
    END
    $function$;
-- privileges {OWNER=X/OWNER}

CREATE OR REPLACE FUNCTION indexer.forbid(grantee text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
    $function$;
-- privileges {OWNER=X/OWNER}

CREATE OR REPLACE FUNCTION indexer.forget_steps(kept_s double precision, most integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
    $function$;
-- privileges {OWNER=X/OWNER}

CREATE OR REPLACE FUNCTION indexer.permit(grantee text, wanted text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
    $function$;
-- privileges {OWNER=X/OWNER}

CREATE OR REPLACE FUNCTION indexer.raise_fences(above bigint)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    BEGIN
        IF above >= 4611686018427387904 THEN
            RAISE EXCEPTION USING
                MESSAGE = 'fence ' || above || ' is none that a claim was ever given',
                HINT = 'Somebody else wrote it to the vector store. Delete that point there.';
        END IF;
        RETURN setval('indexer.fences', greatest(above, nextval('indexer.fences'))) + 1;
    END
    $function$;
-- privileges {OWNER=X/OWNER}
