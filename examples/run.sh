#!/usr/bin/env bash
# Runs the examples in a private server that is gone afterwards, and fails where one does not keep its promise.
#
#   examples/run.sh [NAME..]     folders of examples/; all of them by default
#
# An example is a folder NAME with NAME.sql, which psql runs, or with run.sh, which finds the server by PGHOST and so on. One that
# cannot run here, because something optional is not there, ends with status 77 after saying why.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../scripts/env.sh"
find_postgres
find_state

if [ "${1:-}" = --inside ]; then
    shift
    passed=() left=() failed=()
    reason=$(mktemp)
    trap 'rm -f "$reason"' EXIT
    for name in "$@"; do
        say "examples/$name"
        began=$SECONDS status=0
        : >"$reason"
        if [ -x "$HERE/$name/run.sh" ]; then
            REASON=$reason "$HERE/$name/run.sh" || status=$?
        else
            "$PG_BIN/psql" -X -q -v root="$ROOT" -f "$HERE/$name/$name.sql" || status=$?
        fi
        case $status in
            0) passed+=("$name ($((SECONDS - began)) s)") ;;
            77) left+=("$name: $(cat "$reason")") ;;
            *) failed+=("$name") ;;
        esac
    done
    say "kept their promises: ${passed[*]:-none}"
    for one in "${left[@]}"; do say "LEFT OUT $one"; done
    [ ${#failed[@]} -eq 0 ] || fail "examples that failed: ${failed[*]}" "Their output is above; examples/run.sh NAME runs one."
    exit
fi

if [ $# -eq 0 ]; then
    set -- recommendations loans sentiment documents images promotion nightly python mlflow dbt airflow spark kubernetes
fi
for name in "$@"; do
    [ -x "$HERE/$name/run.sh" ] || [ -e "$HERE/$name/$name.sql" ] || fail "there is no example '$name'" "They are the folders of examples/."
done
export PYTHONDONTWRITEBYTECODE=1
case " $* " in
    *" sentiment "* | *" documents "* | *" images "* | *" recommendations "* | *" dbt "* | *" spark "*)
        "$ROOT/scripts/packages.sh" minilm rapidocr
        for maker in minilm text_line two_tower; do
            "$TARGET/venv/bin/python" "$ROOT/models/$maker.py"
        done
        ;;
esac
PG_PREDICT_CRON=yes exec "$ROOT/scripts/cluster.sh" run -c shared_buffers=256MB -c work_mem=64MB "$HERE/run.sh" --inside "$@"
