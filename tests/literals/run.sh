#!/usr/bin/env bash
# Mutated values of type prediction_batch against a private server: fuzz.py says what must hold.
#
#   tests/literals/run.sh [COUNT [SEED]]     40,000 values by default, with a new seed each time; make test-literals takes one seed always
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres
find_state

[ $# -gt 0 ] || set -- 40000
export PYTHONDONTWRITEBYTECODE=1
"$ROOT/scripts/cluster.sh" run -e \
    "$TARGET/venv/bin/python" "$HERE/fuzz.py" "$@"
