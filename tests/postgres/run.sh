#!/usr/bin/env bash
# Owns the check that PostgreSQL's own regression suite gives the same with pg_predict in shared_preload_libraries as without it.
#
#   tests/postgres/run.sh
#
# The suite comes with PostgreSQL's sources, which are fetched once, from the same Debian as the server's packages are. They may be
# of another minor release than the server, so what counts is not that each test passes but that both runs give the same.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/env.sh"
find_postgres
find_state

KEPT=$TARGET/postgres
WORK=$STATE/postgres
PROGRAM=$PG_XS/src/test/regress/pg_regress
[ -x "$PROGRAM" ] || fail "there is no $PROGRAM" "It comes with the development package of the server."
mkdir -p "$KEPT"

# The sources, by the lists of the machine's own apt with sources in the place of binaries; apt's own state stays as it is.
fetch() {
    command -v apt-get >/dev/null || fail "there is no apt-get to fetch PostgreSQL's sources with" "Unpack them into $KEPT/source."
    local lists=$KEPT/apt
    mkdir -p "$lists/parts" "$lists/state/partial"
    local file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
        [ -f "$file" ] && grep -Eq "debian|ubuntu" "$file" || continue
        case $file in
            *.list) sed -n -E 's/^deb (.*(debian|ubuntu).*)$/deb-src \1/p' "$file" >"$lists/parts/$(basename "$file")" ;;
            *.sources) sed -E 's/^Types:.*/Types: deb-src/' "$file" >"$lists/parts/$(basename "$file")" ;;
        esac
    done
    local options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$lists/parts" -o "Dir::State::lists=$lists/state" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" -qq update >"$KEPT/apt.log" 2>&1 || true
    # The newest that can be had: an archive need not serve the sources of every release that it lists.
    local version fetched=
    for version in $(apt-cache "${options[@]}" showsrc "postgresql-$PG_MAJOR" 2>/dev/null | sed -n 's/^Version: //p' | sort -urV); do
        if (cd "$KEPT" && apt-get "${options[@]}" -qq source --download-only --tar-only "postgresql-$PG_MAJOR=$version" >>"$KEPT/apt.log" 2>&1); then
            fetched=$version
            break
        fi
    done
    [ -n "$fetched" ] || fetch_earlier || fail "could not fetch the sources of postgresql-$PG_MAJOR; apt said:" "$(tail -n 5 "$KEPT/apt.log")"
    mkdir -p "$KEPT/source"
    tar -xf "$(ls "$KEPT"/postgresql-"$PG_MAJOR"_*.orig.tar.*[!c] | head -n 1)" -C "$KEPT/source" --strip-components=1
}

# Debian's archive may list a release whose sources it no longer serves. Any release of the same major version does: the suite is compared
# with itself. The hashes are those of Debian's source packages.
fetch_earlier() {
    local release hash
    case $PG_MAJOR in
        15) release=15.18 hash=11df0df97fe3ea4ba9a791faaf39cee1d2fe571e78885b5b55d8517d27c323b4 ;;
        17) release=17.11 hash=dd27f2b3c59e73ed14aa3324901242bf69a032a6347805f274e6260322d42979 ;;
        18) release=18.6 hash=555610c24d53e4316da5b7d3fc25c279d96856d5e0e23ee308c328c5fa881d9f ;;
        *) return 1 ;;
    esac
    local file=postgresql-${PG_MAJOR}_$release.orig.tar.bz2
    say "apt has no sources of postgresql-$PG_MAJOR: fetching those of $release"
    # It checks the hash.
    /usr/lib/apt/apt-helper download-file "http://deb.debian.org/debian/pool/main/p/postgresql-$PG_MAJOR/$file" "$KEPT/$file" "SHA256:$hash" >>"$KEPT/apt.log" 2>&1
}

[ -d "$KEPT/source/src/test/regress/sql" ] || fetch
SUITE=$KEPT/source/src/test/regress

# One run, called $1, with the server settings that follow.
run() {
    local name=$1
    shift
    say "PostgreSQL's regression suite, $name"
    rm -rf "${WORK:?}/$name"
    mkdir -p "$WORK/$name/results" "$WORK/lib"
    cp -r "$SUITE" "$WORK/$name/regress"
    "${CC:-cc}" -O1 -fPIC -shared -w -I"$("$PG_CONFIG" --includedir-server)" "$SUITE/regress.c" -o "$WORK/lib/regress.so"
    cp "$PG_LIB/refint.so" "$PG_LIB/autoinc.so" "$WORK/lib/"
    [ "$(id -u)" -ne 0 ] || chown -R "$SERVER_USER": "$WORK"
    # Tests that differ from what they expect are no failure of this check.
    "$ROOT/scripts/cluster.sh" run -c fsync=off -c max_connections=60 "$@" sh -c '
        cd "$2/regress" && exec "$0" --host="$PGHOST" --port="$PGPORT" --user="$PGUSER" --bindir="$1" --dlpath="$3" --dbname=regression \
            --inputdir="$2/regress" --outputdir="$2" --schedule="$2/regress/parallel_schedule" --max-concurrent-tests=20' \
        "$PROGRAM" "$PG_BIN" "$WORK/$name" "$WORK/lib" >"$KEPT/$name.log" 2>&1 || true
    grep -E -q "tests (passed|failed)" "$KEPT/$name.log" || fail "the suite did not run ($name); it said:" "$(tail -n 20 "$KEPT/$name.log")"
    grep -E "tests (passed|failed)" "$KEPT/$name.log"
}

run without
run with -c shared_preload_libraries=pg_predict
# Folders and process numbers are each run's own.
for name in without with; do
    find "$WORK/$name/results" -type f -name '*.out' -exec sed -i "s|$WORK/$name|WORK|g" {} +
done
if diff -r -x '*.data' "$WORK/without/results" "$WORK/with/results" >"$KEPT/difference"; then
    echo "PostgreSQL's regression suite gives the same with pg_predict as without it"
else
    head -n 100 "$KEPT/difference"
    fail "PostgreSQL's regression suite differs with pg_predict in shared_preload_libraries" "The whole difference is in $KEPT/difference."
fi
