-- drift: a baseline of what a model's features and outputs look like, and how far others are from it.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

SET client_min_messages = warning;
DROP ROLE IF EXISTS pgp_owner, pgp_user;
SET client_min_messages = notice;
-- What there is to see of a comparison, in figures that do not depend on the machine.
CREATE FUNCTION figures(model text, query text)
    RETURNS TABLE (kind text, name text, type text, baseline_rows bigint, rows bigint, nulls text, psi numeric, ks numeric, chi numeric, p numeric, unseen text[], rate numeric, verdict text, reason text)
    LANGUAGE sql AS $$
    SELECT d.kind, d.name, d.type, d.baseline_rows, d.rows, round(d.baseline_null_rate::numeric, 3) || '-' || round(d.null_rate::numeric, 3), round(d.psi::numeric, 4), round(d.ks::numeric, 4),
           round(d.chi_squared::numeric, 3), round(d.p_value::numeric, 4), d.unseen, round(d.unseen_rate::numeric, 3), d.verdict, d.reason
      FROM predict.drift(model, query) d
$$;
-- named: y = a + 10 b + 100 c. The column note is not the model's.
SELECT predict.create_model('m', model('named'));
CREATE TABLE t AS SELECT i AS id, i::real AS a, (i % 10)::integer AS b, (i % 7)::numeric AS c, 'row ' || i AS note FROM generate_series(1, 1000) i;
SELECT predict.set_baseline('m', 'SELECT * FROM t');
SELECT model, version, kind, name, type, rows, nulls, nans, exact, created_at = now() AS now, created_by FROM predict.baselines ORDER BY kind, name;
SELECT name, cardinality(numbers) AS distinct, numbers[1:3] AS numbers, counts[1:3] AS counts, categories FROM predict.baseline ORDER BY kind, name;

-- The same rows, and half of them: nothing.
SELECT * FROM figures('m', 'SELECT * FROM t');
SELECT name, verdict, reason FROM predict.drift('m', 'SELECT * FROM t WHERE id % 2 = 1');
-- A column that is shifted: half of its values are above the baseline's. Five tenths have nothing, the last has 0.6.
SELECT * FROM figures('m', 'SELECT id, a + 500 AS a, b, c FROM t');
SELECT round((5 * (0.0001 - 0.1) * ln(0.0001 / 0.1) + 0.5 * ln(6.0))::numeric, 4) AS psi;
-- A little, and with few rows, where the same distance is chance.
SELECT name, round(psi::numeric, 2) AS psi, round(ks::numeric, 2) AS ks, verdict, reason FROM predict.drift('m', 'SELECT a + 150 AS a, b, c FROM t') WHERE name = 'a';
SELECT name, round(psi::numeric, 2) AS psi, round(ks::numeric, 2) AS ks, round(p_value::numeric, 2) AS p, verdict, reason FROM predict.drift('m', 'SELECT * FROM t WHERE id IN (100, 450, 600, 720, 990)');
SELECT name, rows, round(ks::numeric, 2) AS ks, round(p_value::numeric, 2) AS p, verdict, reason FROM predict.drift('m', 'SELECT * FROM t WHERE id = 500');

