#!/usr/bin/env bash
# sqlsmith against a private server with models and stored results, as a role without privileges: random statements that are
# valid or nearly so, over everything that PUBLIC may call. What must hold: the server does not restart, and no statement
# of it ends in an internal error of this extension.
#
#   tests/sqlsmith/run.sh [SECONDS [SEED]]     60 seconds by default, with a new seed each time
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres
find_readable
seconds=${1:-60}
seed=${2:-$RANDOM}

# The Debian package; other systems may have none.
if ! have sqlsmith; then
    say "skipped: sqlsmith is not installed (the Debian package sqlsmith)"
    exit 0
fi
export PG_ABS_SRCDIR=$READABLE/tests seconds seed
"$ROOT/scripts/cluster.sh" run -c shared_preload_libraries=pg_predict -c statement_timeout=5s -c log_min_messages=error -c log_error_verbosity=verbose \
    bash "$HERE/smith.sh"
