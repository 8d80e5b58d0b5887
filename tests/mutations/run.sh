#!/usr/bin/env bash
# Mutated models and calls with mutated arguments, against a private server: mutations.py says what must hold.
#
#   tests/mutations/run.sh [MODELS [CALLS [SEED]]]     10,000 models and 1,000,000 calls by default, with a new seed each time
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres
find_state

[ $# -gt 0 ] || set -- 10000
[ $# -gt 1 ] || set -- "$1" 1000000
"$ROOT/scripts/packages.sh" onnx
export PYTHONDONTWRITEBYTECODE=1
"$ROOT/scripts/cluster.sh" run -e -c shared_preload_libraries=pg_predict -c pg_predict.isolation=process \
    "$TARGET/venv/bin/python" "$HERE/mutations.py" "$TARGET/packages/onnx" "$@"
