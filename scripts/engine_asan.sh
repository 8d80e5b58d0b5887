#!/usr/bin/env bash
# Runs the tests of the engine and of the protocol of the model process under AddressSanitizer. The tests of the sandbox are left out: the
# sanitizer needs more address space than the sandbox allows. Arguments go to cargo test.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$ROOT"
export PG_PREDICT_TEST_ORT=$TARGET/onnxruntime/libonnxruntime.so
[ -e "$PG_PREDICT_TEST_ORT" ] || fail "there is no $PG_PREDICT_TEST_ORT" "Run: make setup"
host=$(rustc -vV | sed -n 's/^host: //p')
# The sanitizer is not one of the stable features: the pinned toolchain is told to build it all the same. ONNX Runtime keeps memory until
# the process ends, so leaks are not looked for.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=$TARGET/asan ASAN_OPTIONS=detect_leaks=0
cargo test --target "$host" --package pg_predict_engine --lib "$@"
cargo build --target "$host" --package pg_predict_model_process --examples
cargo test --target "$host" --package pg_predict_model_process --lib --test hostile "$@"
