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

CREATE TABLE indexer.encoders (
    id text NOT NULL,
    family text NOT NULL,
    uri text NOT NULL,
    vectors jsonb NOT NULL,
    metrics jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT encoders_pkey PRIMARY KEY (id)
);

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

CREATE TABLE indexer.users (
    user_key text NOT NULL,
    features jsonb NOT NULL DEFAULT '{}'::jsonb,
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT users_pkey PRIMARY KEY (user_key)
);