-- NULL: a row with one has no output, either. A column that has nothing else.
SELECT name, nulls, psi, ks, p, verdict, reason FROM figures('m', 'SELECT a, CASE WHEN id % 20 > 2 THEN b END AS b, c FROM t');
SELECT name, nulls, psi, ks, p, verdict, reason FROM figures('m', 'SELECT a, CASE WHEN id % 25 > 0 THEN b END AS b, c FROM t');
SELECT name, nulls, psi, ks, p, verdict, reason FROM figures('m', 'SELECT a, NULL::integer AS b, c FROM t');
SELECT name, nulls, verdict, reason FROM figures('m', 'SELECT a, CASE WHEN id <> 7 THEN b END AS b, c FROM t WHERE id < 20');
-- NaN is no value either, and infinity is one.
SELECT name, nulls, psi, ks, p, verdict, reason FROM figures('m', $$SELECT CASE WHEN id % 5 = 0 THEN 'NaN' ELSE a END AS a, b, CASE WHEN id % 4 = 0 THEN '-Infinity' ELSE c END AS c FROM t$$);
SELECT round(psi::numeric, 4) AS psi, ks, round(p_value::numeric, 4) AS p FROM predict_internal.compare_numbers('{-Infinity,-1.7e308,1.7e308,Infinity}', '{1,1,1,1}', '{-1.7e308,0}', '{2,2}');
SELECT * FROM attempt($$SELECT predict.set_baseline('m', 'SELECT ''NaN''::float8 AS a, 1 AS b, 2::real AS c')$$);
SELECT name, rows, nulls, nans, exact FROM predict.baselines ORDER BY kind, name;
SELECT name, nulls, psi, ks, p, verdict, reason FROM figures('m', 'SELECT * FROM t');

-- Booleans, enums, texts and integers that a model gives are categories.
CREATE TYPE mood AS ENUM ('sad', 'happy', 'new');
CREATE DOMAIN word AS varchar(10);
SELECT predict.create_model('types', model('types'));
CREATE TABLE k AS SELECT i AS id, 1::real AS f32, i::float8 AS f64, 1::smallint AS i8, 1::smallint AS i16, 1 AS i32, (i % 3)::bigint AS i64, 1 AS u8, 1 AS u16, 1 AS u32, 1 AS u64,
                         i % 4 = 0 AS b, CASE WHEN i % 5 < 2 THEN 'sad' ELSE 'happy' END::mood AS s FROM generate_series(1, 1000) i;
SELECT predict.set_baseline('types', 'TABLE k');
SELECT kind, name, type FROM predict.baselines WHERE model = 'types' ORDER BY kind, name;
SELECT name, categories, counts, rest FROM predict.baseline WHERE model = 'types' AND type = 'category' AND name IN ('b', 's', 'o_i64', 'o_b') ORDER BY kind, name;
SELECT kind, name, psi, chi, p, unseen, rate, verdict, reason FROM figures('types', 'SELECT *, 1 FROM k') WHERE name IN ('b', 's', 'i64', 'o_i64', 'o_b', 'o_s');
SELECT kind, name, psi, chi, p, unseen, rate, verdict, reason FROM figures('types', $$SELECT f32, f64, i8, i16, i32, i64 + (id % 2) * 3 AS i64, u8, u16, u32, u64, id % 2 = 0 AS b, CASE WHEN id % 10 = 0 THEN 'new' ELSE s END AS s FROM k$$)
 WHERE name IN ('b', 's', 'i64', 'o_i64', 'o_b', 'o_s');
-- One row in a hundred is of a new category; then one in a thousand, which may be chance. Another type of text is the same categories.
SELECT name, unseen, rate, verdict, reason FROM figures('types', $$SELECT f32, f64, i8, i16, i32, i64, u8, u16, u32, u64, b, CASE WHEN id % 100 = 0 THEN 'neu' ELSE s::text END::word AS s FROM k$$) WHERE name IN ('s', 'o_s');
SELECT name, unseen, rate, verdict, reason FROM figures('types', $$SELECT f32, f64, i8, i16, i32, i64, u8, u16, u32, u64, b, CASE WHEN id = 100 THEN 'neu' ELSE s::text END AS s FROM k$$) WHERE name IN ('s', 'o_s');
-- At most ten of them are named, the most frequent first.
SELECT name, unseen, rate, verdict FROM figures('types', $$SELECT f32, f64, i8, i16, i32, i64, u8, u16, u32, u64, b, 'w' || floor(sqrt(id)) AS s FROM k$$) WHERE name = 's';
SELECT predict.drop_model('types');

