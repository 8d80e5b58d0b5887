-- streaming: predictions((SELECT predict_batch(..) FROM ..)) in FROM runs the model as its rows are read.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

-- shapes: of x[2], label [N] int64 = their sum, total [N,1], pair [N,2], grid [N,2,2] = x twice. named: y = a + b + c.
SELECT predict.create_model('shapes', model('shapes'), '{"features": ["a", "b"], "batch_size": 1000}'), predict.create_model('named', model('named'));
CREATE TABLE t (id int PRIMARY KEY, note text, gone int, a int, b int, c int);
INSERT INTO t SELECT g, 'row ' || g, 0, g, 1, 0 FROM generate_series(1, 5) g;
ALTER TABLE t DROP COLUMN gone;

-- The plan has a BatchPredict node with the columns that the query reads, in place of a function.
SELECT plan($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint, pair real[])$$);
SELECT plan($$SELECT id, label FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint, pair real[]) WHERE label > 3$$);
SELECT plan($$SELECT count(*) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(label bigint)$$);
SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint, pair real[]) ORDER BY id;
SELECT id, label FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint, pair real[]) WHERE label > 3 ORDER BY id;
SELECT count(*) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(label bigint);
-- Off, it is read at once.
SET pg_predict.enable_batch_scan = off;
SELECT plan($$SELECT count(*) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(label bigint)$$);
RESET pg_predict.enable_batch_scan;

-- A LIMIT stops early: a row that is not read does not fail. Without one, all rows are run.
INSERT INTO t VALUES (6, 'too large', 2147483647, 1, 0);
SELECT * FROM attempt($$SELECT label FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(label smallint)$$);
SELECT * FROM predictions((SELECT predict_batch('shapes', t ORDER BY id) FROM t)) p(id int, label smallint) LIMIT 2;
SELECT * FROM predictions((SELECT predict_batch('shapes', t ORDER BY id) FROM t)) p(id int, label smallint) WHERE id < 3 LIMIT 2;
SELECT * FROM predictions((SELECT predict_batch('shapes', t ORDER BY id) FROM t)) p(id int, label smallint) LIMIT 0;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM predictions((SELECT predict_batch('shapes', t ORDER BY id) FROM t)) p(id int, label smallint);
FETCH 2 FROM c;
SAVEPOINT s;
MOVE 3 IN c;
FETCH 1 FROM c;
ROLLBACK TO s;
COMMIT;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT * FROM predictions((SELECT predict_batch('shapes', t ORDER BY id) FROM t WHERE id < 6)) p(id int, label smallint);
FETCH 3 FROM c;
FETCH BACKWARD 2 FROM c;
FETCH ALL FROM c;
COMMIT;
DELETE FROM t WHERE id = 6;

-- No row, one row, a batch and one more.
SELECT * FROM predictions((SELECT predict_batch('nobody', t) FROM t WHERE false)) p(id int, label bigint);
SELECT * FROM predictions((SELECT predict_batch('nobody', t) FROM t WHERE id > 9)) p(id int, label bigint);
SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t WHERE id = 4)) p(id int, label bigint);
SET pg_predict.batch_size = 4;
SELECT * FROM predictions((SELECT predict_batch('shapes', t ORDER BY id) FROM t)) p(id int, label bigint);
SELECT count(*), sum(label) FROM predictions((SELECT predict_batch('shapes', g, 1) FROM generate_series(1, 4097) g)) p(label bigint);
RESET pg_predict.batch_size;

-- NULL: a row with a NULL feature has its own columns and NULL outputs, also where an output has the name of a column.
CREATE TABLE holes (id int, label text, a int, b int);
INSERT INTO holes VALUES (1, 'kept', 1, 1), (2, 'hidden', NULL, 1), (NULL, NULL, 2, 2), (4, NULL, NULL, NULL);
SELECT * FROM predictions((SELECT predict_batch('shapes', h) FROM holes h)) p(id int, a int, label bigint, total real, grid real[]);
CREATE DOMAIN whole AS bigint NOT NULL CHECK (VALUE < 4);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', h) FROM holes h WHERE id = 1)) p(id int, label test.whole)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', h) FROM holes h WHERE id = 2)) p(id int, label test.whole)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id test.whole)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch(NULL, t) FROM t)) p(id int)$$);
SELECT * FROM predictions(NULL) p(id int);

