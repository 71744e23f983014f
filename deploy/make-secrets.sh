#!/bin/sh
# Writes the secrets that compose.yaml reads into a folder (./secrets unless another is given), once:
# a file that is there is kept. Passwords are random and known to nobody but these files.
set -eu
folder=${1:-secrets}
umask 077
mkdir -p "$folder"

password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# The container's user must be able to read the files; the folder keeps everybody else out.
keep() { # name content
    test -s "$folder/$1" || printf '%s\n' "$2" > "$folder/$1"
    chmod 0444 "$folder/$1"
}

for name in postgres_password owner_password worker_password query_password \
    qdrant_api_key redis_password grafana_password; do
    keep "$name" "$(password)"
done

read_of() { cat "$folder/$1"; }
keep owner_database_url "postgresql://twinspan:$(read_of owner_password)@postgres:5432/twinspan"
keep worker_database_url "postgresql://twinspan_worker:$(read_of worker_password)@postgres:5432/twinspan"
keep query_database_url "postgresql://twinspan_query:$(read_of query_password)@postgres:5432/twinspan"
keep broker_url "redis://:$(read_of redis_password)@redis:6379/0"
keep redis_conf "requirepass $(read_of redis_password)"
keep qdrant_config "service: {api_key: $(read_of qdrant_api_key)}"
