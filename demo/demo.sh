#!/usr/bin/env bash
# Owns `make demo`: a private server with real tables and models, and three uses of pg_predict played on it. It can be run
# again, with the server still up or stopped: what is there already is kept, and the uses are played anew.
set -euo pipefail
source "$(dirname "$0")/../scripts/env.sh"
cd "$ROOT"
find_postgres

scripts/cluster.sh start
eval "$(scripts/cluster.sh env)"
export PGAPPNAME="pg_predict demo" PGCLIENTENCODING=UTF8

play() {
    "$PG_BIN/psql" -X -q -P pager=off -v models="$ROOT/models" -v generated="$TARGET/models" "$@" ||
        fail "the demo stopped at the statement above" "Try it by hand: make psql. The server is $(scripts/cluster.sh status)."
}

# One value of the database.
ask() { "$PG_BIN/psql" -X -q -A -t -c "$1"; }

# Waits until a question is answered by t, and gives up on a run of the job that failed.
await() {
    local second trouble
    for ((second = 0; ; second++)); do
        [ "$(ask "$1")" != t ] || return 0
        trouble=$(ask "SELECT return_message FROM cron.job_run_details WHERE status = 'failed' AND runid > $last ORDER BY runid LIMIT 1")
        [ "$second" -lt 120 ] && [ -z "$trouble" ] ||
            fail "the job did not do its work in $second seconds${trouble:+; it says: $trouble}" \
                "Look: make psql, then SELECT * FROM cron.job_run_details ORDER BY runid DESC LIMIT 5;"
        [ $((second % 5)) -ne 0 ] || printf '   %s s\n' "$second" >&2
        sleep 1
    done
}

say "tables and models (kept when they are there)"
play -c "SET client_min_messages = warning" -c "CREATE EXTENSION IF NOT EXISTS pg_predict"
play -f models/sql/load.sql
# The recommender's versions are part (b) of the demo.
"$PG_BIN/psql" -X -q -P pager=off -v models="$ROOT/models" -f models/sql/create.sql || fail "the models could not be created (see above)" "Try it by hand: make psql."

play -f demo/1-select.sql
play -f demo/2-etl.sql

if [ "$(ask "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_cron'")" = 1 ] && [[ $(ask "SHOW shared_preload_libraries") == *pg_cron* ]]; then
    play -f demo/3-schedule.sql
    last=$(ask "SELECT coalesce(max(runid), 0) FROM cron.job_run_details")
    say "waiting for the job (after a start of the server: until the next full minute)"
    await "SELECT NOT EXISTS (SELECT FROM applications WHERE risk IS NULL)"
    say "they are scored; more arrive"
    play -c "INSERT INTO applications SELECT * FROM loans WHERE id BETWEEN 1001 AND 3000"
    await "SELECT NOT EXISTS (SELECT FROM applications WHERE risk IS NULL)"
    # pg_cron writes the end of a run into its log a moment after it.
    await "SELECT count(*) >= 2 FROM cron.job_run_details WHERE status = 'succeeded' AND command LIKE '%score_applications%' AND start_time > pg_postmaster_start_time()"
    echo
    play -f demo/4-scheduled.sql
else
    say "(c) is left out: the server of $PG_CONFIG has no pg_cron"
fi

cat <<TEXT

The server stays up, and the job goes on. Go on yourself:

  make psql                             this database; then for example
                                          SELECT name, version, aliases, bytes FROM predict.models;
                                          SELECT id, price, round(predict('diamonds/variable', d)) FROM diamonds d LIMIT 5;
  make stop                             stops the server; make demo starts it again
  make clean                            removes all of it
  make install                          pg_predict into your own server (PG_CONFIG=...), then there: CREATE EXTENSION pg_predict;
TEXT
