#!/usr/bin/env bash
# Shows that lint guards its rules: each is broken once in a copy of the sources, and lint has to name the file, the line and
# the rule. It has to let through what only looks like a break, and the sources as they are.
set -euo pipefail
cd "$(dirname "$0")/../.."
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
passed=0
failed=0

# A fresh copy of all that lint looks at.
copy() {
    rm -rf "$WORK/tree"
    mkdir "$WORK/tree"
    cp -r Cargo.toml Cargo.lock rust-toolchain.toml rustfmt.toml clippy.toml src crates "$WORK/tree/"
    for part in .cargo pg_predict.control sql benches; do
        [ ! -e "$part" ] || cp -r "$part" "$WORK/tree/"
    done
    mkdir "$WORK/tree/docs"
    cp README.md "$WORK/tree/"
    cp docs/tutorial.md "$WORK/tree/docs/"
}

verdict() {
    if [ "$1" = ok ]; then
        passed=$((passed + 1))
        echo "ok      $2"
    else
        failed=$((failed + 1))
        echo "FAILED  $2"
        sed 's/^/        /' "$WORK/output"
    fi
}

# A file that is made here opens as it should, so that one rule alone is broken.
append() {
    local file=$WORK/tree/$1
    mkdir -p "$(dirname "$file")"
    [ -e "$file" ] || echo "//! Made by the test of lint." >"$file"
    printf '%s\n' "$2" >>"$file"
    BROKEN=$1:$(wc -l <"$file")
}

# breaks RULE FILE LINE: lint names the rule at that line of that file.
breaks() {
    copy
    append "$2" "$3"
    if scripts/lint.sh --rules "$WORK/tree" >"$WORK/output" 2>&1; then
        verdict failed "$1: lint let through: $3"
    elif grep -q "^$BROKEN: $1: " "$WORK/output"; then
        verdict ok "$1: $3"
    else
        verdict failed "$1: lint does not name $BROKEN for: $3"
    fi
}

# passes FILE LINE: lint has nothing against that line.
passes() {
    copy
    append "$1" "$2"
    local status=0
    scripts/lint.sh --rules "$WORK/tree" >"$WORK/output" 2>&1 || status=$?
    if [ "$status" -le 1 ] && ! grep -q "^$BROKEN: " "$WORK/output"; then
        verdict ok "no break: $2"
    else
        verdict failed "lint refused what breaks no rule: $2"
    fi
}

copy
if scripts/lint.sh --rules "$WORK/tree" >"$WORK/output" 2>&1; then
    verdict ok "the sources as they are"
else
    verdict failed "the sources as they are"
fi

breaks engine-without-pgrx crates/engine/src/options.rs 'use pgrx::pg_sys;'
breaks engine-without-pgrx crates/engine/Cargo.toml 'pgrx.workspace = true'
breaks ort-only-in-its-room crates/engine/src/options.rs 'use ort::session::Session;'
breaks ort-only-in-its-room src/pg/broken.rs 'fn load() { let _ = ::ort::init(); }'
breaks ort-only-in-its-room src/registry/rights.rs 'use {ort::Error as E};'
breaks unsafe-only-in-its-rooms src/registry/rights.rs 'fn read(p: *const u8) -> u8 { unsafe { *p } }'
breaks unsafe-only-in-its-rooms src/api/broken.rs '#[unsafe(no_mangle)] pub extern "C" fn hook() {}'
breaks unsafe-only-in-its-rooms crates/engine/src/broken.rs 'unsafe impl Send for Broken {}'
breaks safety-notes-stay-on src/pg/broken.rs '#[allow(clippy::undocumented_unsafe_blocks)] fn f() {}'
breaks sqlstate-only-in-report src/pg/broken.rs 'use pgrx::PgSqlErrorCode as Code;'
breaks sqlstate-only-in-report src/api/broken.rs 'const MISSING: i32 = ERRCODE_UNDEFINED_OBJECT;'
breaks no-panic src/registry/rights.rs 'fn f(x: Option<u8>) -> u8 { x.unwrap() }'
breaks no-panic crates/engine/src/broken.rs 'fn f(x: Option<u8>) -> u8 { x.expect("there is one") }'
breaks no-panic src/pg/broken.rs 'fn f() { panic!("no") }'
breaks no-panic src/api/broken.rs 'fn f() { pgrx::error!("no") }'
breaks no-panic src/stats.rs 'fn f() { todo!() }'
breaks no-panic src/scan/broken.rs 'fn f() { unimplemented!() }'
breaks no-panic crates/model_process/src/bin/broken.rs '#[cfg(not(test))] fn f(x: Option<u8>) -> u8 { x.unwrap() }'
breaks names-say-what src/pg/mod.rs 'mod utils { }'
breaks rooms-look-down src/pg/broken.rs 'use crate::api::predict;'
breaks rooms-look-down src/pg/broken.rs 'use crate::{error::Error, registry::{self, Model}};'
breaks rooms-look-down src/registry/rights.rs 'use crate::api::predict;'
breaks rooms-look-down src/registry/rights.rs 'use super::super::api;'
breaks rooms-look-down src/rows/broken.rs 'fn f() { crate::scan::explain::show() }'
breaks rooms-look-down crates/engine/src/tensor/broken.rs 'use crate::encoding::layout::Layout;'
breaks rooms-look-down benches/src/statements/broken.rs 'use crate::report::page;'
breaks rooms-look-down src/error.rs 'use crate::registry::Model;'
breaks rooms-look-down src/settings.rs 'use crate::{pg, stats};'
breaks rooms-look-down crates/engine/src/tensor/broken.rs 'use pg_predict::registry;'

