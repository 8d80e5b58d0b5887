-- nulls: what a NULL feature, a NULL row, a NULL array and a NULL in an array do under every policy, and rows in = rows out.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

-- named: y = a + 10 b + 100 c.
SELECT predict.create_model('null', model('named')), predict.create_model('error', model('named'), '{"on_null": "error"}'),
       predict.create_model('nan', model('named'), '{"on_null": "nan"}'), predict.create_model('some', model('named'), '{"defaults": {"b": 5}}'),
       predict.create_model('all', model('named'), '{"defaults": {"a": 1, "b": 2, "c": 3}, "on_null": "error"}');
SELECT predict.create_model('linear', model('linear')), predict.create_model('linear_nan', model('linear'), '{"on_null": "nan"}'),
       predict.create_model('linear_error', model('linear'), '{"on_null": "error"}'),
       predict.create_model('features', model('linear'), '{"features": ["a", "b", "c"], "defaults": {"c": 3}}'),
       predict.create_model('types', model('types')), predict.create_model('text', model('text'), '{"defaults": {"s": "nothing"}}'),
       predict.create_model('types_nan', model('types'), '{"on_null": "nan"}');
CREATE TABLE t (id int PRIMARY KEY, a real, b real, c real);
INSERT INTO t VALUES (1, 1, 2, 3), (2, NULL, 2, 3), (3, 1, NULL, 3), (4, NULL, NULL, NULL), (5, 4, 5, 6);

-- A prediction is NULL where a feature is, and its row comes back.
SELECT id, predict('null', t), predict_text('null', t), predict_array('null', t), predict_json('null', t) IS NULL FROM t ORDER BY id;
SELECT p.* FROM predictions((SELECT predict_batch('null', t) FROM t)) p(id int, y real) ORDER BY id;
SELECT (predict_batch('null', t ORDER BY id))::real[] FROM t;
SELECT (predict_batch('null', a, b, c ORDER BY id))::text[] FROM t;
SELECT (predict_batch('null', t ORDER BY id))::jsonb FROM t;
-- With "error" the statement fails, and names the column.
SELECT * FROM attempt('SELECT predict(''error'', t) FROM t');
SELECT * FROM attempt('SELECT predict_batch(''error'', t ORDER BY id DESC) FROM t');
SELECT * FROM attempt('SELECT predict(''error'', 1, NULL::int, 3)');
SELECT id, predict('error', t) FROM t WHERE id IN (1, 5) ORDER BY id;
-- With "nan" the model gets NaN; what it makes of that is the model's.
SELECT id, predict('nan', t) FROM t ORDER BY id;
SELECT p.* FROM predictions((SELECT predict_batch('nan', t) FROM t)) p(id int, y real) ORDER BY id;
-- Defaults stand in, where there are some.
SELECT id, predict('some', t), predict('all', t), predict('features', t) FROM t ORDER BY id;
SELECT p.* FROM predictions((SELECT predict_batch('some', t) FROM t)) p(id int, y real) ORDER BY id;
SELECT predict('all', NULL, NULL, NULL), predict('features', 1, 2, NULL);
SELECT predict_text('text', NULL::text), predict_text('text', '');

-- A row that is NULL as a whole, as an outer join makes it.
SELECT u.id, predict('null', t), predict_text('null', t), predict_json('null', t) IS NULL FROM (VALUES (1), (7)) u(id) LEFT JOIN t USING (id) ORDER BY 1;
SELECT p.* FROM predictions((SELECT predict_batch('null', t ORDER BY u.id) FROM (VALUES (7), (1), (8)) u(id) LEFT JOIN t USING (id))) p(id int, y real);
SELECT (predict_batch('null', t ORDER BY u.id))::real[] FROM (VALUES (7), (1), (8)) u(id) LEFT JOIN t USING (id);
SELECT * FROM attempt('SELECT predict_batch(''error'', t) FROM (VALUES (7), (1)) u(id) LEFT JOIN t USING (id)');
SELECT * FROM attempt('SELECT predict(''error'', NULL::test.t)');
SELECT predict('null', NULL::t), predict('null', NULL::record);
SELECT (predict_batch('null', NULL::t))::real[] FROM generate_series(1, 3);
SELECT (predict_batch('null', NULL::record))::real[] FROM generate_series(1, 3);
SELECT * FROM predictions((SELECT predict_batch('null', NULL::t) FROM generate_series(1, 2))) p(y real, id int);
SELECT * FROM predictions((SELECT predict_batch('null', NULL::record) FROM generate_series(1, 2))) p(y real, id int);
-- A sub-select's NULL row, before the first that tells what a row is.
SELECT p.* FROM predictions((SELECT predict_batch('null', r ORDER BY n) FROM generate_series(1, 3) n LEFT JOIN (SELECT 3 AS n, 1 AS a, 2 AS b, 3 AS c) r USING (n))) p(n int, y real);

