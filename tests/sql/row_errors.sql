-- row_errors: rows that a model fails on: the statement fails, or they are NULL and counted.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start
-- The model `table` has ten places, from 0; another place fails the run.

SELECT predict.create_model('strict', model('table')), predict.create_model('lenient', model('table'), '{"on_error": "null"}'), predict.create_model('linear', model('linear'), '{"on_error": "null"}');
SELECT left(a, 90) FROM attempt($$SELECT predict_batch('strict', g) FROM generate_series(8, 12) g$$) a;

CREATE TABLE orders AS SELECT g AS id, CASE WHEN g % 1000 = 500 THEN 10 + g ELSE g % 10 END::bigint AS place FROM generate_series(1, 5000) g;
SELECT count(*), count(p.y), count(*) FILTER (WHERE p.y = o.place * 10) AS right, array_agg(p.id ORDER BY p.id) FILTER (WHERE p.y IS NULL) AS bad
  FROM predictions((SELECT predict_batch('lenient', o) FROM orders o)) AS p(id int, place bigint, y real) JOIN orders o USING (id);
SET pg_predict.batch_size = 7;
SELECT count(*), count(p.y) FROM predictions((SELECT predict_batch('lenient', o) FROM orders o)) AS p(id int, y real);
RESET pg_predict.batch_size;

-- None, one, all; NULLs are not errors.
SELECT (predict_batch('lenient', g))::real[] FROM generate_series(1, 3) g;
SELECT (predict_batch('lenient', 77::bigint))::real[];
SELECT (predict_batch('lenient', g ORDER BY g))::real[] FROM generate_series(9, 12) g;
SELECT (predict_batch('lenient', x))::real[] FROM (VALUES (1), (NULL), (99), (2)) v(x);
SELECT g % 2 AS half, (predict_batch('lenient', g ORDER BY g))::real[] FROM generate_series(8, 11) g GROUP BY 1 ORDER BY 1;

-- A plain call tells of the first.
SELECT g, predict('lenient', g) FROM generate_series(8, 12) g;

-- So is a value that does not go into its tensor.
SELECT p.* FROM predictions((SELECT predict_batch('linear', x ORDER BY n) FROM (VALUES (1, '{1,2,3}'::float8[]), (2, '{1,2}'), (3, '{1e300,0,0}'), (4, '{0,0,0}')) v(n, x))) AS p(y real);
SELECT p.* FROM predictions((SELECT predict_batch('linear', x) FROM (VALUES ('\x00'::bytea), ('\x0000803f0000803f0000803f')) v(x))) AS p(y real);
-- A type that never fits is not a row's error.
SELECT * FROM attempt($$SELECT predict('linear', 'a'::text, 'b'::text, 'c'::text)$$);

-- With workers: as many, counted once.
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SET client_min_messages = error;
SELECT count(*), count(p.y) FROM predictions((SELECT predict_batch('lenient', o) FROM orders o)) AS p(id int, y real);
RESET client_min_messages;
SELECT o, a FROM unnest(ARRAY['{"on_error": "ignore"}', '{"on_error": null}']) WITH ORDINALITY u(o, n), attempt(format('SELECT predict.create_model(''no'', test.model(''linear''), %L)', o)) a ORDER BY n;

-- Batch mates that matter: one by one unless forced.
SELECT predict.create_model('alone', model('centred')), predict.create_model('forced', model('centred'), '{"batch": "force"}');
SELECT name, batch_size > 1 AS together FROM predict.models WHERE name IN ('alone', 'forced') ORDER BY 1;
SET pg_predict.batch_size = 4;
SELECT (predict_batch('alone', g::real))::real[], (predict_batch('forced', g::real))::real[] FROM generate_series(1, 4) g;
