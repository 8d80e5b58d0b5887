#!/usr/bin/env bash
# Runs the tests of compiled trees on an emulated ARM processor, with ONNX Runtime for ARM. Arguments go to the tests; by default, those whose
# names contain `trees::` run.
#
#   QEMU=PROGRAM    qemu-aarch64 of QEMU 10 or later; version 7.2 cannot load ONNX Runtime
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$ROOT"
target=aarch64-unknown-linux-gnu
QEMU=${QEMU:-qemu-aarch64}
have "$QEMU" && have aarch64-linux-gnu-g++ || fail "there is no $QEMU or no aarch64-linux-gnu-g++" \
    "On Debian 13 or later: apt-get install qemu-user g++-aarch64-linux-gnu libc6-dev-arm64-cross"
version=$("$QEMU" --version | sed -n 's/^qemu-aarch64 version \([0-9]*\).*/\1/p')
[ "$version" -ge 10 ] || fail "$QEMU is of version $version, and ONNX Runtime needs 10 or later" "Name another one by QEMU."
rustup target add "$target"
scripts/onnxruntime.sh cpu aarch64
export PG_PREDICT_TEST_ORT=$TARGET/onnxruntime-aarch64/libonnxruntime.so
export CARGO_TARGET_DIR=$TARGET/arm CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$QEMU -L /usr/aarch64-linux-gnu"
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
# An emulated processor is slow enough: the code is optimised, and nothing is kept for a debugger.
export CARGO_PROFILE_DEV_OPT_LEVEL=2 CARGO_PROFILE_DEV_DEBUG=0
[ $# -gt 0 ] || set -- trees::
cargo test --target "$target" --package pg_predict_engine --lib -- "$@"
