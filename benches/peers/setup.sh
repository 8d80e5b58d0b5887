#!/usr/bin/env bash
# Makes target/bench-venv, the virtual environment of the peers, and installs what they need in the system. It looks first and
# adds only what is missing. What cannot be had is told on standard error and is no failure: peers.py then names the peers
# that are missing. It starts no server and touches no table.
#
#   PG_CONFIG  the server that is measured (default pg_config)
#   SPARK=0    leaves out Spark and Java, some 700 MB
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=../../scripts/env.sh
. "$here/../../scripts/env.sh"

find_postgres
find_state

# PL/Python runs the system's Python, which must find the same packages.
python=/usr/bin/python3
[[ -x $python ]] || python=$(command -v python3) || fail "there is no python3" "Install Python 3.11 or later."

# Packages of Debian that are missing, one a line.
missing() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    if [[ $PG_LIB == "/usr/lib/postgresql/$PG_MAJOR/lib" && ! -e $PG_LIB/plpython3.so ]]; then
        echo "postgresql-plpython3-$PG_MAJOR"
    fi
    if [[ ${SPARK:-1} != 0 ]]; then
        have java || echo default-jre-headless
        [[ -e /usr/share/java/postgresql.jar ]] || echo libpostgresql-jdbc-java
    fi
}

mapfile -t packages < <(missing)
if [[ ${#packages[@]} -gt 0 ]]; then
    if have apt-get; then
        say "installing ${packages[*]}"
        as_root apt-get update >/dev/null || say "apt-get update failed; going on with the lists that are there"
        # One by one, so that what cannot be had keeps nothing else away.
        for package in "${packages[@]}"; do
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package" >/dev/null ||
                say "not to be had: $package"
        done
    else
        say "not to be had, there is no apt-get: ${packages[*]}"
    fi
fi
[[ -e $PG_LIB/plpython3.so ]] || say "there is no PL/Python in $PG_LIB: its peers will be missing"

# The server's user reads the packages too: where it cannot reach target/, they lie elsewhere and target/ has a link.
venv=$STATE/bench-venv
if [[ $STATE != "$TARGET" ]]; then
    [[ -L $TARGET/bench-venv || ! -e $TARGET/bench-venv ]] || rm -rf "$TARGET/bench-venv"
    ln -sfn "$venv" "$TARGET/bench-venv"
fi
# One of another Python is made anew.
if [[ -x $venv/bin/python && $("$venv/bin/python" -V 2>&1) != $("$python" -V) ]]; then
    rm -rf "$venv"
fi
[[ -x $venv/bin/pip ]] || "$python" -m venv --clear "$venv" || fail "could not make $venv" "Install python3-venv."

# Installs a list where it is not installed as it is now.
install() {
    cmp -s "$here/$1" "$venv/$1" && return
    say "installing what $1 pins into ${venv#"$ROOT/"}"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/$1" || return
    cp "$here/$1" "$venv/$1"
    chmod -R a+rX "$venv"
}
install requirements.txt || fail "pip could not install requirements.txt (see above)" "Python 3.11 or later is needed, and network."

if [[ ${SPARK:-1} != 0 ]]; then
    have java || say "there is no Java: the peer spark will be missing"
    [[ -e /usr/share/java/postgresql.jar ]] || say "there is no JDBC driver: the peer spark will be missing"
    install requirements-spark.txt || say "not to be had: pyspark; the peer spark will be missing"
fi
