#!/usr/bin/env bash
# Measures first statements without preloading, many groups, and very many rows. forms.py says how.
#
#   benches/forms.sh [PART..]     first, groups, many; all of them by default
#   ROWS=N, MANY=N, RUNS=N        rows of the table, generated rows, and runs
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../scripts/env.sh"
find_postgres
export PYTHONDONTWRITEBYTECODE=1
"$ROOT/scripts/cluster.sh" run -e -c shared_buffers=1GB "$TARGET/venv/bin/python" "$HERE/forms.py" "$@"