-- Texts that are all different are not unseen: that is what they were in the baseline. Beyond a thousand the rest is one category.
SELECT predict.create_model('text', model('text'));
SELECT predict.set_baseline('text', $$SELECT 'text ' || i AS s FROM generate_series(1, 800) i$$);
SELECT name, psi, p, cardinality(unseen) AS unseen, rate, verdict, reason FROM figures('text', $$SELECT 'text ' || i AS s FROM generate_series(801, 1600) i$$);
-- Categories that the baseline has once let some be expected that it lacks.
SELECT predict.set_baseline('text', $$SELECT CASE WHEN i <= 5 THEN 'rare ' || i ELSE 'common' END AS s FROM generate_series(1, 1000) i$$);
SELECT name, unseen, rate, verdict, reason FROM figures('text', $$SELECT CASE WHEN i <= 8 THEN 'other ' || i ELSE 'common' END AS s FROM generate_series(1, 1000) i$$);
SELECT name, cardinality(unseen) AS unseen, rate, verdict, reason FROM figures('text', $$SELECT CASE WHEN i <= 20 THEN 'other ' || i ELSE 'common' END AS s FROM generate_series(1, 1000) i$$);
SELECT predict.set_baseline('text', $$SELECT 'text ' || least(i, 1500) AS s FROM generate_series(1, 2500) i$$);
SELECT kind, name, exact, cardinality(categories), categories[1], counts[1], rest FROM predict.baseline WHERE model = 'text' ORDER BY kind;
SELECT name, psi, chi, p, unseen, rate, verdict FROM figures('text', $$SELECT 'text ' || least(i, 1500) AS s FROM generate_series(1, 2500) i$$);
SELECT name, psi > 0.25 AS psi, p, unseen, rate, verdict FROM figures('text', $$SELECT 'word ' || i AS s FROM generate_series(1, 2500) i$$);
SELECT predict.drop_model('text');

-- More than 100,000 numbers are kept by their ranks; what that does to the figures is below a hundred thousandth.
SELECT predict.create_model('one', model('one'));
SELECT predict.set_baseline('one', 'SELECT i::float8 AS x FROM generate_series(1, 250000) i');
SELECT name, exact, cardinality(numbers) AS kept, (SELECT sum(n) FROM unnest(counts) n) AS sum, numbers[1], numbers[100000] FROM predict.baseline WHERE model = 'one' ORDER BY kind;
SELECT name, psi, ks, verdict FROM figures('one', 'SELECT i::float8 AS x FROM generate_series(25001, 275000) i');
SELECT name, psi, ks, verdict FROM figures('one', 'SELECT i::float8 AS x FROM generate_series(25001, 75000) i');
-- One value alone.
SELECT predict.set_baseline('one', 'SELECT 3 AS x FROM generate_series(1, 1000)');
SELECT name, psi, ks, p, verdict FROM figures('one', 'SELECT 3 AS x FROM generate_series(1, 500)');
SELECT name, psi, ks, p, verdict FROM figures('one', 'SELECT 3 + (i % 2) AS x FROM generate_series(1, 1000) i');
SELECT predict.drop_model('one');

