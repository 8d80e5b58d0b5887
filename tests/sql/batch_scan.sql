-- batch_scan: a query gives the same with BatchPredict nodes and without, whatever its shape; and which shapes get them.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start
\set shapes :tests '/sql/include/shapes.sql'
\i :shapes

SELECT predict.create_model('named', model('named')), predict.create_model('lookup', model('lookup')), predict.create_model('shapes', model('shapes')),
       predict.create_model('text', model('text')), predict.create_model('divide', model('divide')), predict.create_model('zip', model('zipmap_text'));
SELECT predict.create_model('strict', model('named'), '{"on_null": "error"}'), predict.create_model('lenient', model('lookup'), '{"on_error": "null"}');
CALL keep_costs();
SET pg_predict.batch_size = 50;
SET jit = off;
SET max_parallel_workers_per_gather = 0;

CREATE TABLE a (id int PRIMARY KEY, gone int, a real, b real, c real, note text, big text, k bigint);
INSERT INTO a SELECT i, 0, i % 7, CASE WHEN i % 10 <> 0 THEN i % 11 END, i % 13, 'note ' || i % 5, repeat(md5(i::text), 40), i % 3 FROM generate_series(1, 300) i;
CREATE TABLE plain AS SELECT id, a, b, c, note, k FROM a;
ALTER TABLE a DROP COLUMN gone;
CREATE TABLE other (id int PRIMARY KEY, a real, x text);
INSERT INTO other SELECT i * 2, i % 4, 'x' || i FROM generate_series(1, 100) i;
CREATE TABLE part (id int, a real, b real, c real) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TABLE part_2 (c real, gone int, id int, b real, a real);
ALTER TABLE part_2 DROP COLUMN gone;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (100) TO (200);
CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM (200) TO (300);
INSERT INTO part SELECT id, a, b, c FROM a WHERE id < 200;
CREATE TABLE none (id int, a real, b real, c real);
CALL keep_statistics();
ANALYZE;

