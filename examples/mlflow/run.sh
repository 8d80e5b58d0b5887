#!/usr/bin/env bash
# Installs MLflow and the package pg-predict, and runs registry_to_postgres.py against the server that PGHOST names.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$HERE/../..

"$ROOT/scripts/venv.sh" "$ROOT/target/examples/mlflow" "$HERE/requirements.txt"
psql -X -q -v ON_ERROR_STOP=1 -c 'CREATE EXTENSION IF NOT EXISTS pg_predict' </dev/null
psql -X -q -v ON_ERROR_STOP=1 -v models="$ROOT/models" -f "$ROOT/models/sql/load.sql" </dev/null >/dev/null
PYTHONPATH=$ROOT/clients/python/src "$ROOT/target/examples/mlflow/bin/python" -W ignore "$HERE/registry_to_postgres.py"
