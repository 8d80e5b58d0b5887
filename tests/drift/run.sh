#!/usr/bin/env bash
# The drift check: predict.drift() must give the figures of numpy and scipy, and flag what was shifted and nothing else.
#
#   tests/drift/run.sh
#
# Needs pg_predict installed in the server that PG_CONFIG names, and a Python with what tests/requirements.txt pins
# (PYTHON, default target/venv/bin/python). The server is a private one that is gone afterwards; see scripts/cluster.sh.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres
find_state

PYTHON=${PYTHON:-$TARGET/venv/bin/python}
[ -x "$PYTHON" ] || fail "there is no $PYTHON" "Make it with 'make setup', or set PYTHON to one that has what tests/requirements.txt pins."
export PYTHONDONTWRITEBYTECODE=1

"$ROOT/scripts/cluster.sh" run -c shared_buffers=256MB -c work_mem=64MB bash -c '
    set -euo pipefail
    psql -X -q -v ON_ERROR_STOP=1 -c "CREATE EXTENSION pg_predict" </dev/null
    for script in load create; do psql -X -q -v ON_ERROR_STOP=1 -v models="$1" -f "$1/sql/$script.sql" </dev/null >/dev/null; done
    exec "$2" "$3"' run "$ROOT/models" "$PYTHON" "$HERE/check.py"
