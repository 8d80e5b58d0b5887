#!/usr/bin/env bash
# The readers of prediction batches alone, under AddressSanitizer: mutated texts and stored bytes, without a server.
#
#   tests/literals/parser.sh [SECONDS [SEED]]     20 seconds by default, with a new seed each time
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"

seconds=${1:-20}
seed=${2:-$RANDOM$RANDOM}
host=$(rustc -vV | sed -n 's/^host: //p')
# The sanitizer is not one of the stable features: the pinned toolchain is told to build it all the same.
cd "$HERE/parser"
RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=$TARGET/parser cargo build --quiet --release --locked --target "$host" ||
    fail "the fuzzer of the parser did not build (see above)"
exec env ASAN_OPTIONS=abort_on_error=0:detect_leaks=0 "$TARGET/parser/$host/release/parser_fuzz" "$seconds" "$seed"
