#!/usr/bin/env bash
# Runs the examples in a private server that is gone afterwards, and fails where one does not keep its promise.
#
#   examples/run.sh [NAME..]     sentiment, documents, images, recommender, upload, promotion, nightly; all of them by default
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../scripts/env.sh"
find_postgres
find_state

if [ "${1:-}" = --inside ]; then
    shift
    for name in "$@"; do
        say "examples/$name"
        if [ "$name" = upload ]; then
            PYTHONDONTWRITEBYTECODE=1 "$TARGET/venv/bin/python" "$HERE/upload.py" uploaded "$TARGET/packages/minilm/model.onnx" "$TARGET/packages/minilm/tokenizer.json"
            # The line of examples/README.md.
            (printf "SELECT predict.create_model('diamonds', decode('"; base64 "$ROOT/models/diamonds.onnx"; printf "', 'base64')) AS \"uploaded by psql: version\";") |
                "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1
        else
            "$PG_BIN/psql" -X -q -v root="$ROOT" -f "$HERE/$name.sql"
        fi
    done
    exit
fi

if [ $# -eq 0 ]; then
    set -- sentiment documents images recommender upload promotion
    if [ -e "$PG_LIB/pg_cron.so" ]; then
        set -- "$@" nightly
    else
        say "examples/nightly is left out: the server of $PG_CONFIG has no pg_cron"
    fi
fi
for name in "$@"; do
    [ "$name" = upload ] || [ -e "$HERE/$name.sql" ] || fail "there is no example '$name'" "They are the files examples/*.sql, and upload."
done
export PYTHONDONTWRITEBYTECODE=1
"$ROOT/scripts/packages.sh" minilm rapidocr
for maker in minilm text_line two_tower; do
    "$TARGET/venv/bin/python" "$ROOT/models/$maker.py"
done
PG_PREDICT_CRON=yes "$ROOT/scripts/cluster.sh" run -c shared_buffers=256MB -c work_mem=64MB "$HERE/run.sh" --inside "$@"
say "the examples keep their promises"
