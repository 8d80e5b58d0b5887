-- exactness: no value changes on its way into a model or out of it without an error, and no column is taken for another.
\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start
SELECT predict.create_model('i64', model('pair_i64')), predict.create_model('f64', model('pair_f64')), predict.create_model('u64', model('pair_u64')), predict.create_model('texts', model('pair_s')),
       predict.create_model('f32', model('pair_f32')), predict.create_model('single', model('single')), predict.create_model('lenient', model('single'), '{"on_error": "null"}'), predict.create_model('id', model('single_i64'));

-- Results: a type that cannot represent a value is an error that names the output; wider forms return it.
CREATE TABLE ids AS SELECT g AS nr, ARRAY[g, 7]::bigint[] AS x FROM unnest(ARRAY[16777216, 16777217, 9007199254740992, 9007199254740993, -9223372036854775808]) g;
SELECT nr, attempt(format('SELECT predict(''i64/y[1]'', x) FROM ids WHERE nr = %L', nr)) FROM ids ORDER BY nr;
SELECT nr, attempt(format('SELECT predict_array(''i64'', x) FROM ids WHERE nr = %L', nr)) FROM ids ORDER BY nr;
SELECT predict_text('i64/y[1]', x), predict_json('i64', x) FROM ids ORDER BY nr;
SELECT (predict_batch('i64', x ORDER BY nr))::bigint[] FROM ids;
SELECT attempt($$SELECT (predict_batch('i64', x))::real[] FROM ids$$), attempt($$SELECT (predict_batch('i64', x))::float8[] FROM ids$$);
SELECT attempt(format('SELECT count(p.y) FROM predictions((SELECT predict_batch(''i64'', x) FROM ids)) AS p(y %s)', t)) FROM unnest(ARRAY['bigint[]', 'float8[]', 'real[]', 'numeric[]', 'jsonb', 'text[]']) t;
SELECT attempt(format('SELECT count(p.y) FROM predictions((SELECT predict_batch(''id'', x[1]) FROM ids)) AS p(y %s)', t)) FROM unnest(ARRAY['bigint', 'float8', 'real', 'int', 'numeric', 'text']) t;
-- In a batch of plain calls, and one at a time.
SELECT attempt($$SELECT sum(predict('id', nr)) FROM ids$$), attempt($$SELECT sum(predict('id', nr)) FROM ids WHERE nr <= 9007199254740992$$);
SELECT attempt($$SELECT predict('u64/y[1]', ARRAY[18446744073709551615, 0])$$), predict_text('u64/y[1]', ARRAY[18446744073709551615, 0]);
SELECT attempt($$SELECT predict_array('f64', ARRAY[1, 1e300]::float8[])$$), attempt($$SELECT predict_array('f64', ARRAY[1, 1e-300]::float8[])$$), predict_array('f64', ARRAY[0.1, 'Infinity']::float8[]);

-- Arguments: bigint and numeric arrive exactly, or not at all.
SELECT predict_text('id', 9223372036854775807::bigint), predict_text('id', 9223372036854775807::numeric), predict_text('id', 7.000);
SELECT attempt($$SELECT predict_text('id', 7.5)$$), attempt($$SELECT predict_text('id', 9223372036854775808)$$), attempt($$SELECT predict_text('id', 'NaN'::numeric)$$);
SELECT predict_text('f64/y[1]', ARRAY[9007199254740992, 1]::bigint[]), attempt($$SELECT predict_text('f64/y[1]', ARRAY[9007199254740993, 1]::bigint[])$$), attempt($$SELECT predict_text('f64/y[1]', ARRAY[9007199254740993, 1]::numeric[])$$), predict_text('f64/y[1]', ARRAY[0.1, 1]::numeric[]);
-- Whole numbers of any size, in every argument that becomes a float8; fractions and single precision are rounded as by PostgreSQL's casts.
SELECT v, split_part(attempt(format('SELECT predict_text(''f64/y[1]'', ARRAY[%s, 1]::numeric[])', v)), ':', 1) AS outcome
  FROM unnest(ARRAY['1e22', '1e23', '36893488147419103232', '36893488147419103233', '9007199254740993.5', '-9007199254740993.0', '1e308', 'Infinity', 'NaN']) v;
SELECT attempt($$SELECT predict.create_model('bad_default', model('pair_f64'), '{"features": ["a", "b"], "defaults": {"a": 9007199254740993}}')$$);
SELECT predict_text('single', 16777217), predict_text('single', 16777217::numeric), 16777217::real;
-- char(n) is what ::text makes of it, in a value, an array, a domain and a row.
CREATE DOMAIN short AS char(5);
SELECT predict_json('texts', 'ab'::char(5), 'c d '::char(6)), predict_json('texts', ARRAY['ab', 'c']::char(4)[]), predict_json('texts', 'ab'::short, 'x'::text);

