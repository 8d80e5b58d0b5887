#!/usr/bin/env bash
# Stops every server of this checkout, then removes target/ and the folder in /var/tmp, where there is one.
set -euo pipefail
source "$(dirname "$0")/env.sh"
[ -d "$TARGET" ] || exit 0
find_state
find_tmp
for data in "$STATE"/*/data; do
    [ -f "$data/postmaster.pid" ] || continue
    find_postgres
    (cd / && as_server "$PG_BIN/pg_ctl" stop -D "$data" -m fast -w >/dev/null) ||
        fail "the server in $data did not stop" "Look into $(dirname "$data")/log."
done
rm -rf "$TARGET" "$TMP_STATE"
