#!/usr/bin/env bash
# What counting costs: the linear case of the benchmark on two servers at once, one with pg_predict in shared_preload_libraries and
# one without, in turns. Prints the median, minimum and maximum of each in ns per row, and the ratio of the medians.
#
#   benches/statistics.sh [RUNS]        21 of each by default
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../scripts/env.sh"
find_postgres
find_state

if [ "${1:-}" != --inside ]; then
    export RUNS=${1:-21} MODEL=$HERE/models/linear.onnx
    common=(-c jit=off -c shared_buffers=512MB -c autovacuum=off -c max_parallel_workers_per_gather=0)
    exec "$ROOT/scripts/cluster.sh" run "${common[@]}" bash -c 'WITHOUT=$PGHOST exec "$@"' run \
        "$ROOT/scripts/cluster.sh" run "${common[@]}" -c shared_preload_libraries=pg_predict "$HERE/statistics.sh" --inside
fi

hosts=("$WITHOUT" "$PGHOST")
ask() { "$PG_BIN/psql" -X -q -A -t -h "$@"; }
for host in "${hosts[@]}"; do
    base64 "$MODEL" | tr -d '\n' >"$TARGET/linear.base64"
    ask "$host" -v model="$(cat "$TARGET/linear.base64")" <<'SQL' >/dev/null
CREATE EXTENSION pg_predict;
SELECT predict.create_model('linear', decode(:'model', 'base64'));
CREATE TABLE big AS SELECT random()::real AS a, random()::real AS b, random()::real AS c, random()::real AS d, random()::real AS e,
    random()::real AS f, random()::real AS g, random()::real AS h, random()::real AS i, random()::real AS j FROM generate_series(1, 1000000);
VACUUM ANALYZE big;
SQL
done
rm -f "$TARGET/linear.base64"
[ "$(ask "${hosts[1]}" -c "SELECT count(*) FROM predict.stat_models")" = 1 ]

# One session on each server, which runs the form in turns with the other one.
python3 - "$PG_BIN/psql" "$RUNS" "${hosts[@]}" <<'PYTHON'
import re, statistics, subprocess, sys

psql, runs, hosts = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
forms = {
    "predict_batch": "SELECT cardinality((predict_batch('linear', a, b, c, d, e, f, g, h, i, j))::real[]) FROM big;",
    "predict": "SELECT sum(predict('linear', a, b, c, d, e, f, g, h, i, j)) FROM big;",
}
sessions = [subprocess.Popen([psql, "-X", "-q", "-A", "-t", "-h", h], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for h in hosts]

def run(session, sql):
    session.stdin.write("\\timing on\n" + sql + "\n\\timing off\n")
    session.stdin.flush()
    while True:
        line = session.stdout.readline()
        if not line:
            sys.exit("a session ended")
        if found := re.match(r"Time: ([\d.]+) ms", line):
            return float(found[1])

for name, sql in forms.items():
    for session in sessions:
        run(session, sql), run(session, sql)
    took = [[], []]
    for n in range(runs):
        for which in (0, 1) if n % 2 else (1, 0):
            took[which].append(run(sessions[which], sql))
    for label, times in zip(("not preloaded", "preloaded"), took):
        print(f"{name}, {label}: {statistics.median(times):.1f} ns a row ({min(times):.1f} to {max(times):.1f})")
    pairs = [b / a for a, b in zip(*took)]
    print(f"{name}: counting costs x {statistics.median(took[1]) / statistics.median(took[0]):.4f} (medians), {statistics.median(pairs):.4f} (median of pairs)")
PYTHON