-- Columns of the row are cast as an assignment does. What predictions() would refuse, it refuses.
SELECT * FROM predictions((SELECT predict_batch('shapes', t ORDER BY id) FROM t WHERE id < 3)) p(id numeric(4,1), note varchar(5), label text, a text);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(note varchar(3))$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(note int)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label date)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, nowhere int)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes/total', t) FROM t)) p(id int, label bigint)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', n) FROM (SELECT id, a FROM t) n)) p(id int)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', d) FROM (SELECT id, a, b, 16777217 AS c FROM t) d)) p(c real)$$);

-- What the row is made of: columns that are computed, whole rows of joins, sub-selects, CTEs, views and partitions, and values.
SELECT * FROM predictions((SELECT predict_batch('shapes', s) FROM (SELECT id, upper(note) AS note, a * 10 AS a, b FROM t WHERE id < 3) s)) p(id int, note text, label bigint);
SELECT * FROM attempt($$SELECT label FROM predictions((SELECT predict_batch('shapes', s) FROM (SELECT id, a, b, 1 / (id - 3) AS c FROM t) s)) p(label bigint)$$);
SELECT * FROM predictions((SELECT predict_batch('shapes', s) FROM (SELECT x.id, y.a, x.b FROM t x JOIN t y ON y.id = x.id + 1) s)) p(id int, a int, label bigint) ORDER BY id;
WITH s AS (SELECT * FROM t WHERE id > 3) SELECT * FROM predictions((SELECT predict_batch('shapes', s) FROM s)) p(id int, label bigint) ORDER BY id;
SELECT * FROM predictions((WITH s AS MATERIALIZED (SELECT * FROM t WHERE id > 3) SELECT predict_batch('shapes', s) FROM s)) p(id int, label bigint) ORDER BY id;
SELECT * FROM predictions((SELECT predict_batch('shapes', a, b) FROM t)) p(label bigint, total real) ORDER BY label;
SELECT * FROM predictions((SELECT predict_batch('shapes', ARRAY[a, b]) FROM t)) p(label bigint, total real) ORDER BY label;
SELECT * FROM predictions((SELECT predict_batch('shapes', VARIADIC ARRAY[a, b]) FROM t)) p(total real[]) ORDER BY total;
CREATE TABLE parts (id int, a int, b int) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (1) TO (3);
CREATE TABLE part_2 (b int, more int, a int, id int);
ALTER TABLE part_2 DROP COLUMN more;
ALTER TABLE parts ATTACH PARTITION part_2 FOR VALUES FROM (3) TO (9);
INSERT INTO parts SELECT id, a, b FROM t;
SELECT plan($$SELECT * FROM predictions((SELECT predict_batch('shapes', x) FROM parts x)) p(id int, label bigint)$$);
SELECT * FROM predictions((SELECT predict_batch('shapes', x) FROM parts x)) p(id int, label bigint) ORDER BY id;
CREATE VIEW scored AS SELECT p.* FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint);
SELECT * FROM scored WHERE id = 2;
SELECT t.note, s.label FROM t JOIN scored s USING (id) WHERE t.id > 3 ORDER BY 1;
-- A prediction is the input of another model.
SELECT * FROM predictions((SELECT predict_batch('named', n) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) n(id int, a int, b int, c int, label bigint))) p(id int, label bigint, y real) ORDER BY id;

-- For each row of another table, also if there is none.
SELECT g, p.* FROM generate_series(3, 6) g, predictions((SELECT predict_batch('shapes', t) FROM t WHERE t.id = g)) p(id int, label bigint) ORDER BY g;
SELECT g, p.* FROM generate_series(5, 6) g LEFT JOIN LATERAL predictions((SELECT predict_batch('shapes', t) FROM t WHERE t.id = g)) p(id int, label bigint) ON true ORDER BY g;
SELECT m, p.* FROM unnest(ARRAY['shapes', 'named']) m, predictions((SELECT predict_batch(m, t) FROM t WHERE id = 1)) p(id int, c int) ORDER BY m;

-- What is read again is run once: the inner side of a join, and a sub-select for each row.
CREATE FUNCTION rows_run(statement text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT line FROM test.plan(statement, 'ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF') line WHERE line ~ '^ *Rows: ' $$;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_material = off;
SELECT rows_run($$SELECT * FROM t o JOIN predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint) ON p.id < o.id$$);
SELECT o.id, p.* FROM t o JOIN predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint) ON p.id < o.id WHERE o.id > 3 ORDER BY 1, 2;
RESET enable_hashjoin;
RESET enable_mergejoin;
RESET enable_material;
SELECT rows_run($$SELECT (SELECT max(label) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint) WHERE p.id = o.id) FROM t o$$);
SELECT o.id, (SELECT max(label) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint) WHERE p.id = o.id) FROM t o ORDER BY 1;
SELECT o.id, (SELECT sum(label) FROM predictions((SELECT predict_batch('shapes', t.a, o.b + o.id) FROM t)) p(label bigint)) FROM t o ORDER BY 1;
SELECT o.id, (SELECT sum(label) FROM predictions((SELECT predict_batch('shapes', t) FROM t WHERE t.id < o.id)) p(label bigint)) FROM t o ORDER BY 1;

