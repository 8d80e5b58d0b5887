-- whole_rows: predict_batch over whole rows, which the planner takes apart, gives what it gives over rows that are put together: for tables,
-- views, sub-selects, CTEs, joins and partitions, with columns of every kind carried along.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

SELECT predict.create_model('named', model('named')), predict.create_model('nan', model('named'), '{"on_null": "nan"}'), predict.create_model('strict', model('named'), '{"on_null": "error"}'),
       predict.create_model('defaults', model('named'), '{"defaults": {"b": 7}}');
CREATE DOMAIN positive AS real CHECK (VALUE > 0);
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (x int, y text);
CREATE TABLE t (gone text, id int, a positive, small smallint, b float8, flag boolean, "c" int, "Odd ""name""" text, letter "char", price numeric(8,2), label varchar(5), mood mood, at timestamptz, list int[], pair pair, data jsonb, big bigint);
INSERT INTO t SELECT 'x', g, g % 7 + 1, CASE WHEN g % 5 <> 0 THEN -g END, g % 11, CASE WHEN g % 3 <> 0 THEN g % 2 = 0 END, CASE WHEN g % 13 <> 0 THEN g % 5 END, repeat('text ' || g, 1 + (g % 50 = 0)::int * 3000), chr(65 + g % 26)::"char",
       g / 3.0, 'n' || g % 1000, CASE WHEN g % 4 <> 0 THEN (ARRAY['sad', 'happy'])[1 + g % 2]::mood END, '2020-01-01 UTC'::timestamptz + g * interval '1 hour', ARRAY[g, NULL, -g], ROW(g, ('y' || g)::text)::pair, jsonb_build_object('g', g), (g::bigint << 33) - 5
  FROM generate_series(1, 1003) g;
ALTER TABLE t DROP COLUMN gone;
ALTER TABLE t ADD COLUMN late int DEFAULT 42;
ANALYZE t;
CREATE VIEW v AS SELECT id, a, b, c, "Odd ""name""" AS odd, price FROM t WHERE id % 2 = 0;
CREATE TABLE parts (LIKE t) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (1) TO (500);
CREATE TABLE part_2 (id int, c int, late int, big bigint, data jsonb, pair pair, list int[], at timestamptz, mood mood, label varchar(5), price numeric(8,2), letter "char", "Odd ""name""" text, flag boolean, b float8, small smallint, a positive);
ALTER TABLE parts ATTACH PARTITION part_2 FOR VALUES FROM (500) TO (2000);
INSERT INTO parts SELECT * FROM t;

