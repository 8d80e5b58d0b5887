#!/usr/bin/env bash
# Runs random statements with and without the batch scan on a private server: tests/differential/run.sh [STATEMENTS [SEED]]
set -euo pipefail
source "$(dirname "$0")/../../scripts/env.sh"
find_readable
"$ROOT/scripts/cluster.sh" run -c shared_preload_libraries=pg_predict \
    "$TARGET/venv/bin/python" "$ROOT/tests/differential/differential.py" "${1:-1000}" "${2:-1}" "$ROOT/tests/models"