CREATE TABLE shape (nr int GENERATED ALWAYS AS IDENTITY, statement text);
INSERT INTO shape (statement) VALUES
('SELECT id, predict(''named'', a, b, c) FROM plain'),
('SELECT id, predict(''named'', a) FROM a'),
('SELECT id, predict(''named'', p) FROM plain p'),
('SELECT predict(''named'', ROW(a, b, c)) FROM plain'),
('SELECT id, predict(''named'', s) FROM (SELECT id, a + 1 AS a, b, c FROM plain OFFSET 0) s'),
('SELECT *, predict(''named'', a, b, c), note FROM plain ORDER BY id DESC'),
('SELECT id, round(predict(''named'', a, b, c)::numeric, 1), predict(''named'', a, b, c) + predict(''named'', c, b, a) FROM plain'),
('SELECT predict_text(''shapes/label'', a, c), predict(''shapes/total'', a, c), predict_array(''shapes/grid'', a, c), predict_json(''shapes'', a, c), predict_json(''shapes/pair'', a, c), (predict_array(''shapes/pair'', a, c))[2] FROM plain'),
('SELECT predict_json(''zip'', a, c), predict(''zip/scores[good]'', a, c), predict(''zip/scores[none]'', a, c) FROM plain'),
('SELECT predict(''lookup'', k), predict(''named'', a, b, c) FROM plain'),
('SELECT predict(''named'', predict(''named'', a, 0, c)::real, a, c) FROM plain'),
('SELECT id FROM plain WHERE predict(''named'', a, b, c) > 500'),
('SELECT id, predict(''named'', a, b, c) FROM plain WHERE predict(''named'', a, b, c) > 500 AND note <> ''note 1'''),
('SELECT id, predict(''lookup'', k) FROM plain WHERE predict(''named'', a, b, c) > 500 AND predict(''named'', c, b, a) > 300'),
('SELECT id FROM plain WHERE predict(''named'', a, b, c) > 900 OR a = 3'),
('SELECT id FROM plain WHERE a = 3 OR predict(''lookup'', id) > 1'),
('SELECT id FROM plain WHERE NOT (predict(''named'', a, b, c) > 500) AND id % 2 = 0'),
('SELECT id, CASE WHEN k < 2 THEN predict(''lookup'', k) ELSE -1 END FROM plain'),
('SELECT id, CASE k WHEN 0 THEN predict(''lookup'', k) WHEN 1 THEN predict(''named'', a, b, c) ELSE predict(''lookup'', id) END FROM plain WHERE id % 3 < 2'),
('SELECT id, CASE WHEN predict(''named'', a, b, c) > 500 THEN predict(''named'', c, b, a) END FROM plain'),
('SELECT id, coalesce(b, predict(''named'', a, 1, c)), nullif(predict(''named'', a, b, c), 0), greatest(a, predict(''named'', a, b, c)) FROM plain'),
('SELECT id, coalesce(a, predict(''lookup'', id)) FROM plain'),
('SELECT avg(predict(''named'', a, b, c)), max(predict(''named'', p)), count(*) FROM plain p'),
('SELECT note, sum(predict(''named'', a, b, c)) FILTER (WHERE k = 1), count(DISTINCT predict_text(''shapes/label'', a, c)), array_agg(predict(''named'', a, b, c) ORDER BY id) FROM plain GROUP BY note ORDER BY note'),
('SELECT sum(predict(''lookup'', k)) FILTER (WHERE k < 3), sum(predict(''lookup'', id)) FILTER (WHERE id < 2) FROM plain'),
('SELECT predict(''named'', a, b, c) AS p, count(*) FROM plain GROUP BY 1 HAVING count(*) > 1 ORDER BY 1, 2'),
('SELECT note, predict(''named'', avg(a)::real, avg(b)::real, avg(c)::real) FROM plain GROUP BY note HAVING predict(''named'', avg(a)::real, 0, 0) > 0 ORDER BY note'),
('SELECT note, k, avg(predict(''named'', a, b, c)) FROM plain GROUP BY GROUPING SETS ((note), (k), ()) ORDER BY 1, 2'),
('SELECT p FROM plain p GROUP BY p HAVING predict(''named'', p) > 500 ORDER BY 1'),
('SELECT DISTINCT predict(''named'', a, b, c) FROM plain ORDER BY 1'),
('SELECT DISTINCT ON (k) k, predict(''named'', a, b, c) FROM plain ORDER BY k, predict(''named'', a, b, c) DESC NULLS LAST, id'),
('SELECT id FROM plain ORDER BY predict(''named'', a, b, c) DESC NULLS LAST, id LIMIT 20'),
('SELECT id, predict(''named'', a, b, c) FROM plain LIMIT 7'),
('SELECT id, predict(''named'', a, b, c) FROM plain OFFSET 5 LIMIT 7'),
('SELECT id, predict(''named'', a, b, c) FROM plain WHERE predict(''named'', a, b, c) > 100 LIMIT 7'),
('SELECT id, predict(''named'', a, b, c) FROM plain ORDER BY id FETCH FIRST 7 ROWS WITH TIES'),
('SELECT id, rank() OVER (ORDER BY predict(''named'', a, b, c), id), avg(predict(''named'', a, b, c)) OVER (PARTITION BY k ORDER BY id ROWS 2 PRECEDING), predict(''named'', c, b, a) FROM plain ORDER BY id'),
('SELECT id, sum(predict(''lookup'', k)) FILTER (WHERE k < 2) OVER (ORDER BY id) FROM plain ORDER BY id'),
('SELECT p.id, o.x, predict(''named'', p.a, o.a, p.c) FROM plain p JOIN other o USING (id) ORDER BY 1'),
('SELECT p.id, predict(''named'', p) FROM plain p JOIN other o USING (id) WHERE predict(''named'', p.a, o.a, p.c) > 100 ORDER BY 1'),
('SELECT p.id, o.id, predict(''shapes/total'', p.a, o.a), predict(''named'', o.a, p.b, p.c) FROM plain p LEFT JOIN other o ON o.id = p.id AND predict(''named'', p.a, 1, 1) > 300 ORDER BY 1'),
('SELECT o.id, predict(''named'', p) FROM other o LEFT JOIN plain p ON o.id = p.id + 150 ORDER BY 1'),
('SELECT p.id, o.id FROM plain p FULL JOIN other o ON p.id = o.id WHERE predict(''shapes/total'', coalesce(p.a, 0), coalesce(o.a, 0)) > 3 ORDER BY 1, 2'),
('SELECT id FROM plain p WHERE EXISTS (SELECT FROM other o WHERE o.id = p.id AND predict(''shapes/total'', o.a, p.a) > 2) ORDER BY 1'),
('SELECT id FROM plain p WHERE NOT EXISTS (SELECT FROM other o WHERE predict(''shapes/total'', o.a, 0) > p.a) ORDER BY 1'),
('SELECT id FROM plain WHERE predict(''lookup'', k) IN (SELECT predict(''lookup'', 1)) ORDER BY 1'),
('SELECT id, (SELECT max(predict(''shapes/total'', o.a, p.a)) FROM other o WHERE o.id <= p.id) FROM plain p ORDER BY 1'),
('SELECT p.id, l.y FROM plain p, LATERAL (SELECT predict(''shapes/total'', o.a, p.a) AS y FROM other o WHERE o.id < p.id ORDER BY o.id DESC LIMIT 2) l ORDER BY 1, 2'),
('WITH w AS MATERIALIZED (SELECT id, predict(''named'', a, b, c) AS y FROM plain) SELECT count(*), sum(w.y) FROM w JOIN w v USING (id)'),
('WITH RECURSIVE r(n, y) AS (SELECT 1, 1.0::float8 UNION ALL SELECT n + 1, predict(''shapes/total'', n::real, 1) FROM r WHERE n < 20) SELECT * FROM r'),
('SELECT predict(''named'', a, b, c) FROM plain UNION SELECT predict(''named'', c, b, a) FROM plain ORDER BY 1'),
('SELECT id, predict(''named'', part) FROM part'),
('SELECT id, predict(''named'', part) FROM part WHERE id BETWEEN 90 AND 110 AND predict(''named'', a, b, c) > 0 ORDER BY id'),
('SELECT id, unnest(predict_array(''shapes/pair'', a, c)), generate_series(1, 2) FROM plain'),
('SELECT v.x, predict(''shapes/total'', v.x, 2) FROM (VALUES (1.0::real), (2), (NULL)) v(x)'),
('SELECT n, predict(''shapes/total'', n::real, 2) FROM generate_series(1, 120) n'),
('SELECT predict(m, 1, 2), predict(m || ''/total'', 1, id::real) FROM plain, unnest(ARRAY[''shapes'', ''shapes@1'']) m ORDER BY id, m'),
('SELECT predict(CASE k WHEN 0 THEN ''named'' WHEN 1 THEN ''strict'' ELSE ''nobody'' END, a, c, c) FROM plain WHERE k < 2'),
('SELECT predict(NULL, a) FROM plain'),
('SELECT predict(''nobody'', a) FROM plain'),
('SELECT predict(''nobody'', a) FROM none'),
('SELECT predict(''named/none'', a, b, c) FROM plain'),
('SELECT predict(''shapes/pair'', a, b) FROM plain'),
('SELECT predict(''named'', o) FROM other o'),
('SELECT predict(''named'', note, b, c) FROM plain'),
('SELECT id, predict(''strict'', a, b, c) FROM plain'),
('SELECT id, predict(''strict'', a, b, c) FROM plain LIMIT 9'),
('SELECT id, predict(''strict'', a, b, c) FROM plain LIMIT 10'),
('SELECT id, predict(''strict'', p) FROM plain p'),
('SELECT id, predict(''lookup'', id) FROM plain'),
('SELECT id, predict(''lookup'', id) FROM plain LIMIT 3'),
('SELECT id, 10 / (4 - id), predict(''lookup'', id) FROM plain'),
('SELECT id, predict(''divide'', id, id - 30) FROM plain LIMIT 20'),
('SELECT id, predict(''named'', a, b, c * 1e39) FROM plain'),
('SELECT id, nextval(''counter''), predict(''named'', a, b, c) FROM plain LIMIT 30'),
('SELECT id, predict(''named'', nextval(''counter'')::real, b, c) FROM plain LIMIT 30'),
('SELECT id, predict(''named'', n::real, b, c) FROM (SELECT *, nextval(''counter'') AS n FROM plain OFFSET 0) s LIMIT 30'),
('INSERT INTO none SELECT id, predict(''named'', a, b, c), b, c FROM plain RETURNING *'),
('UPDATE plain SET a = predict(''named'', plain) WHERE predict(''named'', plain) > 300 RETURNING *, predict(''named'', a, b, c)'),
('UPDATE plain SET a = predict(''shapes/total'', plain.a, o.a) FROM other o WHERE o.id = plain.id RETURNING plain.*'),
('UPDATE part SET a = predict(''named'', part) RETURNING *'),
('DELETE FROM plain WHERE predict(''named'', a, b, c) > 300 RETURNING *'),
('WITH gone AS (DELETE FROM plain WHERE predict(''named'', a, b, c) > 300 RETURNING *) SELECT id, predict(''named'', gone) FROM gone'),
('INSERT INTO other SELECT id, predict(''named'', a, b, c), note FROM plain ON CONFLICT (id) DO UPDATE SET a = predict(''shapes/total'', excluded.a, other.a) RETURNING *'),
('SELECT id, predict(''named'', a, b, c) FROM plain FOR UPDATE'),
('SELECT id, predict(''named'', a, b, c) FROM plain TABLESAMPLE bernoulli (30) REPEATABLE (7)'),
('SELECT id FROM plain WHERE a = predict(''lookup'', 1) ORDER BY id'),
('SELECT y FROM inlined() y'),
('SELECT y FROM looped() y'),
('SELECT id, scored(plain) FROM plain');

