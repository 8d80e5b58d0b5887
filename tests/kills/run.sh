#!/usr/bin/env bash
# Signals to model processes at random moments, against a private server: kills.py says what must hold.
#
#   tests/kills/run.sh [COUNT [SEED]]     200 signals by default, with a new seed each time
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres
find_state

[ $# -gt 0 ] || set -- 200
export PYTHONDONTWRITEBYTECODE=1
"$ROOT/scripts/cluster.sh" run -e -c shared_preload_libraries=pg_predict -c pg_predict.isolation=process \
    "$TARGET/venv/bin/python" "$HERE/kills.py" "$@"
