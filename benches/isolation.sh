#!/usr/bin/env bash
# Compares models in model processes with models in the backend: speed, single calls, starts and memory. isolation.py says how.
#
#   benches/isolation.sh [PART..]     throughput, calls, pgbench, start, memory; all of them by default
#   PAIRS=N                           pairs of a measurement; 11 by default
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../scripts/env.sh"
find_postgres
"$ROOT/scripts/packages.sh" minilm
export PYTHONDONTWRITEBYTECODE=1 MINILM=$TARGET/packages/minilm LARGE_MODEL=$TARGET/big-100.onnx
[ -e "$LARGE_MODEL" ] || "$TARGET/venv/bin/python" "$HERE/models/big.py" "$LARGE_MODEL"
"$ROOT/scripts/cluster.sh" run -e -c shared_preload_libraries=pg_predict -c shared_buffers=512MB -c max_connections=200 bash -c \
    'psql -X -q -v ON_ERROR_STOP=1 -v models="$1" -f "$1/sql/load.sql" && shift && exec "$@"' run \
    "$ROOT/models" "$TARGET/venv/bin/python" "$HERE/isolation.py" "$@"
