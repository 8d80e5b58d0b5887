#!/usr/bin/env bash
# Builds the manual as a site in target/docs, once its reference is what the code says; fails on a broken link.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$ROOT"
find_postgres

MDBOOK=0.5.4
if [ "$(target/tools/bin/mdbook --version 2>/dev/null)" != "mdbook v$MDBOOK" ]; then
    say "compiling mdBook $MDBOOK; this takes some minutes, once"
    cargo install --quiet --locked --root target/tools mdbook --version "$MDBOOK" --target-dir target/mdbook || fail "mdBook could not be installed (see above)" "Check the network, then start again."
    rm -rf target/mdbook
fi
scripts/cluster.sh run -c shared_preload_libraries=pg_predict target/venv/bin/python scripts/docs.py reference
rm -rf target/docs
target/tools/bin/mdbook build docs
target/venv/bin/python scripts/docs.py links target/docs
say "the manual is in target/docs/index.html"