CREATE SEQUENCE counter;
CREATE FUNCTION inlined() RETURNS SETOF float8 STABLE LANGUAGE sql AS $$ SELECT predict('named', a, b, c) FROM plain $$;
CREATE FUNCTION scored(plain) RETURNS float8 STABLE LANGUAGE sql AS $$ SELECT predict('named', $1) $$;
CREATE FUNCTION looped() RETURNS SETOF float8 LANGUAGE plpgsql AS $$
DECLARE
    y float8;
BEGIN
    FOR y IN SELECT predict('lookup', id) FROM plain LOOP
        RETURN NEXT y;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RETURN NEXT -1;
    RETURN QUERY SELECT predict('named', a, b, c) FROM plain WHERE id < 5;
END $$;

-- Shapes made of parts: what is scored, in which clause, from where.
INSERT INTO shape (statement)
SELECT format(clause, call, source) FROM
    (VALUES ('predict(''named'', s.a, s.b, s.c)'), ('predict(''named'', s)'), ('predict(''lookup'', s.k)'), ('CASE WHEN s.k > 0 THEN predict(''shapes/total'', s.a, s.c) END'),
            ('(predict_array(''shapes/pair'', s.a, s.c))[1]'), ('predict_text(''shapes/label'', s.c, s.a)')) c(call),
    (VALUES ('SELECT s.id, %s AS y FROM %s ORDER BY s.id'), ('SELECT s.id FROM %2$s WHERE %1$s::float8 > 1 ORDER BY s.id'), ('SELECT s.note, max(%s) FROM %s GROUP BY s.note ORDER BY 1'),
            ('SELECT %s AS y, count(*) FROM %s GROUP BY 1 ORDER BY 1'), ('SELECT s.id, lag(%s) OVER (ORDER BY s.id) FROM %s ORDER BY s.id'), ('SELECT s.id FROM %2$s ORDER BY %1$s, s.id LIMIT 9'),
            ('SELECT s.id, o.id FROM %2$s JOIN other o ON o.id = s.id AND %1$s::float8 > o.a ORDER BY 1, 2')) q(clause),
    (VALUES ('plain s'), ('a s'), ('(SELECT * FROM plain WHERE id % 2 = 0) s'), ('(SELECT * FROM plain ORDER BY id DESC LIMIT 120) s'), ('plain s JOIN other t USING (id)')) f(source)
