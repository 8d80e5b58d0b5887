#!/usr/bin/env bash
# Owns the private servers: they listen on a unix socket only, live under target/, and touch no other server of the machine.
#
#   scripts/cluster.sh start | stop | restart | status | remove     the demo's server, in target/demo
#   scripts/cluster.sh psql [ARGUMENT..]                            psql in its database `demo`
#   scripts/cluster.sh env                                          PGHOST and so on of it, for `eval`
#   scripts/cluster.sh run [-e] [-c SETTING=VALUE].. COMMAND..      a server of its own for one command, removed afterwards;
#                                                                   the command finds it by PGHOST, PGPORT, PGUSER, PGDATABASE;
#                                                                   -e creates the extension first;
#                                                                   with PG_PREDICT_CRON=yes it has pg_cron, where that is installed
set -euo pipefail
source "$(dirname "$0")/env.sh"

DATABASE=demo
SETTINGS=()
EXTENSION=

# Sets where the server called $1 keeps its things.
place() {
    find_postgres
    find_state
    NAME=$1
    DIR=$STATE/$NAME
    DATA=$DIR/data
    LOG=$DIR/log
    SOCKET=$DIR
    # A unix socket's address has room for 107 bytes.
    if [ "$(printf '%s' "$DIR/.s.PGSQL.5432" | wc -c)" -gt 107 ]; then
        find_tmp
        SOCKET=$TMP_STATE/$NAME-socket
    fi
}

# Makes a folder that belongs to the server's user alone.
own() {
    mkdir -p "$1"
    chmod 700 "$1"
    [ "$(id -u)" -ne 0 ] || chown "$SERVER_USER": "$1"
}

# Runs a program of the server as its user, from a folder that this user can be in.
server() {
    local program=$1
    shift
    (cd "$DIR" && as_server "$PG_BIN/$program" "$@")
}

running() { [ -f "$DATA/postmaster.pid" ] && server pg_ctl status -D "$DATA" >/dev/null 2>&1; }

# Tells clients where the server is.
address() {
    export PGHOST=$SOCKET PGPORT=5432 PGUSER=postgres PGDATABASE=$DATABASE PATH=$PG_BIN:$PATH
    unset PGHOSTADDR PGSERVICE PGPASSFILE PGOPTIONS
}