breaks install-looks-in-pg-catalog sql/functions/checks.sql 'SET search_path = public;'
breaks install-makes-anew sql/functions/stats.sql 'CREATE OR REPLACE VIEW predict.broken AS SELECT 1 AS a;'
breaks install-makes-anew sql/tables/jobs.sql 'CREATE TABLE IF NOT EXISTS predict.broken (a integer PRIMARY KEY);'
breaks install-makes-anew sql/tables/jobs.sql 'CREATE SCHEMA IF NOT EXISTS predict;'
breaks function-fixes-its-path sql/functions/jobs.sql 'CREATE FUNCTION predict_internal.is_member_of(role name) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT true $$;'
breaks function-fixes-its-path sql/functions/jobs.sql 'CREATE FUNCTION predict_internal.lent() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$ SELECT true $$;'
breaks function-fixes-its-path sql/functions/jobs.sql 'CREATE FUNCTION predict_internal.lent() RETURNS boolean LANGUAGE sql SET search_path = pg_catalog AS $$ SELECT true $$;'
breaks function-fixes-its-path sql/functions/jobs.sql 'CREATE FUNCTION predict.drift(a text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM lower(a); END $$;'
breaks function-fixes-its-path sql/functions/jobs.sql 'CREATE FUNCTION predict.drift(a integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN a = 1; END $$;'
breaks function-fixes-its-path sql/functions/jobs.sql 'CREATE PROCEDURE predict.run_job(a integer) LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;'
breaks no-door-in-a-view sql/functions/jobs.sql "CREATE VIEW predict.broken AS SELECT d.name FROM predict.drift('m', 'SELECT 1') d;"
breaks public-changes-no-table sql/tables/jobs.sql 'GRANT INSERT ON predict.job_run TO PUBLIC;'
breaks public-changes-no-table sql/tables/jobs.sql 'GRANT ALL ON predict.job TO PUBLIC;'
breaks behalf-is-closed sql/functions/jobs.sql 'CREATE FUNCTION predict_internal.put_it(caller oid, a integer) RETURNS bigint LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT 1::bigint $$;'

# pgspot names places of its own.
copy
echo 'CREATE FUNCTION broken.lent(a bigint) RETURNS interval LANGUAGE sql SECURITY DEFINER AS $$ SELECT make_interval(secs => a) $$;' >>"$WORK/tree/sql/functions/stats.sql"
if ! scripts/lint.sh --rules "$WORK/tree" >"$WORK/output" 2>&1 && grep -q '^sql: pgspot: PS' "$WORK/output"; then
    verdict ok "pgspot: a call that another role's function fits better"
else
    verdict failed "pgspot: a call that another role's function fits better"
fi
copy
sed -i '/^SET LOCAL search_path/d' "$WORK/tree/sql/tables/registry.sql"
if ! scripts/lint.sh --rules "$WORK/tree" >"$WORK/output" 2>&1 && grep -q ': install-looks-in-pg-catalog: ' "$WORK/output" && grep -q '^sql: pgspot: PS' "$WORK/output"; then
    verdict ok "install-looks-in-pg-catalog: a script without a search_path"
else
    verdict failed "install-looks-in-pg-catalog: a script without a search_path"
fi

# These break a rule in the first line, by their name or by what is missing there.
for name in src/utils.rs src/pg/common.rs crates/engine/src/helpers.rs src/api/types/batch.rs; do
    copy
    append "$name" "fn f() {}"
    BROKEN=$name:1
    if ! scripts/lint.sh --rules "$WORK/tree" >"$WORK/output" 2>&1 && grep -q "^$BROKEN: names-say-what: " "$WORK/output"; then
        verdict ok "names-say-what: $name"
    else
        verdict failed "names-say-what: $name"
    fi