WHERE NOT (clause LIKE '%s.id%' AND source LIKE '%USING%' AND false);

-- Each `every`th of them.
CREATE FUNCTION check_shapes(every int DEFAULT 1) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    s shape;
    batched text[]; single text[];
    tables_batched text; tables_single text;
    content CONSTANT text := 'SELECT md5(string_agg(r::text, chr(10))) FROM (SELECT t::text FROM plain t UNION ALL SELECT t::text FROM other t UNION ALL SELECT t::text FROM part t UNION ALL SELECT t::text FROM none t ORDER BY 1) r';
    checked int := 0;
BEGIN
    FOR s IN SELECT * FROM shape WHERE nr % every = 0 ORDER BY nr LOOP
        BEGIN
            SET LOCAL pg_predict.enable_batch_scan = off;
            PERFORM setval('counter', 1);
            single := outcome(s.statement);
            EXECUTE content INTO tables_single;
            RAISE EXCEPTION 'undo';
        EXCEPTION WHEN raise_exception THEN
        END;
        BEGIN
            SET LOCAL pg_predict.enable_batch_scan = on;
            PERFORM setval('counter', 1);
            batched := outcome(s.statement);
            EXECUTE content INTO tables_batched;
            RAISE EXCEPTION 'undo';
        EXCEPTION WHEN raise_exception THEN
        END;
        checked := checked + 1;
        IF batched IS DISTINCT FROM single AND (s.statement LIKE '%ORDER BY%' OR (SELECT array_agg(x ORDER BY x) FROM unnest(batched) x) IS DISTINCT FROM (SELECT array_agg(x ORDER BY x) FROM unnest(single) x)) THEN
            RETURN NEXT format('%s: %s', s.nr, s.statement);
            RETURN NEXT format('  without: %s rows, %s', cardinality(single), left(array_to_string(ARRAY(SELECT x FROM unnest(single) x EXCEPT ALL SELECT x FROM unnest(batched) x), ' '), 200));
            RETURN NEXT format('  with: %s rows, %s', cardinality(batched), left(array_to_string(ARRAY(SELECT x FROM unnest(batched) x EXCEPT ALL SELECT x FROM unnest(single) x), ' '), 200));
        END IF;
        IF tables_batched IS DISTINCT FROM tables_single THEN
            RETURN NEXT format('%s leaves other tables behind: %s', s.nr, s.statement);
        END IF;
    END LOOP;
    RETURN NEXT checked || ' shapes';