-- What a statement gives with its rows taken apart and put together.
CREATE FUNCTION agrees(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    outcome text[] := '{}'; setting text; one text;
BEGIN
    FOREACH setting IN ARRAY ARRAY['on', 'off'] LOOP
        PERFORM set_config('pg_predict.enable_batch_scan', setting, true);
        BEGIN
            EXECUTE 'SELECT md5(string_agg(q::text, chr(10) ORDER BY q::text)) || '' '' || count(*) FROM (' || statement || ') q' INTO one;
        EXCEPTION WHEN OTHERS THEN
            one := SQLSTATE || ': ' || SQLERRM;
        END;
        outcome := outcome || one;
    END LOOP;
    PERFORM set_config('pg_predict.enable_batch_scan', 'on', true);
    RETURN CASE WHEN outcome[1] IS NOT DISTINCT FROM outcome[2] THEN 'same: ' || regexp_replace(outcome[1], '^[0-9a-f]{32} ', '') ELSE 'DIFFERENT: ' || array_to_string(outcome, ' | ') END;
END $$;
-- The rows are taken apart where the plan says so.
CREATE FUNCTION apart(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE line text; found boolean := false;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || statement LOOP
        found := found OR line LIKE '%predict_batch_columns%';
    END LOOP;
    RETURN found;
END $$;

CREATE TABLE form (nr int GENERATED ALWAYS AS IDENTITY, source text);
INSERT INTO form (source) VALUES
    ('t r'), ('t AS r(k, p, q)'), ('parts r'), ('v r'), ('(SELECT id, a, b, c, price FROM t) r'), ('(SELECT id, a * 2 AS a, b, c, list FROM t WHERE id < 900 ORDER BY id DESC LIMIT 700) r'),
    ('t r JOIN v s USING (id)'), ('v s LEFT JOIN t r USING (id)'), ('t s LEFT JOIN v r USING (id)'), ('t r FULL JOIN (VALUES (5), (2000)) s(id) USING (id)'), ('(VALUES (1, 2, 3, 4)) r(id, a, b, c)'), ('generate_series(1, 3) AS s, LATERAL (SELECT s AS id, s AS a, s AS b, s AS c) r'),
    ('t r WHERE false'), ('(SELECT id, a, b FROM t) r'), ('only part_2 r');
SELECT nr, source, apart('SELECT predict_batch(''named'', r) FROM ' || source) AS apart FROM form ORDER BY nr;
-- The order of stored rows is that of the scan.
SET max_parallel_workers_per_gather = 0;
-- Stored values, columns by name, casts; groups, filters, orders; what on_null and defaults say.
SELECT nr, model, agrees(format('SELECT predict_batch(%L, r)::jsonb FROM %s', model, source)) FROM form, (VALUES ('named'), ('nan'), ('defaults'), ('strict')) m(model) ORDER BY nr, model;
SELECT nr, agrees(format('SELECT p.* FROM predictions((SELECT predict_batch(''named'', r) FROM %s)) p(id int, c int, y real)', source)) FROM form ORDER BY nr;
SELECT agrees($$SELECT p.* FROM predictions((SELECT predict_batch('named', t) FROM t)) p(big bigint, data jsonb, pair pair, list int[], at timestamptz, mood mood, label varchar(5), price numeric(8,2), letter "char", "Odd ""name""" text, flag boolean, small smallint, id int, late int, y real)$$);
SELECT agrees($$SELECT p.* FROM predictions((SELECT predict_batch('named', t) FROM t)) p(price numeric(6,1), y int)$$);

SELECT agrees($$SELECT id % 4 AS k, predict_batch('named', t ORDER BY id DESC) FILTER (WHERE id % 3 <> 0)::jsonb FROM t GROUP BY id % 4$$);
SELECT agrees($$SELECT id % 4 AS k, id % 3 AS l, predict_batch('named', t ORDER BY t.id)::jsonb FROM t GROUP BY ROLLUP (id % 4, id % 3)$$);
SELECT agrees($$SELECT predict_batch('named', t)::jsonb FROM t GROUP BY t$$);
SELECT agrees($$SELECT predict_batch('named', r ORDER BY r)::jsonb FROM (SELECT 2 AS a, 2 AS b, 3 AS c UNION ALL SELECT 1, 2, 3) r$$);
SELECT agrees($$WITH r AS (SELECT * FROM t WHERE id < 77) SELECT predict_batch('named', r)::jsonb, (SELECT predict_batch('named', r)::jsonb FROM r WHERE id < 5) FROM r$$);
SELECT agrees($$WITH r AS MATERIALIZED (SELECT * FROM t WHERE id < 77) SELECT predict_batch('named', r)::jsonb FROM r$$);
SELECT agrees($$SELECT s.id, (SELECT predict_batch('named', r)::jsonb FROM t r WHERE r.id <= s.id) FROM v s WHERE s.id < 20$$);
SELECT agrees($$SELECT s.id, (SELECT predict_batch('named', s)::jsonb) FROM t s WHERE s.id < 20 GROUP BY s.id$$);
SELECT agrees($$SELECT id, (predict_batch('named', t) OVER (PARTITION BY id % 5 ORDER BY id))::jsonb FROM t WHERE id < 50$$);
SELECT agrees($$SELECT (predict_batch('named', t) IS NULL) AS none, count(*) FROM t HAVING predict_batch('named', t) IS NOT NULL$$);
-- More rows than a batch by one; more than memory.
SET pg_predict.batch_size = 1002;
SELECT agrees($$SELECT p.* FROM predictions((SELECT predict_batch('named', t) FROM t)) p(id int, label varchar, y real)$$);
RESET pg_predict.batch_size;
SET work_mem = '64kB';
SELECT agrees($$SELECT p.* FROM predictions((SELECT predict_batch('named', t) FROM t)) p(id int, "Odd ""name""" text, big bigint, flag boolean, y real)$$);
RESET work_mem;
-- In parallel.
RESET max_parallel_workers_per_gather;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT agrees($$SELECT p.* FROM predictions((SELECT predict_batch('named', t) FROM t)) p(id int, label varchar, flag boolean, y real)$$);
EXPLAIN (COSTS OFF) SELECT predict_batch('named', t) FROM t;
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size;
-- A table with more columns than a function takes arguments.
SELECT format('CREATE TABLE wide AS SELECT g AS id, 1::real AS a, 2::real AS b, 3::int AS c, %s FROM generate_series(1, 10) g', string_agg(format('%s AS x%s', n, n), ', ')) FROM generate_series(1, 100) n \gexec
SELECT apart($$SELECT predict_batch('named', wide) FROM wide$$), agrees($$SELECT predict_batch('named', wide)::jsonb FROM wide$$);
-- A plan that is kept sees the table as it is.
PREPARE kept AS SELECT p.* FROM predictions((SELECT predict_batch('named', r) FROM v r)) p(id int, y real) WHERE id < 6 ORDER BY id;
SET plan_cache_mode = force_generic_plan;
EXECUTE kept;
CREATE OR REPLACE VIEW v AS SELECT id, a, b, c + 1 AS c, "Odd ""name""" AS odd, price, late FROM t WHERE id % 2 = 0;
EXECUTE kept;
ALTER TABLE t DROP COLUMN small;
EXECUTE kept;
RESET plan_cache_mode;
-- Whoever may not call predict_batch may not call it so either; a row that may not be read is not.
CREATE ROLE rows_reader;
GRANT SELECT (id, a, b, c) ON t TO rows_reader;
GRANT SELECT ON v TO rows_reader;
SELECT predict.grant_usage('named', 'rows_reader');
SET ROLE rows_reader;
SELECT agrees($$SELECT predict_batch('named', t)::jsonb FROM t$$);
SELECT agrees($$SELECT predict_batch('named', v)::jsonb FROM v$$);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION predict_batch(text, "any") FROM PUBLIC;
SET ROLE rows_reader;
SELECT agrees($$SELECT predict_batch('named', v)::jsonb FROM v$$);
RESET ROLE;
DROP OWNED BY rows_reader;
DROP ROLE rows_reader;
-- The aggregates that the planner uses are in the schema predict, and right by themselves.
SELECT (predict_internal.predict_batch_columns('named', ARRAY['c', 'b', 'a'], 3, 2, 1))::real[];
SELECT * FROM attempt($$SELECT predict_internal.predict_batch_columns('named', ARRAY['a', 'b', 'c'], 1, 2)$$);
SELECT * FROM attempt($$SELECT predict_internal.predict_batch_columns('named', NULL, 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT predict_internal.predict_batch_columns('named', ARRAY['a', NULL, 'c'], 1, 2, 3)$$);