-- Arrays of a few values are a line each, in the order of their values; so are the keys of a map.
SELECT predict.create_model('shapes', model('shapes')), predict.create_model('zip', model('zipmap_text'));
SELECT predict.set_baseline('shapes', 'SELECT ARRAY[i, 2 * i]::real[] AS x FROM generate_series(1, 100) i');
SELECT kind, name, type, numbers[100] AS last, categories[1:2] FROM predict.baseline WHERE model = 'shapes' ORDER BY kind, position;
SELECT kind, name, nulls, ks, verdict FROM figures('shapes', 'SELECT CASE WHEN i % 2 = 0 THEN ARRAY[i, 2 * i + 50]::real[] END AS x FROM generate_series(1, 100) i');
SELECT predict.set_baseline('zip', 'SELECT ARRAY[i, 2 * i]::real[] AS x FROM generate_series(1, 100) i');
SELECT kind, name, nulls, ks, verdict FROM figures('zip', 'SELECT ARRAY[i, 2 * i + 50]::real[] AS x FROM generate_series(1, 100) i');
-- Long ones are none.
SELECT predict.create_model('tokens', model('tokens'), '{}', tokenizer());
SELECT predict.set_baseline('tokens', $$SELECT c AS text, 1 AS other FROM unnest('{red,green,blue,red green}'::text[]) c, generate_series(1, 50)$$);
SELECT kind, name, type FROM predict.baselines WHERE model = 'tokens' ORDER BY 1, 2;
SELECT kind, name, chi, p, verdict FROM figures('tokens', $$SELECT c AS text FROM unnest('{red,red}'::text[]) c, generate_series(1, 50)$$) WHERE kind = 'feature';
-- Of any shape; what differs by row in it is none, nor what is JSON.
SELECT predict.create_model('grid', model('grid')), predict.create_model('ragged', model('ragged')), predict.create_model('rank7', model('rank7')), predict.create_model('narrow', model('narrow'));
SELECT predict.set_baseline('grid', 'SELECT ARRAY[[1, 2, 3], [4, 5, 6]] AS x'), predict.set_baseline('ragged', 'SELECT array_fill(1, ARRAY[i]) AS x FROM generate_series(1, 3) i'),
       predict.set_baseline('rank7', 'SELECT ARRAY[1, 2, 3, 4] AS x'), predict.set_baseline('narrow', 'SELECT ARRAY[1, 2] AS h, ARRAY[3, 4] AS b, ARRAY[5, 6] AS u');
SELECT model, kind, name, numbers, categories FROM predict.baseline WHERE model IN ('grid', 'ragged', 'rank7', 'narrow') ORDER BY model, kind, position;
SELECT predict.create_model('rank7 alone', model('rank7'));
SELECT * FROM attempt($$SELECT predict.set_baseline('rank7 alone', 'SELECT ''\x00''::bytea AS x')$$);
SELECT predict.drop_model(name) FROM unnest('{shapes,zip,tokens,grid,ragged,rank7,narrow,rank7 alone}'::text[]) name;

-- Names: of the option "features", of any case, of a column that is called as an output is, as the function's own names are.
SELECT predict.create_model('wide', model('linear'), '{"features": ["Age", "y", "query"]}');
SELECT predict.set_baseline('wide', 'SELECT i AS age, 2 * i AS y, 3 * i AS query, 4 * i AS x, 5 * i AS p FROM generate_series(1, 100) i -- a comment' || E'\n;  ');
SELECT kind, name, numbers[100] FROM predict.baseline WHERE model = 'wide' ORDER BY kind, position;
SELECT kind, name, ks FROM figures('wide', 'SELECT i AS "Age", 2 * i AS y, 3 * i AS query FROM generate_series(1, 100) i');
SELECT * FROM attempt($$SELECT predict.set_baseline('wide', 'SELECT 1 AS y, 2 AS query')$$);
SELECT predict.drop_model('wide');

