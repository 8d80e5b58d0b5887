# shellcheck shell=bash
# What run.sh runs beside its server, which the variables of libpq name.
set -euo pipefail

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
psql -X -q -v ON_ERROR_STOP=1 -f "$(dirname "$0")/setup.sql"
# A crash of any process starts the others anew, the checkpointer too.
started() { psql -X -A -t -c "SELECT backend_start FROM pg_stat_activity WHERE backend_type = 'checkpointer'"; }
# Statements whose calls of ours had what they need, and those that failed in one.
before=$(started)
end=$((SECONDS + seconds)) round=0 statements=0
while [ "$SECONDS" -lt "$end" ]; do
    # It ends when it loses its connection; a new round goes on with another seed.
    status=0
    timeout --signal=INT $((end - SECONDS + 5)) sqlsmith --target="host=$PGHOST port=$PGPORT dbname=$PGDATABASE user=stranger" --exclude-catalog \
        --seed=$((seed + round)) --max-queries=2000 --verbose >"$out/said" 2>"$out/errors" || status=$?
    round=$((round + 1))
    n=$(psql -X -A -t -c "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname = current_database()")
    if [ "$(started)" != "$before" ]; then
        echo "seed $((seed + round - 1)): the server restarted" >&2
        tail -n 50 "$out/errors" >&2
        exit 1
    fi
    # Nothing was done: every round must do something.
    if ! grep -q 'queries' "$out/said" "$out/errors" && [ "$status" -ne 124 ]; then
        tail -n 20 "$out/said" "$out/errors" >&2
        echo "sqlsmith did nothing" >&2
        exit 1
    fi
    statements=$n
done
echo "seed $seed: sqlsmith ran for $seconds s in $round rounds, about $statements statements; no restart"
