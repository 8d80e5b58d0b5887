#!/usr/bin/env bash
# Installs the package pg-predict with the libraries of the models, and runs five_models.py against the server that PGHOST names.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$HERE/../..
source "$HERE/../skip.sh"

[ "$(df --output=avail -m "$ROOT" | tail -n 1)" -gt 9000 ] || [ -e "$ROOT/target/client-venv" ] || left_out "PyTorch and its libraries take 7 GB of disk"
"$ROOT/scripts/venv.sh" "$ROOT/target/client-venv" "$ROOT/clients/python/requirements.txt"
psql -X -q -v ON_ERROR_STOP=1 -c 'CREATE EXTENSION IF NOT EXISTS pg_predict' </dev/null
psql -X -q -v ON_ERROR_STOP=1 -v models="$ROOT/models" -f "$ROOT/models/sql/load.sql" </dev/null >/dev/null
PYTHONPATH=$ROOT/clients/python/src "$ROOT/target/client-venv/bin/python" -W ignore "$HERE/five_models.py"
