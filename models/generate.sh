#!/usr/bin/env bash
# Makes the data and the models of models/ anew from public packages: about a minute; the first run needs network.
# With the argument `fixtures` also the models that only the tests use, in tests/reference/models.
set -euo pipefail
cd "$(dirname "$0")"
venv=../target/models-venv
if ! cmp -s requirements.txt "$venv/installed.txt"; then
    echo "installing what requirements.txt pins into target/models-venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt "$venv/installed.txt"
fi
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
modules=(tables late credit diamonds)
case "${1:-}" in
    '') ;;
    fixtures) modules+=(fixtures) ;;
    *)
        echo "usage: models/generate.sh [fixtures]" >&2
        exit 2
        ;;
esac
for module in "${modules[@]}"; do
    echo "== $module"
    "$venv/bin/python" -W ignore -m "generate.$module"
done
"$venv/bin/python" recommender.py
