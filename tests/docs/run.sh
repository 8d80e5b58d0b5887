#!/usr/bin/env bash
# Breaks the manual on purpose, once in each way that `make docs` looks for, and sees that it is told.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$HERE/../../scripts/env.sh"
find_postgres

if [ "${1:-}" != --inside ]; then
    exec "$ROOT/scripts/cluster.sh" run -c shared_preload_libraries=pg_predict "$HERE/run.sh" --inside
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=$TARGET/venv/bin/python
count=0

# The page $1, changed by the sed expression $2, must give an error with the words $3.
broken() {
    rm -rf "$work/docs"
    cp -r "$ROOT/docs" "$work/docs"
    sed -i -E "$2" "$work/docs/$1"
    ! cmp -s "$work/docs/$1" "$ROOT/docs/$1" || fail "$1: the expression $2 changes nothing"
    count=$((count + 1))
    if "$python" "$ROOT/scripts/docs.py" reference --docs "$work/docs" >"$work/said" 2>&1; then fail "$1: $2 was not told"; fi
    grep -qF "$3" "$work/said" || fail "$1: $2 should be told with \"$3\"; it said:" "$(cat "$work/said")"
    echo "ok $count - $3"
}

"$python" "$ROOT/scripts/docs.py" reference
broken reference/functions.md '/^\| `describe/d' 'function describe(model text) is not in the reference'
broken reference/functions.md 's/^\| `load_model\(model text\)/| `load_models(model text)/' 'function load_models() is in the reference'
broken reference/functions.md 's/set_alias\(model text, alias text, version integer/set_alias(model text, alias text, version bigint/' 'function set_alias('
broken reference/types.md 's/`prediction_batch`/`batch`/g' 'type prediction_batch is not in the reference'
broken reference/views.md 's/`predict.model_speeds`/`predict.speeds`/' 'view predict.model_speeds is not in the reference'
broken reference/views.md 's/`sha256`/`sha`/' 'view predict.models has the columns sha256 too'
broken reference/settings.md '/`pg_predict.threads`/d' 'setting pg_predict.threads is not in the reference'
broken reference/settings.md 's/(`pg_predict.max_batch_memory` \|) 64MB/\1 32MB/' 'setting pg_predict.max_batch_memory is 64MB by default'
broken reference/settings.md 's/^(\| `pg_predict.validation_timeout` .*) superuser/\1 user/' 'setting pg_predict.validation_timeout is for a superuser'
broken reference/options.md '/^\| `pooling`/d' 'option pooling is not in the reference'
broken reference/errors.md '/^\| 22003/d' 'SQLSTATE numeric_value_out_of_range is not in the reference'
broken reference/errors.md 's/^\| 22004/| 22005/' 'SQLSTATE 22005 is not null_value_not_allowed'
broken reference/errors.md 's/^(\| 58030) \| `io_error`/\1 | `lock_timeout`/' 'lock_timeout is in the reference, and nothing raises it'

# Links of a small site.
mkdir -p "$work/site"
links() {
    printf '<html><body><h1 id="there">a</h1><a href="%s">b</a></body></html>' "$1" >"$work/site/index.html"
    count=$((count + 1))
    if "$python" "$ROOT/scripts/docs.py" links "$work/site" >"$work/said" 2>&1; then [ -z "$2" ] || fail "the link $1 was not told"; fi
    [ -z "$2" ] || grep -qF "$2" "$work/said" || fail "the link $1 should be told with \"$2\"; it said:" "$(cat "$work/said")"
    [ -n "$2" ] || ! grep -q "index.html" "$work/said" || fail "the link $1 is right; it said:" "$(cat "$work/said")"
    echo "ok $count - link $1"
}
links '#there' ''
links '#nowhere' 'names an anchor that is not there'
links 'nowhere.html' 'there is no nowhere.html'
cp -r "$ROOT/docs" "$work/more"
echo '# A page' >"$work/more/lost.md"
if "$python" "$ROOT/scripts/docs.py" links "$work/site" --docs "$work/more" >"$work/said" 2>&1; then fail "a page without a place was not told"; fi
grep -qF 'docs/lost.md is not in SUMMARY.md' "$work/said" || fail "a page without a place should be told" "$(cat "$work/said")"
echo "ok $((count + 1)) - a page that SUMMARY.md lacks"
echo "1..$((count + 1))"