END $$;

-- Which shapes get the node, and where.
SELECT CASE WHEN n = 1 THEN '-- ' || s.statement || chr(10) || p ELSE p END FROM shape s, plan(s.statement) WITH ORDINALITY p(p, n) ORDER BY nr, n;

-- With and without.
SELECT check_shapes();
-- However else the server plans.
SET pg_predict.batch_size = 1;
SELECT check_shapes();
SET pg_predict.batch_size = 7;
SET enable_hashjoin = off; SET enable_hashagg = off;
SELECT check_shapes();
SET pg_predict.batch_size = 1024;
SET enable_mergejoin = off; SET enable_sort = off; SET work_mem = '64kB';
SELECT check_shapes();
SET enable_hashjoin = on; SET enable_mergejoin = on; SET enable_nestloop = off; SET enable_seqscan = off; SET pg_predict.enable_pipelining = off;
SELECT check_shapes();
RESET enable_hashjoin; RESET enable_mergejoin; RESET enable_nestloop; RESET enable_seqscan; RESET enable_sort; RESET enable_hashagg; RESET work_mem; RESET pg_predict.enable_pipelining;
SET plan_cache_mode = force_generic_plan; SET :debug_parallel = on;
SELECT check_shapes();
RESET :debug_parallel; RESET plan_cache_mode;
SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT check_shapes();
SET max_parallel_workers_per_gather = 0;
SET jit = on; SET jit_above_cost = 0; SET jit_inline_above_cost = 0; SET jit_optimize_above_cost = 0; SET pg_predict.batch_size = 50;
SELECT check_shapes(9);
SET jit = off;