-- Where no node can be, the model is run row by row: a sub-select of one row.
SELECT plan($$SELECT * FROM predictions((SELECT predict_batch('shapes', s) FROM (SELECT 7 AS id, 2 AS a, 3 AS b) s)) p(id bigint, label bigint, pair real[])$$);
SELECT * FROM predictions((SELECT predict_batch('shapes', s) FROM (SELECT 7 AS id, 2 AS a, 3 AS b) s)) p(id bigint, label bigint, pair real[]);
SELECT * FROM predictions((SELECT predict_batch('shapes', s) FROM (SELECT 7 AS id, NULL::int AS a, 3 AS b) s)) p(id bigint, label bigint, pair real[]);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', s) FROM (SELECT 7 AS id, 2 AS a, 3 AS b) s)) p(id bigint, nowhere bigint)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', s) FROM (SELECT 7 AS id, 2 AS a) s)) p(id bigint)$$);
-- A cursor over an index alone.
CREATE TABLE pairs (a int, b int);
INSERT INTO pairs SELECT a, b FROM t;
INSERT INTO pairs VALUES (NULL, 1);
CREATE INDEX ON pairs (a, b);
VACUUM ANALYZE pairs;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
BEGIN;
SELECT plan($$DECLARE c CURSOR FOR SELECT * FROM predictions((SELECT predict_batch('shapes', p) FROM pairs p)) p(a bigint, label bigint, pair real[])$$);
DECLARE c CURSOR FOR SELECT * FROM predictions((SELECT predict_batch('shapes', p) FROM pairs p)) p(a bigint, label bigint, pair real[]);
FETCH ALL FROM c;
COMMIT;
RESET enable_seqscan;
RESET enable_bitmapscan;

-- What stays a function: groups, filters, volatile functions, locks, and rows that are one value.
SELECT plan($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FILTER (WHERE id > 2) FROM t)) p(id int)$$);
SELECT plan($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t HAVING count(*) > 1)) p(id int)$$);
SELECT plan($$SELECT * FROM predictions((SELECT predict_batch('shapes', s) FROM (SELECT id, a, random() AS b FROM t) s)) p(id int)$$);
SELECT plan($$SELECT * FROM predictions((SELECT predict_batch('shapes', ROW(a, b)) FROM t)) p(label bigint)$$);
SELECT plan($$SELECT * FROM predictions((SELECT predict_batch('shapes', s) FROM (SELECT * FROM t FOR UPDATE) s)) p(id int)$$);
SELECT plan($$SELECT * FROM predictions((SELECT predict_batch(note, t) FROM t)) p(id int)$$);
SELECT plan($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM (SELECT 1) one LEFT JOIN t ON true)) p(id int)$$);

-- Writes.
CREATE TABLE results AS SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, note varchar(20), label numeric(6,2));
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'results'::regclass AND attnum > 0 ORDER BY attnum;
INSERT INTO results SELECT p.id + 5, 'again', p.label FROM predictions((SELECT predict_batch('shapes', r) FROM (SELECT id, label AS a, 0 AS b FROM results) r)) p(id int, label bigint);
UPDATE results r SET label = p.label FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint) WHERE p.id + 5 = r.id;
MERGE INTO results r USING predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint) ON r.id = p.id + 8
 WHEN MATCHED THEN UPDATE SET label = -p.label WHEN NOT MATCHED THEN INSERT VALUES (p.id + 8, 'merged', p.label);
SELECT * FROM results ORDER BY id;
-- A model reads the rows as they were before the statement.
UPDATE t SET a = p.label FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint) WHERE p.id = t.id;
SELECT id, a FROM t ORDER BY id;

-- Prepared, with the model as a parameter.
SET plan_cache_mode = force_generic_plan;
PREPARE s(text, int) AS SELECT * FROM predictions((SELECT predict_batch($1, t) FROM t WHERE id <= $2)) p(id int, c int) ORDER BY id;
EXECUTE s('shapes', 2);
EXECUTE s('named', 1);
SELECT * FROM attempt('EXECUTE s(''nobody'', 1)');
EXECUTE s('nobody', 0);

