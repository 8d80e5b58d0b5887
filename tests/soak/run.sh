#!/usr/bin/env bash
# Random queries, cancels and signals to model processes for a long time, against a private server: soak.py says what must hold.
#
#   tests/soak/run.sh [SECONDS [SEED]]     an hour by default, with a new seed each time
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres
find_state

[ $# -gt 0 ] || set -- 3600
export PYTHONDONTWRITEBYTECODE=1
"$ROOT/scripts/cluster.sh" run -e -c shared_preload_libraries=pg_predict -c pg_predict.isolation=process \
    "$TARGET/venv/bin/python" "$HERE/soak.py" "$@"
