-- batches: the same answers from every batch size and plan, and from groups, filters, orders and results that spill.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

SELECT predict.create_model('named', model('named')), predict.create_model('fixed8', model('fixed8')), predict.create_model('shapes', model('shapes')),
       predict.create_model('text', model('text')), predict.create_model('zip', model('zipmap_text'));
CREATE TABLE t AS SELECT g AS id, g % 10 AS grp, (g % 7)::real AS a, (g % 11)::float8 AS b, CASE WHEN g % 13 <> 0 THEN g % 5 END AS c, 'row ' || g AS note FROM generate_series(1, 1003) g;
ANALYZE t;
CREATE VIEW expected AS SELECT id, grp, (a + 10 * b + 100 * c)::real AS y, note FROM t;

-- Batches of one, of sizes that divide nothing, of all but one, all, one more, and the model's own.
CREATE FUNCTION compare(n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
    PERFORM set_config('pg_predict.batch_size', n::text, true);
    SELECT format('batch_size %s: %s rows, %s wrong', n, count(*), count(*) FILTER (WHERE p.y IS DISTINCT FROM e.y OR p.note IS DISTINCT FROM e.note)) INTO result
      FROM predictions((SELECT predict_batch('named', t) FROM t)) p(id int, note text, y real) FULL JOIN expected e USING (id);
    RETURN result;
END $$;
SELECT compare(n) FROM unnest(ARRAY[1, 7, 1002, 1003, 1004, 100000, 0]) n;
SET pg_predict.enable_pipelining = off;
SELECT compare(n) FROM unnest(ARRAY[1, 7, 1003, 0]) n;
RESET pg_predict.enable_pipelining;
SET pg_predict.max_batch_memory = '64kB';
SELECT compare(n) FROM unnest(ARRAY[7, 1003, 100000, 0]) n;
RESET pg_predict.max_batch_memory;
-- In order.
SELECT (SELECT (predict_batch('named', t ORDER BY id DESC))::real[] FROM t) = (SELECT array_agg(y ORDER BY id DESC) FROM expected) AS same;
SELECT (SELECT (predict_batch('named', a, b, c ORDER BY note))::real[] FROM t) = (SELECT array_agg(y ORDER BY note) FROM expected) AS same;
-- A model that runs eight rows and no other number: the last batch is filled up and cut.
SELECT (predict_batch('fixed8', ARRAY[g, 0.5]))::real[] FROM generate_series(1, 3) g;
SELECT (SELECT (predict_batch('fixed8', ARRAY[g, 0.5]))::real[] FROM generate_series(1, 801) g) = (SELECT array_agg((g + 0.5)::real) FROM generate_series(1, 801) g) AS same;
SELECT predict('fixed8', 1, 2), predict('fixed8', ARRAY[3, 4]);
SET pg_predict.batch_size = 3;
SELECT (predict_batch('fixed8', ARRAY[g, 0.5]))::real[] FROM generate_series(1, 10) g;
RESET pg_predict.batch_size;

-- Groups.
SELECT grp, cardinality((predict_batch('named', t))::real[]) FROM t GROUP BY grp ORDER BY grp;
SELECT count(*), count(*) FILTER (WHERE p.y IS DISTINCT FROM e.y) AS wrong
  FROM (SELECT grp, predict_batch('named', t) AS b FROM t GROUP BY grp) g, predictions(g.b) p(id int, y real) JOIN expected e USING (id) WHERE e.grp = g.grp;
-- More groups than a batch has rows, sorted and hashed, the latter beyond work_mem.
CREATE FUNCTION groups() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text; spilled boolean := false; kind text := '';
BEGIN
    FOR line IN EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT id, predict_batch('named', t) FROM t GROUP BY id LOOP
        IF line ~ 'HashAggregate' THEN kind := 'hashed'; ELSIF line ~ 'GroupAggregate' THEN kind := 'sorted'; END IF;
        spilled := spilled OR line ~ 'Disk';
    END LOOP;
    RETURN NEXT format('%s, on disk: %s', kind, spilled);
    RETURN QUERY SELECT format('%s rows, %s wrong', count(*), count(*) FILTER (WHERE g.b[1] IS DISTINCT FROM e.y OR cardinality(g.b) <> 1))
        FROM (SELECT id, (predict_batch('named', t))::real[] AS b FROM t GROUP BY id) g FULL JOIN expected e USING (id);
END $$;
SET enable_hashagg = off;
SELECT groups();
RESET enable_hashagg;
SET enable_sort = off;
SELECT split_part(g, ',', 1) FROM groups() g LIMIT 1;
SET work_mem = '64kB';
SET hash_mem_multiplier = 1;
SELECT groups();
SET pg_predict.batch_size = 3;
SELECT groups();
RESET pg_predict.batch_size;
RESET enable_sort;
-- Results that do not fit work_mem.
SELECT count(*), count(*) FILTER (WHERE p.y IS DISTINCT FROM e.y OR length(p.note) <> 400) AS wrong
  FROM predictions((SELECT predict_batch('named', w) FROM (SELECT id, a, b, c, repeat('n', 400) AS note FROM t) w)) p(id int, note text, y real) FULL JOIN expected e USING (id);
SELECT count(*), sum(cardinality(b)) FROM (SELECT grp, (predict_batch('named', t))::real[] AS b FROM t, generate_series(1, 3) GROUP BY grp) g;
SELECT count(*), count(DISTINCT t), sum(length(t)) FROM predictions((SELECT predict_batch('text', repeat('x', 300) || g) FROM generate_series(1, 2000) g)) p(t text);
RESET work_mem;
RESET hash_mem_multiplier;

-- FILTER, DISTINCT, HAVING, grouping sets, several calls in one query, a sub-select in an argument.
SELECT (predict_batch('named', t ORDER BY id) FILTER (WHERE id <= 3))::real[], (predict_batch('named', t) FILTER (WHERE id < 0))::real[] IS NULL FROM t;
SELECT (predict_batch(DISTINCT 'named', a, 1, 2))::real[] FROM t;
SELECT grp, cardinality((predict_batch('named', t))::real[]) AS n FROM t GROUP BY grp HAVING cardinality((predict_batch('named', t))::real[]) > 100 ORDER BY grp;
SELECT grp, c, cardinality((predict_batch('named', t))::real[]) AS n FROM t WHERE grp < 2 GROUP BY GROUPING SETS ((grp), (c), ()) ORDER BY 1, 2;
SELECT grp, cardinality((predict_batch('named', t))::real[]) AS n FROM t WHERE grp < 2 GROUP BY ROLLUP (grp) ORDER BY 1;
SELECT grp, c, cardinality((predict_batch('named', t))::real[]) AS n FROM t WHERE grp < 1 AND c IS NOT NULL GROUP BY CUBE (grp, c) ORDER BY 1, 2;
SELECT (predict_batch('named', a, 0, 0 ORDER BY id))::real[], (predict_batch('shapes/label', ARRAY[a, 1] ORDER BY id))::bigint[], (predict_batch('named@1', 0, b, 0 ORDER BY id DESC))::real[] FROM t WHERE id < 4;
SELECT (predict_batch('named', (SELECT max(a) FROM t), g, 0))::real[] FROM generate_series(1, 3) g;
SELECT (predict_batch('named', predict('named', g, 0, 0), 0, 0))::real[] FROM generate_series(1, 3) g;
SELECT max(y), min(y) FROM (SELECT unnest((predict_batch('named', t))::real[]) AS y FROM t) s;
-- As a window function it is refused.
SELECT * FROM attempt($$SELECT predict_batch('named', t) OVER (PARTITION BY grp) FROM t$$);
SELECT * FROM attempt($$SELECT predict_batch('named', a, b, c) OVER (ORDER BY id) FROM t$$);

-- A parallel plan.
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 3;
ALTER TABLE t SET (parallel_workers = 3);
EXPLAIN (COSTS off) SELECT predict_batch('named', t) FROM t;
SELECT compare(n) FROM unnest(ARRAY[1, 7, 1003, 0]) n;
SELECT count(*), count(*) FILTER (WHERE p.y IS DISTINCT FROM e.y) AS wrong
  FROM (SELECT grp, predict_batch('named', t) AS b FROM t GROUP BY grp) g, predictions(g.b) p(id int, y real) JOIN expected e USING (id) WHERE e.grp = g.grp;
SELECT count(*), count(p.t), count(DISTINCT p.t) FROM predictions((SELECT predict_batch('text', note) FROM t)) p(t text);
SELECT count(*), sum((p.scores->>'good')::float8) FROM predictions((SELECT predict_batch('zip', ARRAY[a, id]) FROM t)) p(scores jsonb);
SELECT count(*) FILTER (WHERE s.y IS DISTINCT FROM e.y) AS wrong, count(*) FROM (SELECT id, predict('named', t)::real AS y FROM t) s JOIN expected e USING (id);
SELECT * FROM attempt($$SELECT predict_batch('nobody', t) FROM t$$);
SET work_mem = '64kB';
SELECT compare(n) FROM unnest(ARRAY[7, 0]) n;

SELECT count(predict.drop_model(name)) FROM (SELECT DISTINCT name FROM predict.models) n;
