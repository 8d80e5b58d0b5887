#!/usr/bin/env bash
# Runs the benchmark: starts a private cluster of the installed server, loads the table, runs pg_predict_bench, and
# stops the cluster. It owns target/bench and touches no other server.
#
#   PG_CONFIG  the server to measure (default pg_config); pg_predict must be installed there
#   QUICK=1    100,000 rows and 3 runs instead of 1,000,000 and 5, few peers
#   ROWS, RUNS override either number
#   ONLY=A,B   some parts alone: linear, mlp, lgbm, flights, loans, sessions (rows, small calls, starts, memory), text
#   PEERS=0    leaves the peers out
#   BUILD=0    use target/release/pg_predict_bench as it is
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=../scripts/env.sh
. "$here/../scripts/env.sh"

find_postgres
find_state
library=$PG_LIB/pg_predict/libonnxruntime.so
[[ -f $PG_LIB/pg_predict.so ]] || fail "pg_predict is not installed in $PG_LIB" "Run 'make install' first."
[[ -f $library ]] || fail "there is no $library" "Run 'make install' first."
[[ -x $PG_BIN/initdb ]] || fail "there is no $PG_BIN/initdb" "Install the server that belongs to $PG_CONFIG."

quick=()
rows=1000000
runs=5
tweets=4200
flights=336776
loans=200000
if [[ ${QUICK:-0} == 1 ]]; then
  quick=(--quick)
  rows=100000
  runs=3
  tweets=200
  flights=50000
  loans=20000
  # Not one of the short run's peers, and large.
  export SPARK=${SPARK:-0}
fi
rows=${ROWS:-$rows}
runs=${RUNS:-$runs}
[[ $rows =~ ^[1-9][0-9]*$ && $runs =~ ^[1-9][0-9]*$ ]] || fail "ROWS and RUNS must be positive whole numbers"
sample=$((rows < 20000 ? rows : 20000))

program=$TARGET/release/pg_predict_bench
if [[ ${BUILD:-1} != 0 ]]; then
  say "building the benchmark program"
  (cd "$ROOT" && cargo build --release -p pg_predict_benches)
fi
[[ -x $program ]] || fail "there is no $program" "Run without BUILD=0."

out=$TARGET/bench
mkdir -p "$out" "$STATE/bench"
exec 9>"$out/lock"
flock -n 9 || fail "another benchmark is running in $out"
rm -f "$out"/results.json "$out"/results.md "$out"/*.svg "$out/server.log"

peers=()
if [[ ${PEERS:-1} != 0 ]]; then
  say "preparing the peers"
  "$here/peers/setup.sh"
  peers=(--peers "$TARGET/bench-venv/bin/python")
fi
big=$out/big_mlp.onnx
[[ -f $big ]] || "$TARGET/venv/bin/python" "$here/models/big.py" "$big"
cd "$STATE"
data=$STATE/bench/data

# Runs a program of the server as the user who owns the cluster; the lock stays here, a server would keep it.
server() { as_server "$PG_BIN/$1" "${@:2}" 9>&-; }

# A run that was killed leaves its server: it is ours if the process of that number lives in our directory.
if [[ -f $data/postmaster.pid ]]; then
  pid=$(head -n 1 "$data/postmaster.pid")
  if [[ $(readlink "/proc/$pid/cwd" || true) == "$(readlink -f "$data")" ]]; then
    say "stopping the server of an earlier run"
    server pg_ctl -D "$data" -m immediate -w stop >/dev/null
  fi
fi
rm -rf "$data"
mkdir -m 700 "$data"
chown "$SERVER_USER" "$data"
# A socket's path may be 107 bytes long, which a deep checkout exceeds.
socket=$(mktemp -d /tmp/pg_predict_bench.XXXXXX)
chown "$SERVER_USER" "$socket"

stop() {
  local status=$?
  if [[ -f $data/postmaster.pid ]]; then
    server pg_ctl -D "$data" -m immediate -w stop >/dev/null 2>&1 || say "the server in $data did not stop"
  fi
  if [[ $status != 0 && -f $data/server.log ]]; then
    cp "$data/server.log" "$out/server.log"
    say "the benchmark failed; its server's log is in $out/server.log and ends so:"
    tail -n 10 "$out/server.log" >&2
  fi
  rm -rf "$data" "$socket"
  exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "starting a private server ($("$PG_CONFIG" --version))"
server initdb -D "$data" -U postgres -A trust -E UTF8 --no-locale --no-sync >/dev/null
cat >>"$data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$socket'
port = 5432
shared_preload_libraries = pg_predict
shared_buffers = 2GB
work_mem = 64MB
fsync = off
autovacuum = off
jit = off
synchronize_seqscans = off
max_wal_size = 4GB
checkpoint_timeout = 1h
log_checkpoints = off
max_parallel_workers_per_gather = 0
CONF
server pg_ctl -D "$data" -l "$data/server.log" -w start >/dev/null

say "loading $rows rows"
"$ROOT/scripts/packages.sh" minilm
export PG_PREDICT_TWEETS=$ROOT/tests/reference/data/tweets.csv.gz
export PG_PREDICT_FLIGHTS=$ROOT/models/data/flights.csv.gz PG_PREDICT_LOANS=$ROOT/models/data/loans.csv.gz
"$PG_BIN/psql" -X -q -h "$socket" -p 5432 -U postgres -d postgres -v ON_ERROR_STOP=1 \
  -v rows="$rows" -v sample="$sample" -v tweets="$tweets" \
  -v flights="$flights" -v loans="$loans" -f "$here/sql/setup.sql" >/dev/null

commit=$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || true)
if [[ -n $commit && -n $(git -C "$ROOT" status --porcelain 2>/dev/null) ]]; then
  commit="$commit, with changes"
fi

ORT_DISABLE_TELEMETRY=1 ORT_TELEMETRY_DISABLED=1 "$program" --socket "$socket" --port 5432 --programs "$PG_BIN" \
  --library "$library" --root "$ROOT" --minilm "$TARGET/packages/minilm" --big-model "$big" --out "$out" \
  ${ONLY:+--only "$ONLY"} --runs "$runs" --commit "${commit:-unknown}" "${quick[@]}" "${peers[@]}"
