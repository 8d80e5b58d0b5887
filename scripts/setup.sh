#!/usr/bin/env bash
# Installs what this project needs and this machine lacks: system packages, cargo-pgrx, the Python tools, ONNX Runtime.
# It looks first and adds only what is missing, so a second run is quick and needs neither root nor network. BROWSER=yes: a browser
# too, for the tests of what is looked at. SQLSMITH=yes: sqlsmith too, where the system has a package of it.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$ROOT"

PGRX=$(sed -n 's/^pgrx = "=\([0-9.]*\)"$/\1/p' Cargo.toml)
[ -n "$PGRX" ] || fail "Cargo.toml does not pin pgrx" "It should hold the line: pgrx = \"=X.Y.Z\""

# Rust is the one thing that is not installed here.
check_rust() {
    have cargo || fail "there is no Rust on this machine" "Install rustup (https://rustup.rs), open a new shell, then start again."
    cargo --version >/dev/null || fail "the Rust toolchain $RUST_PIN cannot be used (see above)" \
        "With network, this installs it: rustup toolchain install $RUST_PIN --profile minimal --component rustfmt,clippy"
}

# The version of the server to build for, from what is installed; nothing where there is none yet.
installed_major() {
    local major bindir best=''
    if have "$PG_CONFIG"; then
        major=$("$PG_CONFIG" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
        bindir=$("$PG_CONFIG" --bindir)
        # libpq-dev brings a pg_config too, for a server that need not be there.
        if [ -x "$bindir/postgres" ] || [ -e "$("$PG_CONFIG" --includedir-server)/postgres.h" ]; then
            printf '%s\n' "$major"
            return
        fi
    fi
    for major in 15 16 17 18; do
        [ ! -x "/usr/lib/postgresql/$major/bin/postgres" ] || best=$major
    done
    printf '%s\n' "$best"
}

# The packages that are missing, but for the server's: one a line.
missing_tools() {
    have gcc || printf '%s\n' gcc libc6-dev
    have clang || printf '%s\n' clang
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || [ -n "${LIBCLANG_PATH:-}" ] || ldconfig -p | grep -q 'libclang[-.]' || printf '%s\n' libclang-dev
    have pkg-config || printf '%s\n' pkg-config
    have bzip2 || printf '%s\n' bzip2
    has_pgrx || { have pkg-config && pkg-config --exists openssl; } || printf '%s\n' libssl-dev
    have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null || printf '%s\n' python3 python3-venv
    have prove && perl -MIPC::Run -e 1 2>/dev/null || printf '%s\n' perl libipc-run-perl
    have sqlsmith || [ -z "$(apt-cache show sqlsmith 2>/dev/null)" ] || printf '%s\n' sqlsmith
    has_locale || have locale-gen || printf '%s\n' locales
    [ -e /etc/ssl/certs/ca-certificates.crt ] || printf '%s\n' ca-certificates
}

# Those that only the tests of what is looked at need: one a line.
missing_browser() {
    have chromium && have chromedriver || printf '%s\n' chromium chromium-driver
    have java || printf '%s\n' default-jre-headless
    fc-list 2>/dev/null | grep -qi dejavu || printf '%s\n' fontconfig fonts-dejavu-core
}

# The server's packages that are missing for PostgreSQL $1: one a line.
missing_server() {
    [ -x "/usr/lib/postgresql/$1/bin/postgres" ] || printf '%s\n' "postgresql-$1"
    [ -e "/usr/include/postgresql/$1/server/postgres.h" ] || printf '%s\n' "postgresql-server-dev-$1"
    [ -e "/usr/lib/postgresql/$1/lib/pg_cron.so" ] || printf '%s\n' "postgresql-$1-cron"
}

# Whether pg_config is of a server that the system's packages know nothing of.
own_server() {
    have pg_config && [ -x "$(pg_config --bindir)/postgres" ] && [[ "$(pg_config --bindir)" != /usr/lib/postgresql/* ]]
}

# Models that fold the case of text (scikit-learn's TF-IDF) ask ONNX Runtime for this locale.
has_locale() { locale -a 2>/dev/null | grep -qiE '^en_US\.utf-?8$'; }

updated=''
apt() {
    have apt-get || fail "this machine lacks: $*" "They are the Debian names; install what gives them here, then start again."
    if [ -z "$updated" ]; then
        say "reading the list of packages"
        as_root apt-get -q update || fail "apt-get update failed (see above)" "Check the network and /etc/apt/sources.list, then start again."
        updated=yes
    fi
    [ $# -gt 0 ] || return 0
    say "installing: $*"
    # A new machine often runs its own upgrades first: those are waited for.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" ||
        fail "apt-get could not install: $*" "Look at the message above; 'apt-get -f install' mends an interrupted installation."
}

install_packages() {
    local major packages
    mapfile -t packages < <(missing_tools)
    [ -z "${BROWSER:-}" ] || mapfile -t -O ${#packages[@]} packages < <(missing_browser)
    if [ "$PG_CONFIG" != pg_config ]; then
        find_postgres
        [ -x "$PG_BIN/postgres" ] || fail "$PG_CONFIG is of a PostgreSQL without a server: no $PG_BIN/postgres" "Install its server, or name another one."
        [ -e "$("$PG_CONFIG" --includedir-server)/postgres.h" ] || fail "the PostgreSQL of $PG_CONFIG has no headers" "Install its development package."
    else
        major=$(installed_major)
        if [ -z "$major" ]; then
            apt
            major=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/^ *Depends: postgresql-\([0-9]*\)$/\1/p')
        fi
        case $major in
            15 | 16 | 17 | 18) ;;
            *) fail "the packages of this system hold PostgreSQL '${major:-none}'; pg_predict is built for 15 to 18" \
                "Add PostgreSQL's own packages (https://wiki.postgresql.org/wiki/Apt), or name a server: make PG_CONFIG=/path/to/pg_config" ;;
        esac
        if ! own_server; then
            mapfile -t -O ${#packages[@]} packages < <(missing_server "$major")
        fi
    fi
    [ ${#packages[@]} -gt 0 ] || return 0
    if ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && [[ " ${packages[*]} " == *" postgresql-"* ]]; then
        install_server "${packages[@]}"
    else
        apt "${packages[@]}"
    fi
}

# The first server of a machine: Debian would make a cluster and start it, and nobody asked for that.
install_server() {
    local dir=/etc/postgresql-common/createcluster.d
    apt postgresql-common
    as_root mkdir -p "$dir"
    as_root sh -c 'echo "create_main_cluster = false" >"$1"' sh "$dir/pg_predict-setup.conf"
    local status=0
    (apt "$@") || status=$?
    as_root rm -f "$dir/pg_predict-setup.conf"
    as_root rmdir --ignore-fail-on-non-empty "$dir"
    [ "$status" -eq 0 ] || exit "$status"
}

# Its suite is skipped where the system has no package of it.
install_sqlsmith() {
    ! have sqlsmith || return 0
    if ! have apt-get || ! { as_root apt-get -q update && apt-cache show sqlsmith; } >/dev/null 2>&1; then
        say "there is no package sqlsmith here: its tests will be skipped"
        return 0
    fi
    apt sqlsmith
}

make_locale() {
    ! has_locale || return 0
    say "making the locale en_US.UTF-8"
    as_root sh -c 'grep -q "^en_US.UTF-8 UTF-8" /etc/locale.gen 2>/dev/null || echo "en_US.UTF-8 UTF-8" >>/etc/locale.gen; locale-gen' >&2
    has_locale || fail "the locale en_US.UTF-8 is still missing" "Make it with your system's tools (Debian: dpkg-reconfigure locales), then start again."
}

has_pgrx() { [ "$(cargo pgrx --version 2>/dev/null)" = "cargo-pgrx $PGRX" ]; }

install_pgrx() {
    if ! has_pgrx; then
        say "compiling cargo-pgrx $PGRX; this takes some minutes, once"
        local free
        free=$(df --output=avail -m "$TARGET" | tail -n 1)
        [ "$free" -ge 3000 ] || say "only $free MB are free in $TARGET; cargo-pgrx and the build need about 3000"
        cargo install --locked cargo-pgrx --version "$PGRX" --target-dir "$TARGET/cargo-pgrx" ||
            fail "cargo-pgrx $PGRX could not be installed (see above)" "Check the network and the free memory and disk space, then start again."
        rm -rf "$TARGET/cargo-pgrx"
        has_pgrx || fail "cargo-pgrx was installed, yet 'cargo pgrx' is not version $PGRX" "Is another cargo-pgrx earlier in PATH?"
    fi
    # pgrx compiles against the server that its own settings name for a version.
    if ! grep -qs "^pg$PG_MAJOR *=" "${PGRX_HOME:-$HOME/.pgrx}/config.toml"; then
        say "telling pgrx of PostgreSQL $PG_MAJOR"
        cargo pgrx init --no-run "--pg$PG_MAJOR" "$PG_CONFIG" || fail "cargo pgrx init failed (see above)" "Is ${PGRX_HOME:-$HOME/.pgrx} writable?"
    fi
}

install_python() {
    local venv=$TARGET/venv
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        say "making a Python environment in target/venv"
        rm -rf "$venv"
        python3 -m venv "$venv" || fail "python3 -m venv failed (see above)" "On Debian and Ubuntu it is in the package python3-venv."
    fi
    if [ -e tests/requirements.txt ] && ! cmp -s tests/requirements.txt "$venv/installed.txt"; then
        say "installing the Python packages that tests/requirements.txt pins"
        "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off -r tests/requirements.txt ||
            fail "pip failed (see above)" "Check the network. The packages need Python 3.11 or newer; this is $(python3 --version)."
        cp tests/requirements.txt "$venv/installed.txt"
    fi
}

check_rust
mkdir -p "$TARGET"
install_packages
[ -z "${SQLSMITH:-}" ] || install_sqlsmith
find_postgres
[ -x "$PG_BIN/postgres" ] || fail "$PG_CONFIG is of a PostgreSQL without a server: no $PG_BIN/postgres" "Name the pg_config of your server: make PG_CONFIG=/path/to/pg_config"
make_locale
install_pgrx
install_python
scripts/onnxruntime.sh cpu
[ "$ORT" != gpu ] || scripts/onnxruntime.sh gpu