done
copy
echo 'fn f() {}' >"$WORK/tree/src/pg/silent.rs"
if ! scripts/lint.sh --rules "$WORK/tree" >"$WORK/output" 2>&1 && grep -q '^src/pg/silent.rs:1: opens-with-its-duty: ' "$WORK/output"; then
    verdict ok "opens-with-its-duty: a file without //!"
else
    verdict failed "opens-with-its-duty: a file without //!"
fi
copy
echo 'fn f() {}' >"$WORK/tree/src/broken.rs"
sed -i '1s|^|//! A room that nobody planned.\n|' "$WORK/tree/src/broken.rs"
if ! scripts/lint.sh --rules "$WORK/tree" >"$WORK/output" 2>&1 && grep -q '^src/broken.rs:1: rooms-look-down: ' "$WORK/output"; then
    verdict ok "rooms-look-down: a room that nobody planned"
else
    verdict failed "rooms-look-down: a room that nobody planned"
fi
copy
sed -i '/^undocumented_unsafe_blocks/d' "$WORK/tree/Cargo.toml"
if ! scripts/lint.sh --rules "$WORK/tree" >"$WORK/output" 2>&1 && grep -q '^Cargo.toml:1: safety-notes-stay-on: ' "$WORK/output"; then
    verdict ok "safety-notes-stay-on: the lint is gone from Cargo.toml"
else
    verdict failed "safety-notes-stay-on: the lint is gone from Cargo.toml"
fi

copy
for _ in {1..40}; do
    printf '\n%s\n' 'Considerable organizational infrastructure necessitates comprehensive interdepartmental communication methodologies.'
done >>"$WORK/tree/docs/tutorial.md"
if ! scripts/lint.sh --rules "$WORK/tree" >"$WORK/output" 2>&1 && grep -q '^docs/tutorial.md:1: readable: ' "$WORK/output"; then
    verdict ok "readable: long words in the tutorial"
else
    verdict failed "readable: long words in the tutorial"
fi

passes src/registry/rights.rs '// unsafe, panic!, crate::api and PgSqlErrorCode in a comment'
passes src/registry/rights.rs '/* ort:: /* and unsafe */ crate::api:: */'
passes src/registry/rights.rs 'const TEXT: &str = "unsafe { panic!(\"ort::\") } // crate::api::x";'
passes src/registry/rights.rs "const RAW: &str = r#\"unsafe \" .unwrap() crate::api::\"#; const QUOTE: char = '\"'; fn f<'a>(x: &'a str) -> &'a str { x }"
passes src/registry/rights.rs '#[cfg(test)] mod tests { fn f(x: Option<u8>) -> u8 { x.unwrap() + x.expect("it") } }'
passes crates/engine/src/broken.rs '#![deny(unsafe_code)]'
passes src/registry/rights.rs 'fn f(x: Option<u8>) -> u8 { x.unwrap_or(1) }'
passes src/registry/rights.rs '#[expect(dead_code)] fn f(effort: u8) { let ort = effort; let _ = report::of(ort); }'
passes src/pg/broken.rs 'fn f(p: *const u8) -> u8 { unsafe { *p } }'
passes src/api/broken.rs 'use crate::{error::Error, settings, pg::{call, text}, registry::Model};'
passes sql/functions/jobs.sql 'CREATE FUNCTION predict_internal.fine(a integer) RETURNS integer LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT a + 1 $$;'
passes sql/functions/jobs.sql 'CREATE FUNCTION predict_internal.fine(a integer) RETURNS integer IMMUTABLE RETURN a + 1;'
passes sql/tables/jobs.sql 'GRANT SELECT ON predict.job_run TO PUBLIC; -- and not INSERT: OR REPLACE, IF NOT EXISTS'
passes src/pg/catalog/wide.rs 'use super::super::text;'

# The two that are not ours, once each: that lint calls them, with the settings that matter.
copy
printf '\npub fn   crooked( ) { }\n' >>"$WORK/tree/crates/engine/src/lib.rs"
if ! scripts/lint.sh --format "$WORK/tree" >"$WORK/output" 2>&1 && grep -q 'cargo fmt --all' "$WORK/output"; then
    verdict ok "rustfmt: crooked layout"
else
    verdict failed "rustfmt: crooked layout"
fi
copy
printf '\npub fn peek(p: &u8) -> u8 {\n    let p: *const u8 = p;\n    unsafe { *p }\n}\n' >>"$WORK/tree/crates/engine/src/lib.rs"
if ! scripts/lint.sh --clippy "$WORK/tree" pg_predict_engine >"$WORK/output" 2>&1 && grep -q 'undocumented' "$WORK/output" && grep -q 'missing a safety comment' "$WORK/output"; then
    verdict ok "clippy: unsafe without a SAFETY note"
else
    verdict failed "clippy: unsafe without a SAFETY note"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
