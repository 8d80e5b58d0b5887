#!/usr/bin/env bash
# The part of run.sh that has a server: loads the tables, creates the models, checks the answers.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
MODELS=$HERE/../../models
GENERATED=$HERE/../../target/models

ask() { psql -X -q -v ON_ERROR_STOP=1 "$@" </dev/null >/dev/null; }

ask -c 'CREATE EXTENSION pg_predict'
ask -v models="$MODELS" -v generated="$GENERATED" -f "$MODELS/sql/load.sql"
ask -v reference="$REFERENCE" -f "$HERE/load.sql"
ask -v models="$MODELS" -v generated="$GENERATED" -f "$MODELS/sql/create.sql"
"$PYTHON" "$HERE/cases.py" >"$REFERENCE/fixtures.tsv"
while IFS=$'\t' read -r name options file; do
    ask -v name="$name" -v options="$options" -v file="$file" -f "$HERE/create.sql"
done <"$REFERENCE/fixtures.tsv"
echo "# tables loaded and models created; each line below is a statement in a session of its own"
[ "${1:-}" = tensors ] || "$PYTHON" "$HERE/check.py" "$@"
[ $# -gt 0 ] && [ "$1" != tensors ] || "$PYTHON" "$HERE/tensors.py"
