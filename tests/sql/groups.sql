-- groups: predict_batch() of many small sorted groups scores its rows below the aggregate, so that groups share batches.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

-- named: y = a + b + c. shapes: of x[2], label [N] int64 = their sum, total [N,1], pair [N,2], grid [N,2,2] = x twice.
SELECT predict.create_model('named', model('named')), predict.create_model('strict', model('named'), '{"on_null": "error"}'),
       predict.create_model('shapes', model('shapes'), '{"features": ["a", "b"], "batch_size": 50}');
CREATE TABLE t AS SELECT g AS id, g / 7 AS k, 'row ' || g AS note, g::real AS a, 1::real AS b, CASE WHEN g % 10 <> 3 THEN 0::real END AS c FROM generate_series(1, 1000) g;
ANALYZE t;
SET enable_hashagg = off;

-- The plan has a node below the groups, and shows the model and its batches.
SELECT plan($$SELECT k, (predict_batch('named', a, b, c))::real[] FROM t GROUP BY k$$);
SELECT plan($$SELECT k, predict_batch('named', t) FROM t GROUP BY k$$);
SELECT line FROM plan($$SELECT k, (predict_batch('shapes', a, b))::real[] FROM t GROUP BY k$$, 'ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF') line WHERE line !~ 'Memory';

-- same(statement): whether it gives the same rows with the node and without, and how many.
CREATE FUNCTION same(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    got text[];
    one text;
BEGIN
    FOR one IN VALUES ('on'), ('off') LOOP
        PERFORM set_config('pg_predict.enable_batch_scan', one, true);
        EXECUTE format('SELECT count(*) || '' rows, '' || md5(coalesce(string_agg(s::text, E''\n'' ORDER BY s::text), '''')) FROM (%s) s', statement) INTO one;
        got := got || one;
    END LOOP;
    PERFORM set_config('pg_predict.enable_batch_scan', 'on', true);
    RETURN CASE WHEN got[1] = got[2] THEN 'same, ' || split_part(got[1], ',', 1) ELSE 'DIFFERENT: ' || array_to_string(got, ' | ') END;
END $$;
SELECT same($$SELECT k, (predict_batch('named', a, b, c))::real[] FROM t GROUP BY k$$);
SELECT same($$SELECT k, (predict_batch('named', t))::text[] FROM t GROUP BY k$$);
SELECT same($$SELECT k, (predict_batch('shapes', t))::jsonb FROM t GROUP BY k$$);
-- Carried columns come back: of fixed length, of variable length, and where some are NULL.
SELECT same($$SELECT s.k, p.id, p.note, p.y FROM (SELECT k, predict_batch('named', t) AS y FROM t GROUP BY k) s, predictions(y) p(id int, k int, note text, y real)$$);
SELECT same($$SELECT k, y::text FROM (SELECT k, predict_batch('named', t) AS y FROM t GROUP BY k) s$$);
SELECT * FROM attempt($$SELECT p.* FROM (SELECT k, predict_batch('named', t) AS y FROM t GROUP BY k) s, predictions(y) p(id int, nothing text)$$);
SELECT p.* FROM (SELECT k, predict_batch('named', t) AS y FROM t GROUP BY k) s, predictions(y) p(id int, k int, note text, y real) WHERE p.id < 5 ORDER BY id;
SELECT p.* FROM (SELECT k, predict_batch('shapes', t) AS y FROM t GROUP BY k) s, predictions(y) p(id int, c real, label bigint, pair real[]) WHERE p.id < 5 ORDER BY id;
SELECT p.* FROM (SELECT k, predict_batch('named', v) AS y FROM (SELECT k, id, a, b, c FROM t) v GROUP BY k) s, predictions(y) p(id int, y real) WHERE p.id < 5 ORDER BY id;
-- One row, no rows, a group of each size, and groups that begin and end within a batch.
SELECT same($$SELECT k, (predict_batch('named', a, b, c))::real[] FROM t WHERE id = 5 GROUP BY k$$);
SELECT same($$SELECT k, (predict_batch('named', a, b, c))::real[] FROM t WHERE false GROUP BY k$$);
SELECT same($$SELECT x, (predict_batch('shapes', a, b))::bigint[] FROM (SELECT floor(sqrt(id)) AS x, a, b FROM t OFFSET 0) s GROUP BY x$$);
SELECT same(format($$SELECT k, (predict_batch('shapes', a, b))::bigint[], %s FROM t GROUP BY k$$, setting)) FROM (VALUES (set_config('pg_predict.batch_size', '1', true)), (set_config('pg_predict.batch_size', '7', true)), (set_config('pg_predict.batch_size', '0', true))) v(setting);
-- Several aggregates, of the same rows and of others, beside others of PostgreSQL, and with expressions and calls as arguments.
SELECT same($$SELECT k, count(*), (predict_batch('named', a, b, c))::real[], (predict_batch('named', a, b, c))::jsonb, (predict_batch('named', a * 2, b, c))::real[], (predict_batch('shapes', a, b))::real[] FROM t GROUP BY k HAVING count(*) > 6$$);
SELECT same($$SELECT k, (predict_batch('named', predict('named', a, b, 0)::real, b, c))::real[] FROM t GROUP BY k$$);
SELECT same($$SELECT k, (predict_batch('shapes', ARRAY[a, b]))::real[] FROM t GROUP BY k$$);
-- Outputs of one model, by name, and of the whole model.
SELECT same($$SELECT k, (predict_batch('shapes/label', a, b))::text[], (predict_batch('shapes/total', a, b))::text[], (predict_batch('shapes', a, b))::jsonb, (predict_batch('shapes/pair', a, b))::jsonb FROM t GROUP BY k$$);
-- Rows that an outer join leaves out are NULL, and rows may be made by workers.
SELECT same($$SELECT g, (predict_batch('named', t))::real[] FROM generate_series(0, 400) g LEFT JOIN t ON id = 5 * g GROUP BY g$$);
SET :debug_parallel = on;
SELECT same($$SELECT k, (predict_batch('named', t))::real[] FROM t GROUP BY k$$);
RESET :debug_parallel;
-- What stays as it was: an order, a condition or DISTINCT within the aggregate, grouping sets, large groups, a volatile argument, a model by row.
SELECT count(*) FROM (VALUES ('predict_batch(''named'', a, b, c ORDER BY id)'), ('predict_batch(''named'', a, b, c) FILTER (WHERE id > 3)'), ('predict_batch(DISTINCT ''named'', a, b, c)'),
    ('predict_batch(''named'', (random() * a)::real, b, c)'), ('predict_batch(note, a, b, c)')) v(call), plan(format('SELECT k, (%s)::real[] FROM t GROUP BY k', call)) line WHERE line ~ 'BatchPredict';
SELECT count(*) FROM (VALUES ('ROLLUP (k)'), ('id < 500')) v(groups), plan(format('SELECT (predict_batch(''named'', a, b, c))::real[] FROM t GROUP BY %s', groups)) line WHERE line ~ 'BatchPredict';
SELECT same($$SELECT k, (predict_batch('named', a, b, c ORDER BY id DESC) FILTER (WHERE id % 3 = 0))::real[] FROM t GROUP BY k$$);
-- Groups that are read again and again, in an expression and beside a row that they depend on.
SELECT same($$SELECT s, x.* FROM generate_series(1, 40) s, LATERAL (SELECT k, (predict_batch('named', t))::real[] AS y FROM t WHERE id BETWEEN s * 10 AND s * 10 + 25 GROUP BY k) x$$);
SELECT same($$SELECT s, (SELECT sum(z) FROM (SELECT unnest((predict_batch('named', t))::real[]) AS z FROM t WHERE id BETWEEN s AND s + 20 GROUP BY k) q) FROM generate_series(1, 60) s$$);
-- A query that fails within a batch leaves nothing behind for the next one.
DO $$
DECLARE caught int := 0;
BEGIN
    FOR i IN 1..20 LOOP
        BEGIN
            PERFORM (predict_batch('named', a, b, (1 / (id - 500))::real))::real[] FROM t GROUP BY k;
        EXCEPTION WHEN division_by_zero THEN
            caught := caught + 1;
        END;
    END LOOP;
    RAISE NOTICE 'caught %', caught;
END $$;
-- The groups of each partition, by workers.
CREATE TABLE parts (LIKE t) PARTITION BY HASH (id);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parts SELECT * FROM t;
ANALYZE parts;
SET enable_partitionwise_aggregate = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT count(*) > 0 FROM plan($$SELECT id, (predict_batch('named', p))::real[] FROM parts p GROUP BY id$$) line WHERE line ~ 'BatchPredict';
SELECT same($$SELECT id, (predict_batch('named', p))::real[] FROM parts p GROUP BY id$$);
RESET enable_partitionwise_aggregate; RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size;
-- A limit stops before a row that fails; without one, its error is told.
INSERT INTO t VALUES (9999, 9999, 'last', 'NaN', 1, NULL);
SELECT * FROM attempt($$SELECT k, (predict_batch('strict', a, b, c))::real[] FROM t WHERE c = 0 OR id > 1000 GROUP BY k$$);
SELECT * FROM attempt($$SELECT k, (predict_batch('strict', a, b, c))::real[] FROM t WHERE c = 0 OR id > 1000 GROUP BY k LIMIT 3$$);
SELECT * FROM attempt($$SELECT k, (predict_batch('named', a))::real[] FROM t GROUP BY k$$);
SELECT * FROM attempt($$SELECT k, (predict_batch('nobody', a))::real[] FROM t GROUP BY k$$);
-- A cursor, a prepared statement that outlives a version, and the value of a group that is kept.
BEGIN;
DECLARE c CURSOR FOR SELECT k, (predict_batch('named', a, b, 0))::real[] FROM t GROUP BY k;
FETCH 2 FROM c;
MOVE 100 IN c;
FETCH 1 FROM c;
COMMIT;
PREPARE s AS SELECT sum(cardinality((y)::real[])), sum(((y)::real[])[1]) FROM (SELECT k, predict_batch('named', a, b, 0) AS y FROM t WHERE id < 1001 GROUP BY k OFFSET 0) g;
EXECUTE s;
SELECT predict.create_model('named', model('named'));
EXECUTE s;
CREATE TABLE kept AS SELECT k, predict_batch('named', t) AS y FROM t WHERE id < 1001 GROUP BY k;
SELECT count(*), sum(p.y) FROM kept, predictions(kept.y) p(id int, y real);
-- Rows that fail are NULL and are told for their group.
SELECT predict.create_model('lenient', model('named'), '{"on_error": "null"}');
CREATE TABLE odd AS SELECT g AS id, g / 4 AS k, CASE WHEN g % 6 = 0 THEN 1e300 ELSE g END::float8 AS a, 1::float8 AS b, 0::float8 AS c FROM generate_series(1, 12) g;
ANALYZE odd;
SELECT k, (predict_batch('lenient', a, b, c))::real[] FROM odd GROUP BY k;
SELECT k, (predict_batch('lenient', odd))::real[] FROM odd GROUP BY k;
-- Only who may call predict_batch() may, also with a plan that another role made. Nobody can make a scored row or guess one.
REVOKE EXECUTE ON FUNCTION predict_batch(text, "any") FROM PUBLIC;
CREATE ROLE groups_reader;
GRANT SELECT ON t TO groups_reader;
SELECT predict.grant_usage('named', 'groups_reader');
SET plan_cache_mode = force_generic_plan;
EXECUTE s;
SET ROLE groups_reader;
SELECT * FROM attempt($$EXECUTE s$$);
SELECT * FROM attempt($$SELECT k, (predict_batch('named', a, b, 0))::real[] FROM test.t GROUP BY k$$);
SELECT * FROM attempt($$SELECT predict_internal.scored_row('named', 1, NULL, 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT predict_internal.batch_of_scored(g) FROM generate_series(0, 10) g$$);
SELECT * FROM attempt($$SELECT predict_internal.batch_of_scored(NULL)$$);
RESET ROLE;
DROP OWNED BY groups_reader;
DROP ROLE groups_reader;
