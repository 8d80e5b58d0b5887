#!/usr/bin/env bash
# Compares this build with another, for example that of the commit before: compare.py says how.
#
#   benches/compare.sh CHECKOUT PG_CONFIG     the other checkout, and the pg_config of the server that its build is installed in
#
# This build is the one in the server that the environment's PG_CONFIG names. Both servers are private ones that are gone afterwards.
set -euo pipefail

[ $# -eq 2 ] || { sed -n '2,6p' "$0"; exit 2; }
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../scripts/env.sh"
find_postgres
# The other checkout's scripts set names of their own, and put their server first in PATH.
export OTHER_CHECKOUT=$1 THIS_CONFIG=$PG_CONFIG THIS_ROOT=$ROOT THIS_TARGET=$TARGET
PG_CONFIG=$2 "$OTHER_CHECKOUT/scripts/cluster.sh" run bash -c '
    other="host=$PGHOST port=$PGPORT dbname=$PGDATABASE user=$PGUSER"
    exec env -u PGHOST -u PGPORT -u PGDATABASE -u PGUSER PG_CONFIG="$THIS_CONFIG" \
        "$THIS_ROOT/scripts/cluster.sh" run "$THIS_TARGET/venv/bin/python" "$THIS_ROOT/benches/compare.py" "$other"'
