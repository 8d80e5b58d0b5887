#!/usr/bin/env bash
# Owns `make lint`: layout, clippy and this project's own rules (scripts/lint_rules.py, scripts/lint_sql.py and
# scripts/readability.py say which).
#
#   scripts/lint.sh                      all three on this checkout
#   scripts/lint.sh --rules [DIR]        the project's own rules only, on the checkout in DIR
#   scripts/lint.sh --format [DIR]       cargo fmt --check only
#   scripts/lint.sh --clippy [DIR [PACKAGE]]   clippy only, with all warnings denied
set -euo pipefail
source "$(dirname "$0")/env.sh"

# All of them report what they find before one ends it.
rules() {
    local broken=0
    python3 "$ROOT/scripts/lint_rules.py" "$1" || broken=$?
    "$ROOT/scripts/venv.sh" "$TARGET/lint-venv" "$ROOT/tests/lint/requirements.txt"
    "$TARGET/lint-venv/bin/python" "$ROOT/scripts/lint_sql.py" "$1" || broken=$?
    "$TARGET/lint-venv/bin/python" "$ROOT/scripts/readability.py" "$1" || broken=$?
    return "$broken"
}

format() {
    (cd "$1" && cargo fmt --all --check) || fail "the layout of the code is not what rustfmt makes" "Run: cargo fmt --all"
}

clippy() {
    local packages=(--workspace)
    [ -z "${2:-}" ] || packages=(--package "$2")
    find_postgres
    # The package's default feature names PostgreSQL 15; another server needs its own.
    [ "$PG_MAJOR" = 15 ] || [ -n "${2:-}" ] || packages+=(--no-default-features --features "pg_predict/pg$PG_MAJOR")
    (cd "$1" && cargo clippy --quiet "${packages[@]}" --all-targets -- -D warnings) || fail "clippy found something (see above)"
}

case ${1:-} in
    '')
        rules "$ROOT"
        format "$ROOT"
        say "clippy"
        clippy "$ROOT"
        ;;
    --rules) rules "${2:-$ROOT}" ;;
    --format) format "${2:-$ROOT}" ;;
    --clippy) clippy "${2:-$ROOT}" "${3:-}" ;;
    *)
        sed -n '5,8s/^# *//p' "$0" >&2
        exit 2
        ;;
esac
