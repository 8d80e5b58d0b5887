#!/usr/bin/env bash
# Runs the tests of the engine and of the model process, which need no server, only the ONNX Runtime library. Arguments go to cargo test.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$ROOT"
export PG_PREDICT_TEST_ORT=$TARGET/onnxruntime/libonnxruntime.so
[ -e "$PG_PREDICT_TEST_ORT" ] || fail "there is no $PG_PREDICT_TEST_ORT" "Run: make setup"
exec cargo test --release --package pg_predict_engine --package pg_predict_model_process "$@"
