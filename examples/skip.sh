# shellcheck shell=bash
# What an example's run.sh says when it cannot run here: sourced, never run. `left_out WHY` ends it.
left_out() {
    printf 'left out: %s\n' "$1" >&2
    printf '%s\n' "$1" >"${REASON:-/dev/null}"
    exit 77
}
