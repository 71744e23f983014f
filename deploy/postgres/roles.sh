#!/bin/sh
# Run once by the PostgreSQL image, on an empty data folder: the owner of our database, and two roles
# that may do nothing until `twinspan permit` gives them what they need.
set -eu
secrets=${SECRETS:-/run/secrets}

psql -v ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
    -v owner="$(cat "$secrets/owner_password")" \
    -v worker="$(cat "$secrets/worker_password")" \
    -v query="$(cat "$secrets/query_password")" <<'SQL'
CREATE ROLE twinspan LOGIN PASSWORD :'owner';
CREATE ROLE twinspan_worker LOGIN PASSWORD :'worker';
CREATE ROLE twinspan_query LOGIN PASSWORD :'query';
CREATE DATABASE twinspan OWNER twinspan;
REVOKE ALL ON DATABASE twinspan FROM PUBLIC;
GRANT CONNECT ON DATABASE twinspan TO twinspan_worker, twinspan_query;
SQL
