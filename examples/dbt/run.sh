#!/usr/bin/env bash
# Installs dbt, loads what the warehouse has, and builds the project twice: the second time only what is new is scored.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd "$HERE/../.." && pwd -P)

"$ROOT/scripts/venv.sh" "$ROOT/target/examples/dbt" "$HERE/requirements.txt"
psql -X -q -v root="$ROOT" -f "$HERE/source.sql"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dbt() { "$ROOT/target/examples/dbt/bin/dbt" --no-use-colors "$1" --project-dir "$HERE" --profiles-dir "$HERE" --target-path "$work/target" --log-path "$work/logs"; }
rows() { psql -X -qAt -v ON_ERROR_STOP=1 -c "$1"; }
fail() { printf 'error: %s\n' "$1" >&2; exit 1; }

dbt build
[ "$(rows 'SELECT count(*) FROM example_dbt.recommendations')" = 1000 ] || fail "each of a hundred users should have ten films"
rows "CREATE TABLE example_dbt_source.before AS SELECT * FROM example_dbt.recommendations"
# Two people rate what was recommended first.
rows "INSERT INTO example_dbt_source.ratings SELECT user_id, item_id, 5, now() FROM example_dbt.recommendations WHERE place = 1 AND user_id IN (7, 42)"
scored() { rows "SELECT sum(rows) FROM predict.stat_models WHERE model = 'example_dbt'"; }
before=$(scored)
dbt build
changed=$(rows "SELECT string_agg(DISTINCT user_id::text, ',') FROM (TABLE example_dbt.recommendations EXCEPT TABLE example_dbt_source.before) d")
[ "$changed" = 42,7 ] || fail "the second run should have done the users 7 and 42, and did: $changed"
# About nine thousand candidates for each of the two, and the test that asks the model again for 1,000 films.
[ $(($(scored) - before)) -lt 20000 ] || fail "the second run scored $(($(scored) - before)) rows"
echo "the second run scored the candidates of two users"
# A test that must fail does.
rows "UPDATE example_dbt.recommendations SET odds = odds / 2 WHERE user_id = 1 AND place = 1"
if dbt test; then fail "a wrong score should fail the tests"; fi
echo "and a score that is not the model's fails the tests"