-- Columns: an exact name wins, a name that differs by case serves only what no other input names exactly.
SELECT predict.create_model('cases', model('two_cases'));
SELECT predict('cases', r) FROM (SELECT 1::real AS "Age", 2::real AS age) r;
SELECT predict('cases', r) FROM (SELECT 2::real AS age, 1::real AS "Age") r;
SELECT attempt(format('SELECT predict(''cases'', r) FROM (SELECT %s) r', c)) FROM unnest(ARRAY['2::real AS age', '2::real AS "Age"', '2::real AS "AGE"', '2::real AS age, 3::real AS "AGE"', '1::real AS "AGE", 2::real AS age, 3::real AS "aGE"']) c;
-- Two columns of the name of an input; two of another name do not matter.
SELECT attempt(format(call, $$(SELECT a.x, b.x, 7 AS other, 8 AS other FROM (VALUES (1::real), (3)) a(x), (VALUES (2::real)) b(x)) r$$))
  FROM unnest(ARRAY['SELECT predict(''single'', r) FROM %s', 'SELECT p.* FROM predictions((SELECT predict_batch(''single'', r) FROM %s)) AS p(y real)', 'SELECT (predict_batch(''single'', r))::real[] FROM %s']) call;
SELECT predict('single', r) FROM (SELECT 1::real AS x, 7 AS other, 8 AS other) r;
-- Carried columns are read by one name, and as what they are.
CREATE FUNCTION two_others() RETURNS prediction_batch LANGUAGE sql AS $$SELECT predict_batch('single', r) FROM (SELECT 1::real AS x, 7 AS other, 8 AS other, 9007199254740993 AS nr) r$$;
SELECT * FROM attempt('SELECT * FROM predictions(two_others()) AS p(y real, other int)');
SELECT * FROM attempt('SELECT two_others()::jsonb');
SELECT attempt(format('SELECT * FROM predictions(two_others()) AS p(nr %s)', t)) FROM unnest(ARRAY['bigint', 'numeric', 'text', 'float8', 'real']) t;
-- An output comes before a carried column of its name.
SELECT (predict_batch('single', r))::jsonb FROM (SELECT 1::real AS x, 'kept' AS y) r;
DROP FUNCTION two_others;
-- Names of more than 63 bytes are cut as PostgreSQL cuts them.
SET client_min_messages = error;
SELECT predict.create_model('letters', model('long_letters')), predict.create_model('long', model('long_pair'));
SELECT predict('letters', r) FROM (SELECT 1::real AS "éééééééééééééééééééééééééééééééééééééééé", 2::real AS b) r;
SELECT p.* FROM predictions((SELECT predict_batch('letters', 1::real, 2::real))) AS p("üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü" real);
SELECT outcome FROM attempt(format('SELECT predict(''long'', r) FROM (SELECT 3::real AS %s) r', repeat('c', 63))) outcome;
SELECT outcome FROM attempt(format('SELECT p.* FROM predictions((SELECT predict_batch(''long'', 1::real, 2::real))) AS p(%s real)', repeat('d', 63))) outcome;
-- Two outputs that are the same in their first 63 bytes have no row of their own.
SELECT predict.create_model('outputs', model('long_outputs'));
SELECT * FROM attempt('SELECT (predict_batch(''outputs'', 1::real))::jsonb');
SELECT * FROM attempt(format('SELECT p.* FROM predictions((SELECT predict_batch(''outputs'', 1::real))) AS p(%s real)', repeat('d', 63)));
SELECT predict_json('outputs', 1::real), predict('outputs/' || repeat('d', 63) || 'y', 1::real);
RESET client_min_messages;

-- An array of a wrong length, or with a NULL, is the error of its row alone.
CREATE TABLE arrays AS SELECT * FROM (VALUES (0, '{1}'::real[]), (1, '{}'), (2, '{3}'), (3, '{1,2}'), (4, '{NULL}'), (5, '{{4}}'), (6, NULL)) v(i, x);
SELECT p.* FROM predictions((SELECT predict_batch('lenient', t ORDER BY i) FROM arrays t)) AS p(i int, y real) ORDER BY i;
SELECT i, predict('lenient', x) FROM arrays ORDER BY i;
SELECT i, attempt(format('SELECT predict(''single'', x) FROM arrays WHERE i = %s', i)) FROM arrays ORDER BY i;
SELECT attempt($$SELECT predict('single', x) FROM arrays WHERE i < 3$$), attempt($$SELECT predict_batch('single', t) FROM arrays t WHERE i < 3$$), attempt($$SELECT predict('single', '{}'::real[])$$);
-- A result that double precision cannot represent fails its row alone, too: in a batch of plain calls, and one at a time.
SELECT predict.create_model('lenient_id', model('single_i64'), '{"on_error": "null"}');
SELECT v, predict('lenient_id', v) FROM unnest(ARRAY[9007199254740991, 9007199254740993, -9007199254740992, 9223372036854775807, 2]) v;
SELECT predict('lenient_id', 9007199254740993), predict_text('lenient_id', 9007199254740993);
PREPARE p(real[]) AS SELECT predict('single', $1);
EXECUTE p('{2}');
EXECUTE p('{}');

DROP TABLE ids, arrays; DROP DOMAIN short;
SELECT predict.drop_model(name) IS NOT NULL FROM (SELECT DISTINCT name FROM predict.models WHERE name IN ('i64', 'f64', 'u64', 'texts', 'f32', 'single', 'lenient', 'lenient_id', 'id', 'cases', 'letters', 'long', 'outputs') ORDER BY name) m;
