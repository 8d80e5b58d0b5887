#!/usr/bin/env bash
# Makes the job that the manifests run, holds them against their schemas, and runs what their containers run.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd "$HERE/../.." && pwd -P)

"$ROOT/scripts/venv.sh" "$ROOT/target/examples/kubernetes" "$HERE/requirements.txt"
psql -X -q -v root="$ROOT" -f "$HERE/job.sql"
"$ROOT/target/examples/kubernetes/bin/python" "$HERE/check.py"
[ "$(psql -X -qAt -c "SELECT count(*) FROM predict.job_runs WHERE job = 'nightly scores' AND status = 'succeeded'")" = 2 ] || { echo "error: the job should have run twice" >&2; exit 1; }
psql -X -q -c "SELECT predict.drop_job('nightly scores')" >/dev/null
