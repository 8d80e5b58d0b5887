#!/usr/bin/env bash
# Runs a command and says how long it took, so that a run of all tests shows where its time goes:
#
#   scripts/timed.sh NAME COMMAND [ARGUMENT..]
set -euo pipefail
source "$(dirname "$0")/env.sh"

name=$1
shift
status=0
"$@" || status=$?
say "$name: $SECONDS s"
exit "$status"
