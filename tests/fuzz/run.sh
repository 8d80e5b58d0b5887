#!/usr/bin/env bash
# Random calls against a private server, for a bounded time: fuzz.py says what must hold.
#
#   tests/fuzz/run.sh [SECONDS [SEED]]     60 seconds by default, with a new seed each time; make test-fuzz takes one seed always
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres
find_state

[ $# -gt 0 ] || set -- 60
export PYTHONDONTWRITEBYTECODE=1
"$ROOT/scripts/cluster.sh" run -e \
    "$TARGET/venv/bin/python" "$HERE/fuzz.py" "$@"
