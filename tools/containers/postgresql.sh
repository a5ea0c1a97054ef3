#!/bin/sh
# What the official image's entry point does: on the first start a cluster with one user and one database.
set -eu
data=/var/lib/postgresql/18/docker
bin=$(dirname "$(readlink -f "$(command -v postgres)")")
if [ ! -s "$data/PG_VERSION" ]; then
    mkdir -p "$data"
    echo "$POSTGRES_PASSWORD" > /tmp/password
    "$bin/initdb" -D "$data" -U "$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 -E UTF8
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
    "$bin/pg_ctl" -D "$data" -o "-c listen_addresses= -k /tmp" -w start
    "$bin/createdb" -h /tmp -U "$POSTGRES_USER" "$POSTGRES_DB"
    "$bin/pg_ctl" -D "$data" -w stop
fi
exec "$bin/postgres" -D "$data" -c "listen_addresses=*" -k /tmp