-- The latest baseline is the only one, whatever version it is of. What only one of two versions has cannot be compared.
SELECT predict.create_model('m', model('types')), predict.create_model('m', model('named'), '{"on_null": "nan"}');
SELECT predict.set_baseline('m@3', 'SELECT * FROM t');
SELECT version, kind, name, nulls FROM predict.baselines WHERE model = 'm' ORDER BY 2, 3;
SELECT name, verdict FROM predict.drift('m/y', 'SELECT * FROM t');
SELECT name, verdict FROM predict.drift('m@default/y', 'SELECT * FROM t');
SELECT kind, name, type, verdict, reason FROM predict.drift('m@2', 'SELECT *, f64 AS a, f64 AS c FROM k') WHERE name IN ('a', 'b', 'y', 'o_f32');
SELECT kind, name, type, verdict, reason FROM predict.drift('m', 'SELECT a, a > 3 AS b, c FROM t') WHERE name = 'b';
SELECT predict.set_baseline('m@2', 'TABLE k');
SELECT kind, count(*), min(name), max(name) FROM predict.baselines WHERE model = 'm' GROUP BY kind ORDER BY kind;
SELECT predict.set_baseline('m@3', 'SELECT * FROM t');
SELECT kind, count(*), min(name), max(name) FROM predict.baselines WHERE model = 'm' GROUP BY kind ORDER BY kind;
BEGIN;
SELECT predict.set_baseline('m', 'SELECT 1 AS a, 2 AS b, 3 AS c');
SELECT predict.set_baseline('m', 'SELECT a, b, c, a AS other FROM t WHERE id < 500');
SELECT sum((verdict = 'ok')::integer), max(rows) FROM predict.drift('m', 'SELECT * FROM t WHERE id < 500');
SELECT sum((verdict = 'ok')::integer), max(rows) FROM predict.drift('m', 'SELECT * FROM t WHERE id < 500');
SELECT count(*) FROM pg_class WHERE relname LIKE 'predict\_%' AND relpersistence = 't';
ROLLBACK;
SELECT DISTINCT version, rows FROM predict.baselines WHERE model = 'm';
-- One inside of the other's query.
SELECT name, verdict FROM predict.drift('m', 'SELECT t.* FROM t, LATERAL (SELECT count(*) FROM predict.drift(''m'', ''SELECT * FROM t'')) d WHERE id < 3 OFFSET 0');

-- For jobs: a warning names what has drifted. No drift, no warning.
SELECT count(*) FROM predict.drift('m', 'SELECT a + 500 AS a, b, CASE WHEN id % 2 = 0 THEN c END AS c FROM t', warn => true);
SELECT count(*) FROM predict.drift('m', 'SELECT * FROM t', true);

-- What cannot be.
SELECT * FROM attempt($$SELECT * FROM predict.drift('m', 'SELECT * FROM t WHERE false')$$);
SELECT * FROM attempt($$SELECT predict.set_baseline('m', 'SELECT * FROM t WHERE false')$$);
SELECT predict.create_model('n', model('named'));
SELECT * FROM attempt($$SELECT * FROM predict.drift('n', 'SELECT * FROM t')$$);
SELECT * FROM attempt($$SELECT * FROM predict.drift('n@1', 'no query at all')$$);
SELECT * FROM attempt($$SELECT * FROM predict.drift('nobody', 'SELECT * FROM t')$$);
SELECT * FROM attempt($$SELECT predict.set_baseline('nobody', 'SELECT * FROM t')$$);
SELECT * FROM attempt($$SELECT predict.set_baseline('n@7', 'SELECT * FROM t')$$);
SELECT * FROM attempt($$SELECT predict.set_baseline('n', 'SELECT * FROM t WHERE')$$);
SELECT * FROM attempt($$SELECT predict.set_baseline('n', 'SELECT 1 AS a')$$);
SELECT * FROM attempt($$SELECT predict.set_baseline('n', 'SELECT 1 AS a, 2 AS a')$$);
SELECT * FROM attempt($$SELECT predict.set_baseline(NULL, 'SELECT 1')$$);
SELECT * FROM attempt($$SELECT predict.set_baseline('n', NULL)$$);
SELECT * FROM attempt($$SELECT * FROM predict.drift(NULL, 'SELECT 1')$$);
SELECT * FROM attempt($$SELECT * FROM predict.drift('m', NULL)$$);
SELECT * FROM attempt($$SELECT * FROM predict.drift('m', 'SELECT 1', NULL)$$);
SELECT count(*) FROM predict.baselines WHERE model = 'n';
SELECT count(*) FROM pg_class WHERE relname LIKE 'predict\_%' AND relpersistence = 't';