-- Rights: on the model, on the table, on the functions, and a policy.
CREATE ROLE streaming_reader;
GRANT SELECT ON t TO streaming_reader;
CREATE TABLE guarded AS SELECT * FROM t;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY without_2 ON guarded USING (id <> 2);
GRANT SELECT ON guarded TO streaming_reader;
PREPARE r AS SELECT id, label FROM predictions((SELECT predict_batch('shapes', g) FROM guarded g)) p(id int, label bigint) ORDER BY id;
EXECUTE r;
SET ROLE streaming_reader;
SELECT * FROM attempt($$SELECT count(*) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int)$$);
SELECT * FROM attempt($$SELECT count(*) FROM predictions((SELECT predict_batch('shapes', h) FROM test.holes h)) p(id int)$$);
RESET ROLE;
SELECT predict.grant_usage('shapes', 'streaming_reader');
SET ROLE streaming_reader;
SELECT count(*) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int);
EXECUTE r;
RESET ROLE;
PREPARE f AS SELECT count(*) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int);
EXECUTE f;
REVOKE EXECUTE ON FUNCTION predict_batch(text, "any") FROM PUBLIC;
SET ROLE streaming_reader;
SELECT * FROM attempt('EXECUTE f');
SELECT * FROM attempt($$SELECT count(*) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int)$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION predict_batch(text, "any") TO PUBLIC;
REVOKE EXECUTE ON FUNCTION predictions(prediction_batch) FROM PUBLIC;
SET ROLE streaming_reader;
SELECT * FROM attempt('EXECUTE f');
SELECT * FROM attempt($$SELECT count(*) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int)$$);
-- The function that the planner calls is of no use by itself, and it checks the rights on both functions.
SELECT * FROM attempt($$SELECT predict_internal.prediction_column('shapes', '{"columns": [{"name": "label", "oid": 20, "typmod": -1}], "of_row": [], "functions": [1242, 1242]}', 1, NULL::bigint, 1, 2)$$);
SELECT * FROM attempt($$SELECT predict_internal.prediction_column('shapes', '{"columns": [{"name": "label", "oid": 20, "typmod": -1}], "of_row": [7], "functions": [1242, 1242]}', 1, NULL::bigint, 1, 2)$$);
SELECT * FROM attempt($$SELECT predict_internal.prediction_column('shapes', 'x', 1, NULL::bigint, a, b) FROM test.t$$);
SELECT * FROM attempt($$SELECT predict_internal.prediction_column('shapes', '{"columns": [{"name": "label", "oid": 2249, "typmod": -1}], "of_row": [], "functions": []}', 1, ROW(1), a, b) FROM test.t$$);
SELECT * FROM attempt($$SELECT predict_internal.prediction_column('shapes', '{"columns": [{"name": "label", "oid": 2249, "typmod": -1}], "of_row": [], "functions": [1242, 1242]}', 1, ROW(1), a, b) FROM test.t$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION predictions(prediction_batch) TO PUBLIC;
DEALLOCATE ALL;
RESET plan_cache_mode;

-- In PL/pgSQL a block catches what a row raises, and a loop reads as it goes.
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT * FROM predictions((SELECT predict_batch('shapes', t ORDER BY id) FROM t)) p(id int, label bigint) LOOP
        RAISE NOTICE '% %', r.id, r.label;
        EXIT WHEN r.id = 2;
    END LOOP;
    BEGIN
        PERFORM label FROM predictions((SELECT predict_batch('shapes', s) FROM (SELECT id, 40000 AS a, b FROM t) s)) p(label smallint);
    EXCEPTION WHEN numeric_value_out_of_range THEN
        RAISE NOTICE 'caught: %', SQLERRM;
    END;
    RAISE NOTICE '% rows', (SELECT count(*) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(label bigint));
END $$;

-- Parallel workers run the model; their rows are the same.
CREATE TABLE large AS SELECT g AS id, g % 7 AS a, 1 AS b, repeat('x', 50) AS note FROM generate_series(1, 20000) g;
ANALYZE large;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT count(*) > 0 AS parallel FROM plan($$SELECT count(*), sum(label), min(note) FROM predictions((SELECT predict_batch('shapes', l) FROM large l)) p(id int, note text, label bigint)$$) line WHERE line ~ 'Parallel Custom Scan \(BatchPredict\)';
SELECT count(*), sum(label), min(note), sum(id) FROM predictions((SELECT predict_batch('shapes', l) FROM large l)) p(id int, note text, label bigint);
SET max_parallel_workers_per_gather = 0;
SELECT count(*), sum(label), min(note), sum(id) FROM predictions((SELECT predict_batch('shapes', l) FROM large l)) p(id int, note text, label bigint);

DROP OWNED BY streaming_reader;
DROP ROLE streaming_reader;
