#!/usr/bin/env bash
# The tables of the model file's schema against the onnx package's, and ONNX's own test cases, through raw ONNX Runtime and through
# SQL: run.py says how.
#
#   tests/conformance/run.sh [PATTERN]     PATTERN: a regular expression over kind/name, as in node/test_add
#
# Needs pg_predict installed in the server that PG_CONFIG names. The server is a private one that is gone afterwards.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres
find_state

"$ROOT/scripts/packages.sh" onnx
export PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
"$TARGET/venv/bin/python" "$HERE/schema.py"
# A pattern of cases is none of theirs.
if [ $# -eq 0 ]; then
    "$ROOT/scripts/cluster.sh" run -e \
        "$TARGET/venv/bin/python" "$HERE/dependence.py"
fi
# One of the cases folds text with the locale en_US.UTF-8; the server's locale is its own.
cases() {
    "$ROOT/scripts/cluster.sh" run -e -c shared_buffers=256MB "$TARGET/venv/bin/python" "$HERE/run.py" "$TARGET/packages/onnx" "$@"
}
cases "$@"
# Tree ensembles on each kernel that the processor can run. The fastest was used above.
if [ $# -eq 0 ]; then
    kernels="avx2 portable"
    [ "$(uname -m)" != aarch64 ] || kernels=portable
    for kernel in $kernels; do
        say "tree ensembles on the kernel $kernel"
        PG_PREDICT_TREE_KERNEL=$kernel cases tree_ensemble
    done
fi