-- A baseline is its owner's. The query is run with the rights of who calls, and under the caller's search_path.
CREATE ROLE pgp_owner;
CREATE ROLE pgp_user;
GRANT EXECUTE ON FUNCTION predict.create_model(text, bytea, jsonb, jsonb, bytea), predict.set_baseline(text, text) TO pgp_owner;
GRANT SELECT ON t TO pgp_owner, pgp_user;
CREATE TABLE secret AS SELECT * FROM t;
SET ROLE pgp_owner;
SELECT predict.create_model('theirs', model('named'));
SELECT predict.set_baseline('theirs', 'SELECT * FROM t');
SELECT DISTINCT model, created_by FROM predict.baselines;
SELECT name, verdict FROM predict.drift('theirs', 'SELECT * FROM t');
SELECT * FROM attempt($$SELECT * FROM predict.drift('theirs', 'SELECT * FROM secret')$$);
SELECT * FROM attempt($$SELECT * FROM predict.drift('m', 'SELECT * FROM t')$$);
SELECT * FROM attempt($$SELECT predict.set_baseline('m', 'SELECT * FROM t')$$);
SELECT * FROM attempt($$INSERT INTO predict.baseline SELECT 'm', version, kind, name, position, type, rows, nulls, nans, exact, numbers, categories, counts, rest FROM predict.baseline LIMIT 1$$);
SELECT * FROM attempt($$UPDATE predict.baseline SET model = 'm'$$);
RESET ROLE;
SELECT predict.grant_usage('theirs', 'pgp_user');
SET ROLE pgp_user;
SELECT round(predict('theirs', 1, 2, 3)) AS may_use;
SELECT count(*) FROM predict.baselines;
SELECT count(*) FROM predict.baseline;
SELECT * FROM attempt($$SELECT * FROM predict.drift('theirs', 'SELECT * FROM t')$$);
SELECT * FROM attempt($$SELECT predict.set_baseline('theirs', 'SELECT * FROM t')$$);
SELECT * FROM attempt($$SELECT predict_internal.keep_baseline(predict_internal.stage('theirs', 'SELECT * FROM t', 'set_baseline', false))$$);
SELECT * FROM attempt($$DELETE FROM predict.baseline$$);
RESET ROLE;
SELECT model, count(*) FROM predict.baseline GROUP BY 1 ORDER BY 1;
CREATE SCHEMA evil;
CREATE FUNCTION evil.fail() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil was called'; END $$;
CREATE FUNCTION evil.format(text, text, text) RETURNS text RETURN evil.fail();
CREATE FUNCTION evil.replace(text, text, text) RETURNS text RETURN evil.fail();
CREATE FUNCTION evil.abs(float8) RETURNS float8 RETURN evil.fail()::float8;
CREATE FUNCTION evil.less(float8, float8) RETURNS boolean RETURN evil.fail()::boolean;
CREATE OPERATOR evil.< (FUNCTION = evil.less, LEFTARG = float8, RIGHTARG = float8);
CREATE FUNCTION evil.joined(text, text) RETURNS text RETURN evil.fail();
CREATE OPERATOR evil.|| (FUNCTION = evil.joined, LEFTARG = text, RIGHTARG = text);
CREATE DOMAIN evil.jsonb AS integer;
CREATE VIEW evil.t AS SELECT a + 500 AS a, b, c FROM test.t;
-- In a new session, where nothing is looked up yet.
\set QUIET on
\connect -
\set QUIET off
SET search_path = evil, pg_catalog;
SELECT predict.set_baseline('m', 'SELECT * FROM test.t');
SELECT name, verdict FROM predict.drift('m', 'SELECT * FROM t');
SET search_path = test, public;

SET client_min_messages = warning;
DROP SCHEMA evil CASCADE;
SET client_min_messages = notice;
SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models ORDER BY name) n;
DROP OWNED BY pgp_owner, pgp_user;
DROP ROLE pgp_owner, pgp_user;
