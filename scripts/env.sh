# shellcheck shell=bash
# What the other scripts share: where things are, who runs the server, how to speak and how to become root. Sourced, never run.
#
# Settings of the caller: PG_CONFIG (default pg_config), PG_PREDICT_USER (who runs the private servers when the caller is
# root, since PostgreSQL refuses to; default postgres), PG_PREDICT_TARGET (where built things go; default target/).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
TARGET=${PG_PREDICT_TARGET:-$ROOT/target}
PG_CONFIG=${PG_CONFIG:-pg_config}
PG_PREDICT_USER=${PG_PREDICT_USER:-postgres}
ORT=${ORT:-cpu}
# cargo-pgrx builds with this setting. With the same one, what the library and other programs have in common is built once.
PGRX_LINKING='target."cfg(all(target_family = \"unix\", not(target_os = \"macos\")))".rustflags = ["-C", "link-arg=-Wl,--no-gc-sections"]'

# Built things live in the checkout whatever the caller's own habits are: install takes them from there.
export CARGO_TARGET_DIR=$TARGET
export CARGO_TERM_PROGRESS_WHEN=${CARGO_TERM_PROGRESS_WHEN:-auto}
command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

# A server that inherits this puts backtraces into the DETAIL of its errors, where a reader or a test expects none.
unset RUST_BACKTRACE

# The toolchain that rust-toolchain.toml pins. Where it is installed under the name `stable` only, that is used, so that
# nothing is fetched twice.
RUST_PIN=$(sed -n 's/^channel = "\(.*\)"$/\1/p' "$ROOT/rust-toolchain.toml" 2>/dev/null || true)
if [ -z "${RUSTUP_TOOLCHAIN:-}" ] && command -v rustup >/dev/null && ! rustup toolchain list 2>/dev/null | grep -q "^$RUST_PIN-"; then
    case $(rustup run stable rustc --version 2>/dev/null) in "rustc $RUST_PIN "*) export RUSTUP_TOOLCHAIN=stable ;; esac
fi

say() { printf '== %s\n' "$*" >&2; }

# Ends the script: what is wrong, then what to do about it, one line each.
fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root: as it is, or with sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@" || fail "this needed root and sudo did not succeed: $*" "Run it as root yourself, then start again."
    else
        fail "this needs root, and there is no sudo: $*" "Run it as root yourself, then start again."
    fi
}

# Sets PG_MAJOR, PG_BIN, PG_LIB, PG_SHARE, PG_XS from PG_CONFIG.
find_postgres() {
    have "$PG_CONFIG" || fail "there is no '$PG_CONFIG'" "Run 'make setup', or name your server: make PG_CONFIG=/path/to/pg_config"
    PG_CONFIG=$(command -v "$PG_CONFIG")
    local version
    version=$("$PG_CONFIG" --version)
    PG_MAJOR=$(sed -E 's/^PostgreSQL ([0-9]+).*/\1/' <<<"$version")
    case $PG_MAJOR in
        15 | 16 | 17 | 18) ;;
        *) fail "$PG_CONFIG is of $version; pg_predict is built for PostgreSQL 15 to 18" "Name another server: make PG_CONFIG=/path/to/pg_config" ;;
    esac
    PG_BIN=$("$PG_CONFIG" --bindir)
    PG_LIB=$("$PG_CONFIG" --pkglibdir)
    PG_SHARE=$("$PG_CONFIG" --sharedir)
    PG_XS=$(dirname "$("$PG_CONFIG" --pgxs)")/../..
    export PG_CONFIG PG_MAJOR PG_BIN PG_LIB PG_SHARE PG_XS
}

# Sets SERVER_USER, who runs our servers: the caller, or PG_PREDICT_USER (made when missing) where the caller is root.
find_server_user() {
    if [ "$(id -u)" -ne 0 ]; then
        SERVER_USER=$(id -un)
        return
    fi
    SERVER_USER=$PG_PREDICT_USER
    if ! id -u "$SERVER_USER" >/dev/null 2>&1; then
        say "making the system user $SERVER_USER, who will run the private server"
        useradd --system --user-group --no-create-home --shell /bin/sh "$SERVER_USER" ||
            fail "could not make the user $SERVER_USER" "Make an ordinary user yourself and name it: PG_PREDICT_USER=somebody"
    fi
    [ "$(id -u "$SERVER_USER")" -ne 0 ] || fail "PG_PREDICT_USER names root, and PostgreSQL refuses to run as root" "Name an ordinary user."
}

# Runs a command as SERVER_USER, with the caller's environment but for what says who that is.
as_server() {
    if [ "$(id -un)" = "$SERVER_USER" ]; then
        "$@"
    else
        setpriv --reuid="$SERVER_USER" --regid="$(id -g "$SERVER_USER")" --init-groups -- \
            env HOME="${STATE:-/}" USER="$SERVER_USER" LOGNAME="$SERVER_USER" "$@"
    fi
}

# Sets STATE, a folder that SERVER_USER can reach, for servers and test runs: target/, or, where that user cannot get there
# (a checkout below /root), a folder of /var/tmp that belongs to this checkout, with a link to it in target/.
find_state() {
    find_server_user
    mkdir -p "$TARGET"
    if as_server sh -c 'test -r "$1" && test -x "$2"' sh "$ROOT/Makefile" "$TARGET"; then
        STATE=$TARGET
    else
        find_tmp
        STATE=$TMP_STATE
        ln -sfn "$STATE" "$TARGET/state"
    fi
}

# Sets TMP_STATE, the folder of /var/tmp that belongs to this checkout and caller; makes it when it is not there.
find_tmp() {
    TMP_STATE=/var/tmp/pg_predict-$(id -u)-$(printf '%s' "$ROOT" | sha256sum | cut -c1-8)
    mkdir -m 711 "$TMP_STATE" 2>/dev/null || true
    if [ -L "$TMP_STATE" ] || [ ! -d "$TMP_STATE" ] || [ ! -O "$TMP_STATE" ]; then
        fail "$TMP_STATE is there and is not ours" "Look who made it; remove it, then start again."
    fi
}

# Sets READABLE, the folder that the server and the tests read models/ and tests/ from: the checkout, or, where SERVER_USER
# cannot get there, a fresh copy in STATE.
find_readable() {
    find_state
    READABLE=$ROOT
    [ "$STATE" != "$TARGET" ] || return 0
    READABLE=$STATE/checkout
    rm -rf "$READABLE"
    mkdir -p "$READABLE"
    local part parts=()
    for part in Makefile models tests scripts sql demo target/models target/packages/minilm; do
        [ ! -e "$ROOT/$part" ] || parts+=("$part")
    done
    tar -C "$ROOT" --exclude=__pycache__ -cf - "${parts[@]}" | tar -C "$READABLE" --no-same-owner -xf -
    chmod -R a+rX "$READABLE"
}
