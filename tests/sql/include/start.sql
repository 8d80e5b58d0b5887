-- What every SQL test begins with: a registry without models, the test models as a table, and a way to see errors whole.
--
-- model(name) gives the bytes of tests/models/NAME.onnx. attempt(statement) runs a statement and says in full how it
-- fails: `SQLSTATE: message`, then DETAIL and HINT, or how many rows it gave.
\set ECHO none
\set QUIET on
\pset format unaligned
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_predict CASCADE;
DROP SCHEMA IF EXISTS test CASCADE;
CREATE SCHEMA test;
GRANT USAGE ON SCHEMA test TO PUBLIC;
SET search_path = test, public;
CREATE EXTENSION pg_predict SCHEMA public;

CREATE TABLE test.fixture (name text PRIMARY KEY, bytes bytea NOT NULL);
\copy test.fixture from program 'cd "$PG_ABS_SRCDIR/models" && for f in *.onnx; do case $f in tap_*) continue ;; esac; printf "%s\t\\\\\\\\x" "${f%.onnx}"; od -An -v -tx1 "$f" | tr -d " \n"; echo; done'
GRANT SELECT ON test.fixture TO PUBLIC;

CREATE FUNCTION test.model(name text) RETURNS bytea STABLE
BEGIN ATOMIC
    SELECT f.bytes FROM test.fixture f WHERE f.name = model.name;
END;

-- The tokenizer of the model `tokens`: it knows red, green and blue.
CREATE FUNCTION test.tokenizer() RETURNS jsonb STABLE LANGUAGE sql AS $$
    SELECT '{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": {"type": "Lowercase"},
             "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
             "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "[UNK]": 1, "red": 2, "green": 3, "blue": 4}, "unk_token": "[UNK]"}}'::jsonb
$$;

CREATE FUNCTION test.attempt(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    rows bigint;
    state text;
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN NEXT format('no error, rows: %s', rows);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN NEXT format('%s: %s', state, message);
    IF detail <> '' THEN RETURN NEXT 'DETAIL: ' || detail; END IF;
    IF hint <> '' THEN RETURN NEXT 'HINT: ' || hint; END IF;
END $$;
-- plan(statement) gives the plan in the words that all releases of PostgreSQL share; :debug_parallel is what this one calls its
-- force_parallel_mode. Only 15 and 16 say which parameter an InitPlan returns, 18 counts the rows of EXPLAIN ANALYZE in hundredths and
-- prints the definitions of windows. What the newer ones would plan in another way is planned as 15 does: sorted input for aggregates
-- (from 16), a UNION that is to be sorted anyway (from 17), and a join of a table with itself (from 18).
CREATE FUNCTION test.plan(statement text, options text DEFAULT 'COSTS OFF') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    PERFORM set_config(name, 'off', true) FROM pg_settings WHERE name IN ('enable_presorted_aggregate', 'enable_self_join_elimination') OR name = 'enable_hashagg' AND statement ~ '\mUNION SELECT .* ORDER BY 1$';
    FOR line IN EXECUTE format('EXPLAIN (%s) %s', options, statement) LOOP
        line := regexp_replace(line, '(InitPlan \d+) \(returns [$\d,]+\)$', '\1');
        line := regexp_replace(line, '(\(actual rows=\d+)\.00 ', '\1 ');
        CONTINUE WHEN line ~ '^ *Window: ';
        RETURN NEXT line;
    END LOOP;
    PERFORM set_config(name, reset_val, true) FROM pg_settings WHERE name IN ('enable_presorted_aggregate', 'enable_self_join_elimination', 'enable_hashagg');
END $$;
SELECT name AS debug_parallel FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') \gset
SET client_min_messages = notice;
\pset format aligned
\pset tuples_only on
\pset format unaligned
\set QUIET off
\set ECHO all
