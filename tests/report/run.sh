#!/usr/bin/env bash
# The report: its page is valid HTML, shows what SQL says, is drawn by a real browser without a complaint, and gives nothing away.
# The dashboard's and the exporter's queries in docs/ run.
#
#   tests/report/run.sh [--write]     --write: keeps the screenshots in docs/images/ and the charts to compare with
#
# Needs pg_predict installed in the server that PG_CONFIG names, Chromium with its driver (Debian: chromium, chromium-driver), Java
# for the HTML checker (default-jre-headless), and what requirements.txt pins, which goes to target/report-venv. The servers are
# private ones that are gone afterwards; see scripts/cluster.sh.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres
find_state

BROWSER=yes "$ROOT/scripts/setup.sh"
VENV=$TARGET/report-venv
"$ROOT/scripts/venv.sh" "$VENV" "$HERE/requirements.txt"
export PYTHONDONTWRITEBYTECODE=1

OUT=$TARGET/report
mkdir -p "$OUT"
# With statistics, then a server that does not count.
"$ROOT/scripts/cluster.sh" run -c shared_preload_libraries=pg_predict -c shared_buffers=256MB -c timezone=UTC bash -c '
    set -euo pipefail
    psql -X -q -v ON_ERROR_STOP=1 -c "CREATE EXTENSION pg_predict" </dev/null
    psql -X -q -v ON_ERROR_STOP=1 -v models="$1" -f "$1/sql/load.sql" </dev/null >/dev/null
    psql -X -q -v ON_ERROR_STOP=1 -v models="$1" -f "$2/prepare.sql" </dev/null >/dev/null
    exec "${@:3}"' run "$ROOT/models" "$HERE" "$VENV/bin/python" "$HERE/check.py" "$OUT" "$@"
"$ROOT/scripts/cluster.sh" run bash -c '
    set -euo pipefail
    psql -X -q -v ON_ERROR_STOP=1 -c "CREATE EXTENSION pg_predict" </dev/null
    psql -X -q -v ON_ERROR_STOP=1 -v models="$1" -f "$1/sql/create.sql" </dev/null >/dev/null
    exec "${@:2}"' run "$ROOT/models" "$VENV/bin/python" "$HERE/check.py" --not-preloaded