# The settings of our servers; those that the caller gave come last and win.
settings() {
    printf '%s\n' "listen_addresses = ''" "port = 5432" "unix_socket_directories = '\"${SOCKET//\'/\'\'}\"'" \
        "unix_socket_permissions = 0700" "logging_collector = off" "log_line_prefix = '%m [%p] '" \
        "max_worker_processes = 24" "cluster_name = 'pg_predict $NAME'"
    # Parallel plans share memory through /dev/shm, which a container may have made too small.
    local shm
    shm=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1 || true)
    [ "${shm:-0}" -ge 262144 ] || printf '%s\n' "dynamic_shared_memory_type = mmap"
    if [ "$NAME" = demo ] && [ -e "$PG_LIB/pg_cron.so" ]; then
        # Jobs connect through the socket. As background workers (pg_cron 1.4) they would wait for one another.
        printf '%s\n' "shared_preload_libraries = 'pg_cron'" "cron.database_name = '$DATABASE'" "cron.host = '${SOCKET//\'/\'\'}'" \
            "cron.use_background_workers = off"
    fi
    if [ "$NAME" != demo ] && [ "${PG_PREDICT_CRON:-}" = yes ] && [ -e "$PG_LIB/pg_cron.so" ]; then
        printf '%s\n' "shared_preload_libraries = 'pg_cron,pg_predict'" "cron.database_name = '$DATABASE'" "cron.host = '${SOCKET//\'/\'\'}'" \
            "cron.use_background_workers = off"
    fi
    [ -z "${PG_PREDICT_ISOLATION:-}" ] || printf '%s\n' "pg_predict.isolation = '$PG_PREDICT_ISOLATION'"
    [ ${#SETTINGS[@]} -eq 0 ] || printf '%s\n' "${SETTINGS[@]}"
}

create() {
    say "making a private server in $DIR"
    server initdb -D "$DATA" --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync --no-instructions >"$DIR/initdb.log" 2>&1 ||
        fail "initdb failed; it said:" "$(tail -n 20 "$DIR/initdb.log")"
    printf "\ninclude 'pg_predict.conf'\n" >>"$DATA/postgresql.conf"
    : >"$DATA/pg_predict.conf"
    # Before the first start, so that pg_cron finds the database that it works in.
    server postgres --single -D "$DATA" postgres <<<"CREATE DATABASE $DATABASE" >>"$DIR/initdb.log" 2>&1 ||
        fail "could not create the database $DATABASE; the server said:" "$(tail -n 20 "$DIR/initdb.log")"
    : >"$DIR/complete"
}

start() {
    own "$DIR"
    own "$SOCKET"
    # What an interrupted run left is no server.
    [ -e "$DIR/complete" ] || rm -rf "$DATA"
    [ -d "$DATA" ] || create
    local version
    version=$(cat "$DATA/PG_VERSION")
    [ "$version" = "$PG_MAJOR" ] ||
        fail "the server in $DIR is of PostgreSQL $version, and $PG_CONFIG is of $PG_MAJOR" "Remove it (its data too): scripts/cluster.sh remove"
    if running; then
        return
    fi
    settings >"$DATA/pg_predict.conf"
    server pg_ctl start -D "$DATA" -l "$LOG" -w -t 120 >/dev/null </dev/null ||
        fail "the private server did not start; the end of $LOG:" "$(tail -n 20 "$LOG")"
}

stop() {
    if [ -d "$DIR" ] && running; then
        server pg_ctl stop -D "$DATA" -m fast -w -t 120 >/dev/null || fail "the private server did not stop" "Look into $LOG."
    fi
}

remove() {
    stop
    rm -rf "$DIR" "$SOCKET"
}

# A server for one command. Its log is kept where the command failed.
run() {
    place "run-$$"
    trap 'remove' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    SETTINGS=("fsync = off" "full_page_writes = off" "max_wal_size = 4GB" "${SETTINGS[@]}")
    start
    address
    local status=0
    [ -z "$EXTENSION" ] || psql -X -q -v ON_ERROR_STOP=1 -c "CREATE EXTENSION pg_predict" </dev/null || status=$?
    [ "$status" -ne 0 ] || "$@" || status=$?
    if [ "$status" -ne 0 ]; then
        cp "$LOG" "$TARGET/last-failed-server.log"
        say "the command failed; the server's log is $TARGET/last-failed-server.log"
    fi
    exit "$status"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
    start)
        place demo
        start
        ;;
    stop)
        place demo
        stop
        ;;
    restart)
        place demo
        stop
        start
        ;;
    remove)
        place demo
        remove
        ;;
    status)
        place demo
        if running; then
            echo "running: $DIR (socket $SOCKET, log $LOG)"
        else
            echo "not running"
            exit 3
        fi
        ;;
    env)
        place demo
        address
        printf 'export %s=%q\n' PGHOST "$PGHOST" PGPORT "$PGPORT" PGUSER "$PGUSER" PGDATABASE "$PGDATABASE"
        ;;
    psql)
        place demo
        running || fail "the demo's server is not running" "Start it with: make demo"
        address
        exec "$PG_BIN/psql" "$@"
        ;;
    run)
        if [ "${1:-}" = -e ]; then
            EXTENSION=yes
            shift
        fi
        while [ "${1:-}" = -c ]; do
            SETTINGS+=("${2/=/ = }")
            shift 2
        done
        [ $# -gt 0 ] || fail "run what?" "usage: scripts/cluster.sh run [-e] [-c SETTING=VALUE].. COMMAND.."
        run "$@"
        ;;
    *)
        sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
