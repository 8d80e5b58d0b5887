#!/usr/bin/env bash
# Builds the release of the extension and of the model process for the server of PG_CONFIG, and lays all that an installation holds
# out under target/stage/, each file at the path that it will have. Does nothing where nothing has changed since.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$ROOT"
find_postgres

stage=$TARGET/stage
stamp=$TARGET/stage.built
identity="$("$PG_CONFIG" --version) $PG_LIB $PG_SHARE $ORT"
if [ "$ORT" != cpu ] && [ "$ORT" != gpu ]; then
    fail "ORT=$ORT is neither cpu nor gpu" "usage: make install ORT=cpu|gpu"
fi
library=$TARGET/onnxruntime
[ "$ORT" = cpu ] || library=$TARGET/onnxruntime-gpu
[ -e "$library/libonnxruntime.so" ] || fail "there is no $library/libonnxruntime.so" "Run: make setup ORT=$ORT"

sources=("$library/libonnxruntime.so" scripts/build.sh)
for path in Cargo.toml Cargo.lock rust-toolchain.toml .cargo pg_predict.control src crates sql; do
    [ ! -e "$path" ] || sources+=("$path")
done
if [ "$(cat "$stamp" 2>/dev/null)" = "$identity" ] && [ -z "$(find "${sources[@]}" -newer "$stamp" -print -quit)" ]; then
    exit 0
fi
rm -f "$stamp"
# What is edited while the build runs is newer than this, and is built the next time.
began=$TARGET/stage.began
: >"$began"

say "building pg_predict for PostgreSQL $PG_MAJOR (release); the first time takes some minutes"
rm -rf "$stage"
cargo pgrx package --pg-config "$PG_CONFIG" --out-dir "$stage" ||
    fail "the extension did not build (see above)" "A compiler that was killed ran out of memory: try CARGO_BUILD_JOBS=1."
cargo build --release --package pg_predict_model_process --config "$PGRX_LINKING" ||
    fail "the model process did not build (see above)"

mkdir -p "$stage$PG_LIB/pg_predict"
install -m 755 "$TARGET/release/pg_predict_model_process" "$library"/*.so "$stage$PG_LIB/pg_predict/"
install -m 644 "$library"/onnxruntime-* "$stage$PG_LIB/pg_predict/"
[ -e "$stage$PG_LIB/pg_predict.so" ] && [ -e "$stage$PG_SHARE/extension/pg_predict.control" ] ||
    fail "cargo pgrx package left no pg_predict.so or pg_predict.control below $stage" "Is the version of cargo-pgrx the one in Cargo.toml? Run: make setup"
printf '%s\n' "$identity" >"$stamp"
touch -r "$began" "$stamp"
rm -f "$began"
