#!/usr/bin/env bash
# The Python package: typed, linted, built, and tested against a real server with real models of five libraries.
#
#   clients/python/run.sh [PYTEST ARGUMENT..]
#
# Needs pg_predict installed in the server that PG_CONFIG names. What the tests need of Python, 6.6 GB with PyTorch, goes to
# target/client-venv. The server is a private one that is gone afterwards; see scripts/cluster.sh.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres
find_state

VENV=$TARGET/client-venv
"$ROOT/scripts/venv.sh" "$VENV" "$HERE/requirements.txt"
"$ROOT/scripts/packages.sh" minilm
export PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
cd "$HERE"
say "types and style"
"$VENV/bin/ruff" check --no-cache .
"$VENV/bin/ruff" format --no-cache --check .
"$VENV/bin/mypy" --strict --cache-dir "$TARGET/client-mypy" src
say "the wheel, in an environment of its own"
rm -rf "$TARGET/client-dist" "$TARGET/client-fresh"
"$VENV/bin/python" -m build --no-isolation --outdir "$TARGET/client-dist" . >/dev/null
python3 -m venv "$TARGET/client-fresh"
"$TARGET/client-fresh/bin/python" -m pip install --quiet --constraint requirements.txt "$TARGET"/client-dist/*.whl
"$TARGET/client-fresh/bin/pg-predict" --version
# The tests run what was built.
"$VENV/bin/python" -m pip install --quiet --no-deps --force-reinstall "$TARGET"/client-dist/*.whl
"$ROOT/scripts/cluster.sh" run -c shared_buffers=256MB bash -c '
    set -euo pipefail
    psql -X -q -v ON_ERROR_STOP=1 -c "CREATE EXTENSION pg_predict" </dev/null
    exec "$@"' run "$VENV/bin/python" -m pytest -q -p no:cacheprovider "$HERE/tests" "$@"