-- Cursors go back and change their row.
BEGIN;
DECLARE c CURSOR FOR SELECT id, predict('named', a, b, c) FROM plain;
FETCH 3 FROM c;
FETCH BACKWARD 2 FROM c;
UPDATE plain SET a = -1 WHERE CURRENT OF c;
SELECT id FROM plain WHERE a = -1;
FETCH 60 FROM c \g /dev/null
MOVE BACKWARD ALL FROM c;
FETCH 2 FROM c;
DELETE FROM plain WHERE CURRENT OF c;
SELECT min(id), count(*) FROM plain WHERE id <> 1;
DECLARE s SCROLL CURSOR FOR SELECT id, predict('named', a, b, c) FROM plain ORDER BY id;
FETCH ABSOLUTE 100 FROM s;
FETCH RELATIVE -7 FROM s;
FETCH LAST FROM s;
FETCH FIRST FROM s;
DECLARE n NO SCROLL CURSOR FOR SELECT id, predict('named', a, b, c) FROM plain WHERE predict('named', a, b, c) > 200;
FETCH 2 FROM n;
UPDATE plain SET note = 'this' WHERE CURRENT OF n;
SELECT id, note FROM plain WHERE note = 'this';
ROLLBACK;

-- A partition's row; a cursor held over the end of its transaction; a compressed and an external value that travel with their rows.
BEGIN;
DECLARE p CURSOR FOR SELECT id, predict('named', part) FROM part;
FETCH 1 FROM p;
MOVE 120 FROM p;
FETCH 1 FROM p;
UPDATE part SET a = -5 WHERE CURRENT OF p;
SELECT tableoid::regclass, id FROM part WHERE a = -5;
ROLLBACK;
BEGIN;
DECLARE h SCROLL CURSOR WITH HOLD FOR SELECT id, predict('named', a, b, c) FROM plain ORDER BY id;
FETCH 2 FROM h;
COMMIT;
FETCH 2 FROM h;
FETCH PRIOR FROM h;
CLOSE h;
CREATE TABLE wide (id int, a real, body text, packed text);
ALTER TABLE wide ALTER body SET STORAGE EXTERNAL;
INSERT INTO wide SELECT i, i, repeat(md5(i::text), 200), repeat('x', 9000 + i) FROM generate_series(1, 120) i;
SELECT count(*), count(*) FILTER (WHERE y = a + 10 AND body = repeat(md5(id::text), 200) AND length(packed) = 9000 + id) AS right
  FROM (SELECT id, a, body, packed, predict('named', a, 1, 0) AS y FROM wide OFFSET 0) s;

-- Deep and long conditions cost neither the stack nor the plan.
SELECT count(predict) FROM (SELECT predict('named', a, b, c) FROM plain WHERE id < 4) s;
DO $$
DECLARE
    n bigint;
