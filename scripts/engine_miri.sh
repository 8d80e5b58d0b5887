#!/usr/bin/env bash
# Runs the kernels of tree ensembles under Miri, which finds undefined behaviour. Miri runs the portable kernel. It is a component of
# the nightly toolchain only: rustup component add miri rust-src --toolchain nightly
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$ROOT"
export RUSTUP_TOOLCHAIN=nightly CARGO_TARGET_DIR=$TARGET/miri
cargo miri --version >/dev/null 2>&1 || fail "there is no Miri" "Run: rustup component add miri rust-src --toolchain nightly"
# The tests read the environment, and the results of `exp` must be the same in both computations that a test compares.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-deterministic-floats"
exec cargo miri test --package pg_predict_engine --lib trees::tests::walked "$@"
