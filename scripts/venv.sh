#!/usr/bin/env bash
# Makes a Python environment of what a requirements file pins, or leaves it as it is where it holds just that.
#
#   scripts/venv.sh FOLDER REQUIREMENTS
set -euo pipefail
source "$(dirname "$0")/env.sh"

venv=$1 requirements=$2
! cmp -s "$requirements" "$venv/requirements.txt" || exit 0
say "installing what ${requirements#"$ROOT/"} pins into ${venv#"$ROOT/"}"
rm -rf "$venv"
mkdir -p "$(dirname "$venv")"
python3 -m venv "$venv" || fail "python3 -m venv failed (see above)" "On Debian and Ubuntu it is in the package python3-venv."
"$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off --quiet -r "$requirements" ||
    fail "pip failed (see above)" "Check the network and the free disk space. The packages need Python 3.11 or newer; this is $(python3 --version)."
cp "$requirements" "$venv/requirements.txt"
