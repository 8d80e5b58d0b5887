#!/usr/bin/env bash
# Runs one suite of tests against what is installed in the server of PG_CONFIG, on private servers of its own.
#
#   scripts/test.sh sql [NAME..]         tests/sql/NAME.sql against tests/expected/NAME.out, by pg_regress
#   scripts/test.sh isolation [NAME..]   tests/isolation/specs/NAME.spec against tests/isolation/expected/NAME.out
#   scripts/test.sh tap [NAME..]         tests/tap/NAME.pl, each with servers that it makes itself, by prove
#
# The tests find this checkout (or a copy that the server's user can read) by PG_PREDICT_ROOT, and by PG_ABS_SRCDIR its tests/.
set -euo pipefail
source "$(dirname "$0")/env.sh"
find_postgres
find_readable
export PG_PREDICT_ROOT=$READABLE
suite=${1:-}
[ $# -eq 0 ] || shift

# Sets NAMES: those that the caller gave, or all files of the folder $1 that end in $2.
choose() {
    local folder=$1 ending=$2 file
    shift 2
    NAMES=("$@")
    [ ${#NAMES[@]} -eq 0 ] || return 0
    for file in "$ROOT/$folder"/*"$ending"; do
        [ ! -e "$file" ] || NAMES+=("$(basename "$file" "$ending")")
    done
    [ ${#NAMES[@]} -gt 0 ] || fail "there is no $folder/*$ending" "A suite without tests proves nothing."
}

# Runs pg_regress or pg_isolation_regress (the program $1) on the tests in the folder $2, and shows what differs.
regress() {
    local program=$1 input=$2 output=$TARGET/$suite
    rm -rf "$output"
    mkdir -p "$output"
    local name
    for name in "${NAMES[@]}"; do
        [ -e "$input/expected/$name.out" ] || fail "the test $name has no ${input#"$READABLE/"}/expected/$name.out" \
            "Make an empty one, run the test, read $output/results/$name.out, and keep that if it is right."
    done
    [ -x "$program" ] || fail "there is no $program" "It comes with the development package of the server."
    "$ROOT/scripts/cluster.sh" run sh -c '
        exec "$0" --host="$PGHOST" --port="$PGPORT" --user="$PGUSER" "$@"' "$program" \
        --bindir="$PG_BIN" --inputdir="$input" --outputdir="$output" --dbname="pg_predict_$suite" --load-extension=pg_predict "${NAMES[@]}" || {
        [ ! -s "$output/regression.diffs" ] || head -n 300 "$output/regression.diffs"
        fail "tests of the suite '$suite' failed" "The whole difference is in $output/regression.diffs; a right new answer is in $output/results."
    }
}

case $suite in
    sql)
        choose tests/sql .sql "$@"
        regress "$PG_XS/src/test/regress/pg_regress" "$READABLE/tests"
        ;;
    isolation)
        choose tests/isolation/specs .spec "$@"
        regress "$PG_XS/src/test/isolation/pg_isolation_regress" "$READABLE/tests/isolation"
        ;;
    tap)
        choose tests/tap .pl "$@"
        [ -d "$PG_XS/src/test/perl/PostgreSQL" ] || fail "there is no $PG_XS/src/test/perl" "It comes with the development package of the server."
        output=$STATE/tap
        rm -rf "$output"
        mkdir -p "$output"
        [ "$(id -u)" -ne 0 ] || chown "$SERVER_USER": "$output"
        if [[ " ${NAMES[*]} " == *" hostile "* ]]; then
            cargo build --quiet --release --package pg_predict_model_process --example hostile --config "$PGRX_LINKING" ||
                fail "the hostile model process did not build (see above)"
            # The server's user may not get to target/.
            install -m 755 "$TARGET/release/examples/hostile" "$output/hostile"
            export PG_PREDICT_HOSTILE=$output/hostile
        fi
        # No variable of the caller's may lead a test to a server that is not its own.
        unset PGHOST PGPORT PGUSER PGDATABASE PGSERVICE PGHOSTADDR PGOPTIONS PGDATA
        export PG_REGRESS=$PG_XS/src/test/regress/pg_regress TESTDIR=$output TESTDATADIR=$output/tmp_check TESTLOGDIR=$output/tmp_check/log
        export PATH=$PG_BIN:$PATH LC_ALL=C.UTF-8
        cd "$READABLE"
        files=("${NAMES[@]/#/tests/tap/}")
        as_server prove --timer -I "$PG_XS/src/test/perl" "${files[@]/%/.pl}" ||
            fail "tests of the suite 'tap' failed" "Their logs and those of their servers are in $output/tmp_check."
        ;;
    *)
        sed -n '4,6s/^# *//p' "$0" >&2
        exit 2
        ;;
esac