BEGIN
    EXECUTE 'SELECT count(*) FROM plain WHERE ' || (SELECT string_agg('id = ' || -i, ' OR ') FROM generate_series(1, 3000) i) || ' OR predict(''named'', a, b, c) > 0' INTO n;
    RAISE NOTICE 'an OR of 3001: %', n;
    EXECUTE 'SELECT count(' || repeat('coalesce(b, ', 300) || 'predict(''named'', a, 1, c)' || repeat(')', 300) || ') FROM plain' INTO n;
    RAISE NOTICE '300 COALESCE: %', n;
    EXECUTE 'SELECT sum(CASE ' || (SELECT string_agg(format('WHEN id = %s THEN predict(''named'', a, 1, %s)', i, i), ' ') FROM generate_series(1, 150) i) || ' END)::bigint FROM plain' INTO n;
    RAISE NOTICE 'a CASE of 150: %', n;
END $$;

-- Cancelled in the middle, the backend goes on; so it does where rows that were read ahead are not wanted.
SELECT predict.create_model('slow', model('slow'), '{"batch": "force"}');
CALL keep_costs();
SET statement_timeout = '200ms';
SELECT sum(predict('slow', g)) FROM generate_series(1, 10000000) g;
RESET statement_timeout;
SELECT count(y) FROM (SELECT predict('named', g, 1, 1) AS y FROM generate_series(1, 100000) g LIMIT 2000) s;

-- A role that may not execute a function may not by way of the node either.
CREATE ROLE batch_scan_reader;
GRANT SELECT ON plain TO batch_scan_reader;
REVOKE EXECUTE ON FUNCTION public.predict(text, VARIADIC "any") FROM PUBLIC;
SET ROLE batch_scan_reader;
SELECT predict('named', a, b, c) FROM plain;
RESET ROLE;
GRANT EXECUTE ON FUNCTION public.predict(text, VARIADIC "any") TO PUBLIC;

-- No row reaches a model, or a function, before the policies of its table.
CREATE TABLE secret AS SELECT id, a, b, c FROM plain WHERE id <= 20;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON secret USING (predict('named', a, 1, c) < 400);
GRANT SELECT ON secret TO batch_scan_reader;
SELECT predict.grant_usage('named', 'batch_scan_reader');
CREATE FUNCTION leak(id int) RETURNS bool LANGUAGE plpgsql COST 0.1 AS $$ BEGIN RAISE NOTICE 'sees %', id; RETURN true; END $$;
SET ROLE batch_scan_reader;
SELECT plan('SELECT id FROM secret WHERE leak(id) AND predict(''named'', a, b, c) > 100');
SELECT id FROM secret WHERE leak(id) AND predict('named', a, b, c) > 100;
RESET ROLE;
SET pg_predict.enable_batch_scan = off;
SET ROLE batch_scan_reader;
SELECT id FROM secret WHERE leak(id) AND predict('named', a, b, c) > 100;
RESET ROLE;
RESET pg_predict.enable_batch_scan;

-- A prepared statement: parameters as features and as the model, a promotion between its executions.
PREPARE scored(text, real) AS SELECT count(*), sum(predict($1, a + $2, b, c)) FROM plain;
EXECUTE scored('named', 1);
SET plan_cache_mode = force_generic_plan;
EXECUTE scored('named', 1);
EXECUTE scored('strict', 1);
PREPARE promoted AS SELECT sum(predict('named', a, b, c)) FROM plain;
EXECUTE promoted;
SELECT predict.create_model('named', model('named'), '{"defaults": {"b": 1}}');
CALL keep_costs();
SELECT predict.set_alias('named', 'default', 2);
EXECUTE promoted;
RESET plan_cache_mode;

-- What EXPLAIN says.
SELECT plan($$SELECT id, predict('named', p), predict('named@1', p) FROM plain p$$, 'ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF');
-- From 18 on each node has one more field.
DO $$
DECLARE plan jsonb;
BEGIN
    EXECUTE $e$EXPLAIN (COSTS OFF, FORMAT json) SELECT predict_text('shapes/label', a, c), predict('shapes/total', a, c) FROM plain$e$ INTO plan;
    RAISE NOTICE '%', jsonb_pretty(plan #- '{0,Plan,Disabled}' #- '{0,Plan,Plans,0,Disabled}');
END $$;
DROP OWNED BY batch_scan_reader;
DROP ROLE batch_scan_reader;
