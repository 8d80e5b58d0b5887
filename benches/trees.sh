#!/usr/bin/env bash
# Measures tree ensembles beside the predictors of LightGBM, XGBoost and scikit-learn, lleaves, Treelite and YDF.
# trees/trees.py says how. It trains the models once; the large one takes some minutes.
#
#   benches/trees.sh [MODEL..]    lgbm, diamonds, classes, isolation, forest; all of them by default
#   ROUNDS=N                      rounds of a measurement; 7 by default
#   ROWS=N                        at most so many rows of a model
#   PG_CONFIG                     the server to measure; pg_predict must be installed there
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=../scripts/env.sh
source "$HERE/../scripts/env.sh"
find_postgres
library=$PG_LIB/pg_predict/libonnxruntime.so
[[ -f $library ]] || fail "there is no $library" "Run 'make install' first."
have gcc || fail "there is no gcc, which Treelite compiles models with" "Install gcc."

"$ROOT/scripts/venv.sh" "$TARGET/bench-trees-venv" "$HERE/trees/requirements.txt"
python=$TARGET/bench-trees-venv/bin/python
out=$TARGET/bench-trees
mkdir -p "$out"
export PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
"$python" "$HERE/trees/models.py" "$out/models" "$@"
(cd "$ROOT" && cargo build --release --package pg_predict_engine --example score_rows)
export ORT_LIBRARY=$library SCORE_ROWS=$TARGET/release/examples/score_rows

# Two servers, because the kernel is chosen by the environment of the server. A processor without AVX-512 would take another
# kernel without a word.
kernels=(avx512 avx2)
grep -qw avx512bw /proc/cpuinfo || kernels=(avx2 portable)
[ "$(uname -m)" != aarch64 ] || kernels=(neon portable)
settings=(-c shared_preload_libraries=pg_predict -c shared_buffers=512MB -c jit=off -c max_parallel_workers_per_gather=0
    -c autovacuum=off -c synchronize_seqscans=off)
command=("$python" "$HERE/trees/trees.py" "$out/models" "$out" "$@")
for kernel in "${kernels[1]}" "${kernels[0]}"; do
    # shellcheck disable=SC2016
    command=(env PG_PREDICT_TREE_KERNEL="$kernel" "$ROOT/scripts/cluster.sh" run -e "${settings[@]}"
        bash -c 'export TREE_SERVERS="${TREE_SERVERS:-} $PG_PREDICT_TREE_KERNEL=$PGHOST" && unset PG_PREDICT_TREE_KERNEL && exec "$@"' run "${command[@]}")
done
"${command[@]}"
