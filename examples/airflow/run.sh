#!/usr/bin/env bash
# Installs Airflow 3, makes the job, and runs the DAG by dag.test() with a metadata database of its own.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd "$HERE/../.." && pwd -P)
source "$HERE/../skip.sh"

[ "$(df --output=avail -m "$ROOT" | tail -n 1)" -gt 2000 ] || [ -e "$ROOT/target/examples/airflow" ] || left_out "Airflow takes 400 MB of disk, and less than 2 GB are free"
"$ROOT/scripts/venv.sh" "$ROOT/target/examples/airflow" "$HERE/requirements.txt"
psql -X -q -v root="$ROOT" -f "$HERE/job.sql"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export AIRFLOW_HOME=$work PATH=$ROOT/target/examples/airflow/bin:$PATH
export AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__CORE__DAGS_FOLDER=$HERE/dags AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False AIRFLOW__LOGGING__LOGGING_LEVEL=WARNING
AIRFLOW_CONN_PG_PREDICT=$(printf '{"conn_type": "postgres", "host": "%s", "port": %s, "login": "%s", "schema": "%s"}' "$PGHOST" "${PGPORT:-5432}" "$PGUSER" "$PGDATABASE")
export AIRFLOW_CONN_PG_PREDICT
airflow db migrate >/dev/null 2>&1 || airflow db migrate
python "$HERE/run_dag.py"
psql -X -q -c "SELECT predict.drop_job('example airflow')" >/dev/null
