#!/usr/bin/env bash
# Puts what `make build` laid out into the server of PG_CONFIG, or takes it away again. No server is started or stopped: new
# connections take the new files.
#
#   scripts/install.sh install     copies what differs, removes what an earlier installation had and this one has not
#   scripts/install.sh uninstall   removes what install put there, and nothing else
#
# The list of what is installed is beside the library, in $(pg_config --pkglibdir)/pg_predict/installed. DESTDIR is put
# before every path. Root is asked for (by sudo) only where there is something to do and the caller may not write.
set -euo pipefail
source "$(dirname "$0")/env.sh"
find_postgres

STAGE=$TARGET/stage
PREFIX=${DESTDIR:-}
LIST=$PREFIX$PG_LIB/pg_predict/installed

# The paths of an installation, without PREFIX: those that the list names, each of them below a folder of the server.
installed() {
    local path
    [ -r "$LIST" ] || return 0
    while IFS= read -r path; do
        case $path in
            *..*) fail "$LIST names '$path', which no installation put there" "Mend the list." ;;
            "$PG_LIB"/pg_predict* | "$PG_SHARE"/extension/pg_predict*) printf '%s\n' "$path" ;;
            *) fail "$LIST names '$path', which no installation put there" "Mend the list." ;;
        esac
    done <"$LIST"
}

# Whether the caller may write to the server's folders; of one that is not there yet, the nearest that is decides.
writable() {
    local dir
    for dir in "$PG_LIB" "$PG_LIB/pg_predict" "$PG_SHARE/extension"; do
        dir=$PREFIX$dir
        while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
        [ -w "$dir" ] || return 1
    done
}

# Says what is about to be done, and ends here where it cannot be.
announce() {
    if writable; then
        say "$1"
    elif have sudo; then
        say "$1, which is not yours to write: sudo may ask for your password"
    else
        fail "$1 needs root, and there is no sudo" "Run 'make install' as root, or build for a server of your own: make PG_CONFIG=/path/to/pg_config"
    fi
}

# Runs a command that writes to the server's folders.
write() {
    if writable; then
        "$@"
    else
        sudo "$@" || fail "sudo did not let us write to $PREFIX$PG_LIB" "Run 'make install' as a user who may use sudo, or as root."
    fi
}


# Copies (arguments: source and target by turns); what runs as root is this alone. install(1) makes a new file, so that a
# server which has the old one loaded keeps it.
copy() {
    # shellcheck disable=SC2016
    write sh -euc '
        while [ $# -gt 0 ]; do
            mode=644
            [ ! -x "$1" ] || mode=755
            mkdir -p "$(dirname "$2")"
            install -m "$mode" "$1" "$2"
            shift 2
        done' sh "$@"
}

install_all() {
    [ -e "$TARGET/stage.built" ] || fail "nothing is built yet" "Run: make build"
    local path work=() gone=() old new list=$TARGET/installed
    new=$(cd "$STAGE" && find . -type f ! -path '*/pg_predict/installed' | sed 's/^\.//' | sort)
    { printf '%s\n' "$new" && printf '%s\n' "$PG_LIB/pg_predict/installed"; } >"$list"
    old=$(installed)
    while IFS= read -r path; do
        case $path in
            "$PG_LIB"/* | "$PG_SHARE"/*) ;;
            *) fail "what is built is for another server: $path" "Run: make build" ;;
        esac
        cmp -s "$STAGE$path" "$PREFIX$path" || work+=("$STAGE$path" "$PREFIX$path")
    done <<<"$new"
    cmp -s "$list" "$LIST" || work+=("$list" "$LIST")
    while IFS= read -r path; do
        [ -z "$path" ] || grep -qxF -- "$path" "$list" || gone+=("$PREFIX$path")
    done <<<"$old"
    [ $((${#work[@]} + ${#gone[@]})) -gt 0 ] || return 0
    announce "installing pg_predict into $PREFIX$PG_LIB"
    [ ${#work[@]} -eq 0 ] || copy "${work[@]}"
    [ ${#gone[@]} -eq 0 ] || write rm -f -- "${gone[@]}"
}

uninstall_all() {
    local paths=() path listed
    listed=$(installed)
    if [ -z "$listed" ]; then
        say "pg_predict is not installed in $PREFIX$PG_LIB"
        return
    fi
    while IFS= read -r path; do paths+=("$PREFIX$path"); done <<<"$listed"
    announce "removing pg_predict from $PREFIX$PG_LIB"
    # shellcheck disable=SC2016
    write sh -euc 'dir=$1; shift; rm -f -- "$@"; rmdir --ignore-fail-on-non-empty -- "$dir"' sh "$PREFIX$PG_LIB/pg_predict" "${paths[@]}"
}

case ${1:-} in
    install) install_all ;;
    uninstall) uninstall_all ;;
    *)
        sed -n '5,6s/^# *//p' "$0" >&2
        exit 2
        ;;
esac