-- Arrays: a NULL one is a NULL row; a NULL in one is an error, or NaN where that is wanted.
SELECT predict('linear', NULL::real[]), (SELECT (predict_batch('linear', x))::real[] FROM (VALUES (ARRAY[1, 2, 3]), (NULL), (ARRAY[4, 5, 6])) v(x));
SELECT * FROM attempt('SELECT predict(''linear'', ARRAY[1, NULL, 3])');
SELECT * FROM attempt('SELECT predict_batch(''linear'', ARRAY[1, 2, NULL]::float8[])');
SELECT * FROM attempt('SELECT predict(''linear_error'', ARRAY[NULL, 2, 3]::real[])');
SELECT * FROM attempt('SELECT predict(''linear_error'', NULL::real[])');
SELECT predict('linear_nan', ARRAY[1, NULL, 3]), predict('linear_nan', NULL::real[]), predict('linear_nan', ARRAY[1, 2, 3]), predict('linear_nan', 1, NULL, 3);
SELECT predict('linear', 1, NULL, 3), predict('linear_nan', NULL::int, NULL::numeric, 3);
-- Real columns into a float32 input take a shorter way, and mean the same.
SELECT predict('linear', 1::real, NULL::real, 3::real), predict('linear_nan', 1::real, NULL::real, 3::real);
SELECT (predict_batch('linear', 1::real, x, 3::real ORDER BY n))::real[], (predict_batch('linear_nan', 1::real, x, 3::real ORDER BY n))::real[] FROM (VALUES (1, 2::real), (2, NULL), (3, 2)) v(n, x);
SELECT * FROM attempt('SELECT predict(''linear_error'', 1, 2, NULL)');

-- A NULL into an input that is no float has no NaN: its row is NULL.
CREATE TABLE typed (id int, f32 real, f64 float8, i8 int, i16 int, i32 int, i64 int, u8 int, u16 int, u32 int, u64 int, b boolean, s text);
INSERT INTO typed VALUES (1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, true, 'x'), (2, NULL, NULL, 3, 4, 5, 6, 7, 8, 9, 10, true, 'x'), (3, 1, 2, 3, 4, 5, NULL, 7, 8, 9, 10, true, 'x'),
                         (4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, NULL, 'x'), (5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, true, NULL), (6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, false, 'six');
SELECT p.* FROM predictions((SELECT predict_batch('types', t) FROM typed t)) p(id int, o_f32 real, o_f64 float8, o_i64 bigint, o_b boolean, o_s text) ORDER BY id;
SELECT p.* FROM predictions((SELECT predict_batch('types_nan', t) FROM typed t)) p(id int, o_f32 real, o_f64 float8, o_i64 bigint, o_b boolean, o_s text) ORDER BY id;
SELECT id, predict_text('types/o_s', t), predict('types_nan/o_f32', t) FROM typed t ORDER BY id;

-- No rows at all: the aggregate is NULL, and NULL has no rows.
SELECT predict_batch('null', t) IS NULL FROM t WHERE false;
SELECT (predict_batch('null', t))::real[] IS NULL FROM t WHERE false;
SELECT * FROM predictions((SELECT predict_batch('null', t) FROM t WHERE false)) p(id int, y real);
SELECT * FROM predictions(NULL) p(id int, y real);
SELECT id, predict('null', t) FROM t WHERE false;
SELECT * FROM (SELECT id, predict_batch('null', t) AS b FROM t WHERE false GROUP BY id) g, predictions(b) p(y real);
-- One row; one NULL row; NULL rows only, in batches of every size.
SELECT * FROM predictions((SELECT predict_batch('null', t) FROM t WHERE id = 1)) p(id int, y real);
SELECT * FROM predictions((SELECT predict_batch('null', t) FROM t WHERE id = 2)) p(id int, y real);
SET pg_predict.batch_size = 1;
SELECT * FROM predictions((SELECT predict_batch('null', t) FROM t WHERE id IN (2, 3, 4))) p(id int, y real) ORDER BY id;
SELECT (predict_batch('null', t ORDER BY id))::real[] FROM t;
SET pg_predict.batch_size = 2;
SELECT (predict_batch('null', t ORDER BY id))::real[] FROM t;
SELECT * FROM predictions((SELECT predict_batch('null', t) FROM t)) p(id int, y real) ORDER BY id;
SELECT (predict_batch('linear', x))::real[] FROM (VALUES (NULL::int[]), (NULL), (NULL), (ARRAY[4, 5, 6]), (NULL)) v(x);
RESET pg_predict.batch_size;
-- As many rows as there were, whatever is NULL.
SELECT count(*), count(y), sum(y) FROM predictions((SELECT predict_batch('null', r) FROM (SELECT 1 AS a, 2 AS b, CASE WHEN g % 3 = 0 THEN NULL ELSE 3 END AS c FROM generate_series(1, 10000) g) r)) p(y real);

SELECT count(predict.drop_model(name)) FROM (SELECT DISTINCT name FROM predict.models) n;

-- A row of which not even the type is known is NULL too.
SELECT predict.create_model('strict', model('one'), '{"on_null": "error"}');
SELECT * FROM attempt($$SELECT predict_batch('strict', NULL::record)$$);
SELECT * FROM attempt($$SELECT predict('strict', NULL::record)$$);
-- A default is one value: an input of several has none.
SELECT * FROM attempt($$SELECT predict.create_model('wide', model('linear'), '{"defaults": {"x": 4}}')$$);

SELECT count(predict.drop_model(name)) FROM (SELECT DISTINCT name FROM predict.models) n;
