#!/usr/bin/env bash
# The reference check: every model of cases.py must give the answers of Python's ONNX Runtime, for every row, through every form.
#
#   tests/reference/run.sh [MODEL ... | tensors]     tensors: the models of texts, images and files alone
#
# Needs pg_predict installed in the server that PG_CONFIG names, and a Python with what tests/requirements.txt pins
# (PYTHON, default target/venv/bin/python). The server is a private one that is gone afterwards; see scripts/cluster.sh.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres
find_state

PYTHON=${PYTHON:-$TARGET/venv/bin/python}
[ -x "$PYTHON" ] || fail "there is no $PYTHON" "Make it with 'make setup', or set PYTHON to one that has what tests/requirements.txt pins."
REFERENCE=$TARGET/reference
mkdir -p "$REFERENCE"
export PYTHON REFERENCE PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 PATH="$PG_BIN:$PATH"

# One model folds case with the locale en_US.UTF-8: where the system lacks it, the server gets one of our own.
if ! locale -a | grep -ix 'en_US\.utf-\?8' >/dev/null; then
    mkdir -p "$STATE/locale"
    localedef -i en_US -f UTF-8 "$STATE/locale/en_US.UTF-8" || fail "could not make the locale en_US.UTF-8" "Install the package 'locales'."
    export LOCPATH=$STATE/locale
fi

"$PYTHON" "$ROOT/models/recommender.py" | sed 's/^/# /'
"$ROOT/scripts/packages.sh" minilm rapidocr
"$PYTHON" "$ROOT/models/minilm.py" | sed 's/^/# /'
"$PYTHON" "$HERE/oracle.py" "$REFERENCE" | sed 's/^/# /'
"$ROOT/scripts/cluster.sh" run -c shared_buffers=256MB -c work_mem=64MB "$HERE/score.sh" "$@"
