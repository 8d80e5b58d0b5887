-- batch_scan_real: on flights, loans and tweets, a query gives the same with BatchPredict nodes and without, whatever its shape.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start
\set shapes :tests '/sql/include/shapes.sql'
\i :shapes

-- The real tables and models.
\set ECHO none
\set QUIET on
\set models :tests '/../models'
\set load :models '/sql/load.sql'
\i :load
\set create :models '/sql/create.sql'
\o /dev/null
\i :create
\set model `base64 < "$PG_ABS_SRCDIR"/reference/models/tweet_tfidf_lr_nolower.onnx | tr -d '\n'`
SELECT predict.create_model('sentiment', decode(:'model', 'base64'));
\set model `base64 < "$PG_ABS_SRCDIR"/../models/late.onnx | tr -d '\n'`
SELECT predict.create_model('late_strict', decode(:'model', 'base64'), '{"on_null": "error"}');
\set model `base64 < "$PG_ABS_SRCDIR"/../target/packages/minilm/model.onnx | tr -d '\n'`
\set tokenizer `cat "$PG_ABS_SRCDIR"/../target/packages/minilm/tokenizer.json`
SELECT predict.create_model('minilm', decode(:'model', 'base64'), '{"pooling": "mean", "normalize": true}', :'tokenizer');
CALL keep_costs();
\o
\unset ON_ERROR_STOP
CREATE TABLE tweets (id int PRIMARY KEY, mean_sentiment float8, text text);
\copy tweets from program 'gzip -dc "$PG_ABS_SRCDIR"/reference/data/tweets.csv.gz' with (format csv, header)
\set QUIET off
\set ECHO all
SET client_min_messages = notice;
SET jit = off;
-- Under it shapes run, and not what looks at them.
SET test.jit = off;
SET max_parallel_workers_per_gather = 0;

-- Some of their rows: a row at a time takes its time. Each has a key `id`, a group `g` and a number `n`.
CREATE TABLE flight AS SELECT id, carrier AS g, dep_delay AS n, month, day, sched_dep_time, sched_arr_time, distance, hour, carrier, origin, dest, tailnum FROM flights WHERE id % 281 = 1;
UPDATE flight SET distance = NULL WHERE id % 31 = 5;
ALTER TABLE flight ADD PRIMARY KEY (id);
CREATE TABLE loan AS SELECT *, sub_grade AS g, annual_inc AS n FROM loans WHERE id % 11 = 1;
ALTER TABLE loan ADD PRIMARY KEY (id);
CREATE TABLE tweet AS SELECT *, 'g' || id % 7 AS g, mean_sentiment AS n FROM tweets WHERE id % 6 = 1;
INSERT INTO tweet SELECT id + 1, mean_sentiment, NULL, g, NULL FROM tweet WHERE id % 30 = 1;
ALTER TABLE tweet ADD PRIMARY KEY (id);
CREATE TABLE few AS SELECT * FROM tweet WHERE id % 180 = 1;
CREATE TABLE months (LIKE flight) PARTITION BY LIST (month);
DO $$
BEGIN
    FOR m IN 1..12 LOOP
        EXECUTE format('CREATE TABLE months_%s PARTITION OF months FOR VALUES IN (%1$s)', m);
    END LOOP;
END $$;
INSERT INTO months SELECT * FROM flight;
CREATE VIEW late_flight AS SELECT *, predict('late/probabilities[2]', f) AS late FROM flight f;
CREATE TABLE scored (id int PRIMARY KEY, y float8, how text);
INSERT INTO scored SELECT id, -1, 'before' FROM flight WHERE id % 2 = 0;
CREATE EXTENSION postgres_fdw;
DO $$
BEGIN
    EXECUTE format('CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host %L, port %L, dbname %L)',
                   current_setting('unix_socket_directories'), current_setting('port'), current_database());
    EXECUTE format('CREATE USER MAPPING FOR CURRENT_USER SERVER itself OPTIONS (user %L)', current_user);
END $$;
CREATE FOREIGN TABLE far (id int, g text, n smallint, month smallint, day smallint, sched_dep_time smallint, sched_arr_time smallint, distance int,
                          hour smallint, carrier text, origin text, dest text, tailnum text) SERVER itself OPTIONS (schema_name 'test', table_name 'flight');
CALL keep_statistics();
ANALYZE;

-- All of the flights: a sum, and every key with its label.
SELECT count(*), sum(md5(id || predict_text('late/label', f))::bit(32)::int::bigint) AS sum FROM flights f \gset on_
SET pg_predict.enable_batch_scan = off;
SELECT count(*), sum(md5(id || predict_text('late/label', f))::bit(32)::int::bigint) AS sum FROM flights f \gset off_
RESET pg_predict.enable_batch_scan;
SELECT :on_count, :on_sum = :off_sum AS same;

CREATE TABLE shape (nr int GENERATED ALWAYS AS IDENTITY, statement text);
-- Shapes made of parts: the first argument is a number, the second any call, the third where rows come from.
INSERT INTO shape (statement)
SELECT format(q.clause, number, call, source)
  FROM (VALUES (1, 'predict(''late/probabilities[2]'', s)', 'predict_text(''late'', s.month, s.day, s.sched_dep_time, s.sched_arr_time, s.distance, s.hour, s.carrier, s.origin, s.dest)'),
               (2, 'predict(''credit/probabilities[2]'', s)', 'predict_json(''credit_zipmap'', s)'),
               (3, 'predict(''sentiment/probabilities[1]'', s.text)', 'predict_text(''sentiment'', s.text)')) c(topic, number, call),
       (VALUES (1, 'flight s'), (1, 'months s'), (1, '(SELECT f.* FROM flight f JOIN scored o USING (id) WHERE f.month < 7) s'), (2, 'loan s'),
               (2, '(SELECT * FROM loan ORDER BY int_rate DESC, id LIMIT 300) s'), (3, 'tweet s'), (3, '(SELECT * FROM tweet UNION ALL SELECT id + 10000, n, text, g, n FROM tweet WHERE n > 2) s')) f(topic, source),
       (VALUES ('SELECT s.id, %1$s AS y, %2$s AS z FROM %3$s ORDER BY s.id'),
               ('SELECT s.id, %2$s FROM %3$s WHERE %1$s > 0.3 ORDER BY s.id'),
               ('SELECT s.id FROM %3$s WHERE %1$s > 0.3 AND s.n > 0 OR s.g LIKE ''%%1'' ORDER BY s.id'),
               ('SELECT s.g, count(%2$s), avg(%1$s), max(%1$s) FILTER (WHERE s.n > 0) FROM %3$s GROUP BY s.g ORDER BY s.g'),
               ('SELECT %2$s AS z, count(*), min(s.id) FROM %3$s GROUP BY 1 ORDER BY 3'),
               ('SELECT s.g, avg(%1$s) FROM %3$s GROUP BY s.g HAVING avg(%1$s) > 0.2 ORDER BY s.g'),
               ('SELECT s.id, avg(%1$s) OVER (PARTITION BY s.g ORDER BY s.id ROWS 3 PRECEDING), lag(%2$s) OVER (ORDER BY s.id) FROM %3$s ORDER BY s.id'),
               ('SELECT s.id, %2$s FROM %3$s ORDER BY %1$s DESC NULLS LAST, s.id LIMIT 12'),
               ('SELECT s.id, %1$s FROM %3$s WHERE %1$s > 0.2 LIMIT 15'),
               ('SELECT s.id, CASE WHEN s.n > 0 THEN %1$s WHEN s.n IS NULL THEN -1 ELSE 0 END, coalesce(s.n, %1$s), nullif(%2$s::text, ''0'') FROM %3$s ORDER BY s.id'),
               ('SELECT s.id, g.m FROM %3$s JOIN (SELECT s.g, avg(%1$s) AS m FROM %3$s GROUP BY s.g) g ON g.g = s.g AND %1$s > g.m ORDER BY s.id'),
               ('SELECT g.g, l.id, l.y FROM (SELECT DISTINCT g FROM %3$s) g, LATERAL (SELECT s.id, %1$s AS y FROM %3$s WHERE s.g = g.g ORDER BY s.id LIMIT 3) l ORDER BY 1, 2'),
               ('WITH w AS MATERIALIZED (SELECT s.*, %1$s AS y FROM %3$s) SELECT w.g, sum(w.y), (SELECT count(*) FROM w v WHERE v.y > 0.4) FROM w GROUP BY w.g ORDER BY 1'),
               ('SELECT s.id FROM %3$s WHERE EXISTS (SELECT FROM scored o WHERE o.id = s.id AND %1$s > 0.1) ORDER BY s.id'),
               ('INSERT INTO scored SELECT s.id, %1$s, %2$s::text FROM %3$s ON CONFLICT (id) DO UPDATE SET y = excluded.y, how = ''again'' RETURNING *'),
               ('WITH gone AS (DELETE FROM scored USING (SELECT s.id AS key, %1$s AS y FROM %3$s) d WHERE id = d.key AND d.y > 0.2 RETURNING id, d.y) SELECT * FROM gone')) q(clause)
 WHERE c.topic = f.topic;
INSERT INTO shape (statement) VALUES
('SELECT id, predict($1, s) FROM flight s ORDER BY id'),
('SELECT id, predict($1 || ''/probabilities[1]'', s), predict(''late@1/probabilities[2]'', s) FROM flight s WHERE predict($1, s) = 1 ORDER BY id'),
('SELECT g, count(*) FROM late_flight WHERE late > 0.4 GROUP BY g ORDER BY g'),
('SELECT id, late FROM late_flight ORDER BY id'),
('SELECT l.id, l.late, t.id FROM late_flight l JOIN tweet t ON l.id % 1000 = t.id AND predict(''sentiment/probabilities[3]'', t.text) > l.late ORDER BY 1, 3'),
('SELECT id, predict(''late/probabilities[2]'', far) FROM far ORDER BY id'),
('SELECT id FROM far WHERE predict(''late/probabilities[2]'', far) > 0.5 AND g = ''UA'' ORDER BY id'),
('SELECT g, avg(predict(''late/probabilities[2]'', far)) FROM far GROUP BY g ORDER BY g'),
('UPDATE flight SET n = 1000 * predict(''late/probabilities[2]'', flight) WHERE month = 3 RETURNING id, n'),
('UPDATE months SET n = 1000 * predict(''late/probabilities[2]'', months) WHERE predict(''late/probabilities[2]'', months) > 0.4 RETURNING tableoid::regclass, id, n'),
('UPDATE far SET n = 1000 * predict(''late/probabilities[2]'', far) WHERE day = 3 RETURNING id, n'),
('UPDATE loan SET n = predict(''credit/probabilities[2]'', loan) FROM (SELECT g, avg(n) AS m FROM loan GROUP BY g) a WHERE a.g = loan.g AND a.m > 70000 RETURNING id, loan.n'),
('DELETE FROM loan WHERE predict(''credit/probabilities[2]'', loan) > 0.5 RETURNING id, predict(''credit/probabilities[2]'', loan)'),
('INSERT INTO scored SELECT id, predict(''sentiment/probabilities[1]'', text), predict_text(''sentiment'', text) FROM tweet WHERE text IS NOT NULL ON CONFLICT (id) DO NOTHING RETURNING *'),
('SELECT id, (embed(''minilm'', text))[1:3], predict_text(''sentiment'', text) FROM few ORDER BY id'),
('SELECT a.id, b.id, (SELECT sum(x::float8 * y) FROM unnest(embed(''minilm'', a.text), embed(''minilm'', b.text)) u(x, y)) AS like FROM few a JOIN few b ON a.id < b.id AND b.id < 800 ORDER BY 1, 2'),
('SELECT g, count(embed(''minilm'', text)) FROM few GROUP BY g ORDER BY g'),
('SELECT id, predict(''late_strict/probabilities[2]'', s) FROM flight s'),
('SELECT id, predict(''late_strict/probabilities[2]'', s) FROM flight s ORDER BY id'),
('SELECT id, predict(''late_strict/probabilities[2]'', s) FROM flight s LIMIT 5'),
('SELECT g, avg(predict(''late_strict/probabilities[2]'', s)) FROM months s GROUP BY g'),
('SELECT id, 100 / (day - 28), predict(''late/probabilities[2]'', s) FROM flight s'),
('SELECT id, predict(''late/probabilities[2]'', s) FROM flight s WHERE 100 / (month - 5) > 1'),
('SELECT id, predict(''late/probabilities[2]'', s) FROM (SELECT id, month, day FROM flight) s'),
('SELECT id, predict(''credit'', s) FROM flight s'),
('SELECT id, predict(''late'', s) FROM loan s'),
('SELECT id, predict(''sentiment'', text) FROM tweet'),
('SELECT id, predict_text(''sentiment'', n) FROM tweet'),
('SELECT id, predict(''late/probabilities[3]'', s) FROM flight s'),
('SELECT id, embed(''late'', g) FROM flight'),
('INSERT INTO scored SELECT id, predict(''late_strict/probabilities[2]'', s) FROM flight s'),
('SELECT id, predict(''late/probabilities[2]'', s.month, s.day, s.sched_dep_time, s.sched_arr_time, s.distance * 1000000000::bigint, s.hour, s.carrier, s.origin, s.dest) FROM flight s ORDER BY id'),
('SELECT DISTINCT ON (g) g, predict_text(''sentiment'', text) FROM tweet ORDER BY g, predict(''sentiment/probabilities[1]'', text) DESC NULLS LAST, id'),
('SELECT g, percentile_cont(0.5) WITHIN GROUP (ORDER BY predict(''late/probabilities[2]'', s)) FROM flight s GROUP BY g ORDER BY g'),
('SELECT id, predict(''late/probabilities[2]'', s) FROM flight s WHERE id IN (SELECT id FROM scored) FOR UPDATE'),
('SELECT predict_json(''late'', s) -> ''label'', predict_array(''late/probabilities'', s), s.g FROM flight s WHERE g IN (''AA'', ''UA'') ORDER BY id'),
('MERGE INTO scored t USING (SELECT id, predict(''late/probabilities[2]'', f) AS y FROM flight f) s ON s.id = t.id WHEN MATCHED AND s.y > 0.4 THEN DELETE WHEN MATCHED THEN UPDATE SET y = s.y WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.y, ''new'')'),
('MERGE INTO scored t USING flight s ON s.id = t.id WHEN MATCHED AND predict(''late/probabilities[2]'', s) > 0.4 THEN DELETE WHEN MATCHED THEN UPDATE SET y = predict(''late/probabilities[2]'', s) WHEN NOT MATCHED THEN INSERT VALUES (s.id, predict(''late'', s), ''new'')');
SELECT count(*) FROM shape;

-- Which shapes get the node, and where. The batch size was measured when the version was created.
SELECT CASE WHEN n = 1 THEN '-- ' || s.statement || chr(10) || p ELSE p END
  FROM shape s, plan(replace(s.statement, '$1', '''late''')) WITH ORDINALITY p(p, n) WHERE p !~ 'Batch Size' ORDER BY nr, n;

-- A batch of another size may differ in an answer's last digits: whether two rows are the same but for that.
CREATE FUNCTION same(a text, b text) RETURNS boolean LANGUAGE sql AS $$
    SELECT a IS NOT DISTINCT FROM b OR coalesce(
        regexp_replace(a, '-?\d+(\.\d+)?(e-?\d+)?', '#', 'g') = regexp_replace(b, '-?\d+(\.\d+)?(e-?\d+)?', '#', 'g')
        AND (SELECT bool_and(abs(x[1]::float8 - y[1]::float8) <= 1e-5 * greatest(1, abs(x[1]::float8)))
               FROM ROWS FROM (regexp_matches(a, '-?\d+(?:\.\d+)?(?:e-?\d+)?', 'g'), regexp_matches(b, '-?\d+(?:\.\d+)?(?:e-?\d+)?', 'g')) m(x, y)), false)
$$;

-- What is given by a cursor that goes forth and back.
CREATE FUNCTION outcome_of_cursor(statement text, model text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    c refcursor;
    r record;
    rows text[] := '{}';
    direction text;
    state text; message text;
BEGIN
    OPEN c SCROLL FOR EXECUTE statement USING model;
    FOREACH direction IN ARRAY '{NEXT,NEXT,FORWARD 40,PRIOR,ABSOLUTE 30,RELATIVE -7,NEXT,ABSOLUTE 90,FIRST,PRIOR,LAST,PRIOR,NEXT,NEXT}'::text[] LOOP
        IF direction LIKE 'FORWARD%' THEN
            MOVE FORWARD 40 FROM c;
            CONTINUE;
        END IF;
        CASE direction
            WHEN 'NEXT' THEN FETCH NEXT FROM c INTO r;
            WHEN 'PRIOR' THEN FETCH PRIOR FROM c INTO r;
            WHEN 'FIRST' THEN FETCH FIRST FROM c INTO r;
            WHEN 'LAST' THEN FETCH LAST FROM c INTO r;
            WHEN 'ABSOLUTE 30' THEN FETCH ABSOLUTE 30 FROM c INTO r;
            WHEN 'ABSOLUTE 90' THEN FETCH ABSOLUTE 90 FROM c INTO r;
            ELSE FETCH RELATIVE -7 FROM c INTO r;
        END CASE;
        rows := rows || coalesce(CASE WHEN FOUND THEN r::text END, 'nothing');
    END LOOP;
    CLOSE c;
    RETURN rows;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
    RETURN rows || format('%s: %s', state, message);
END $$;

-- What each shape gives without the node; then what is different with it.
CREATE TABLE single (nr int, form text, rows text[], tables text, PRIMARY KEY (nr, form));
CREATE FUNCTION run_shape(s shape, form text, OUT rows text[], OUT tables text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('jit', current_setting('test.jit'), true);
    rows := CASE form WHEN 'rows' THEN outcome(s.statement, 'late') ELSE outcome_of_cursor(s.statement, 'late') END;
    IF s.statement !~ 'ORDER BY (s\.)?(id|g)\M|ORDER BY [0-9]' AND form = 'rows' THEN
        rows := ARRAY(SELECT x FROM unnest(rows) x ORDER BY x COLLATE "C");
    END IF;
    SELECT string_agg(t, chr(10)) INTO tables
      FROM (SELECT t::text FROM scored t UNION ALL SELECT id || ' ' || n FROM flight UNION ALL SELECT id || ' ' || n FROM months UNION ALL SELECT id || ' ' || n FROM loan ORDER BY 1) t;
    RAISE EXCEPTION 'undo';
EXCEPTION WHEN raise_exception THEN
END $$;
CREATE FUNCTION check_shapes(form text DEFAULT 'rows', every int DEFAULT 1) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    s shape;
    expected single;
    rows text[]; tables text;
    checked int := 0;
BEGIN
    FOR s IN SELECT * FROM shape WHERE nr % every = 0 ORDER BY nr LOOP
        SELECT * INTO expected FROM single x WHERE (x.nr, x.form) = (s.nr, check_shapes.form);
        SELECT * INTO rows, tables FROM run_shape(s, form);
        checked := checked + 1;
        IF cardinality(rows) <> cardinality(expected.rows) OR EXISTS (SELECT FROM unnest(rows, expected.rows) u(a, b) WHERE NOT same(a, b)) THEN
            RETURN NEXT format('%s: %s', s.nr, s.statement);
            RETURN NEXT format('  without: %s rows, with: %s rows', cardinality(expected.rows), cardinality(rows));
            RETURN NEXT (SELECT format('  without: %s with: %s', left(b, 200), left(a, 200)) FROM unnest(rows, expected.rows) u(a, b) WHERE NOT same(a, b) LIMIT 1);
        END IF;
        IF NOT same(md5(tables), md5(expected.tables)) AND NOT same(tables, expected.tables) THEN
            RETURN NEXT format('%s leaves other tables behind: %s', s.nr, s.statement);
        END IF;
    END LOOP;
    RETURN NEXT checked || ' shapes';
END $$;

SET pg_predict.enable_batch_scan = off;
INSERT INTO single SELECT s.nr, form, r.* FROM shape s, unnest(ARRAY['rows', 'cursor']) form, run_shape(s, form) r;
RESET pg_predict.enable_batch_scan;
-- Few of them give nothing or an error.
SELECT count(*) FILTER (WHERE cardinality(rows) > 10) AS many, count(*) FILTER (WHERE rows[1] ~ '^[0-9A-Z]{5}: ') AS errors FROM single WHERE form = 'rows';

SELECT check_shapes();
-- A cursor reads no more rows than are asked for, so that a filter below that fails on a later row (its month is 5) fails no sooner.
SELECT check_shapes('cursor');
SET pg_predict.batch_size = 7;
SET enable_hashjoin = off; SET enable_hashagg = off; SET work_mem = '64kB';
SELECT check_shapes();
RESET pg_predict.batch_size;
SET enable_mergejoin = off; SET enable_sort = off;
SELECT check_shapes();
RESET enable_hashjoin; RESET enable_hashagg; RESET enable_mergejoin; RESET enable_sort;
SET enable_nestloop = off; SET enable_seqscan = off; SET enable_material = off; SET plan_cache_mode = force_custom_plan;
SELECT check_shapes();
RESET enable_nestloop; RESET enable_seqscan; RESET enable_material; RESET work_mem;
SET plan_cache_mode = force_generic_plan; SET :debug_parallel = on;
SELECT check_shapes();
RESET :debug_parallel; RESET plan_cache_mode;
SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT check_shapes();
SET max_parallel_workers_per_gather = 0;
SET test.jit = on; SET jit_above_cost = 0; SET jit_inline_above_cost = 0; SET jit_optimize_above_cost = 0;
SELECT check_shapes('rows', 7);
SET test.jit = off;

-- A warning of a row that is NULL because its version says so comes once a statement, with and without.
\set model `base64 < "$PG_ABS_SRCDIR"/../models/late.onnx | tr -d '\n'`
SELECT predict.create_model('late_lenient', decode(:'model', 'base64'), '{"on_error": "null"}');
CALL keep_costs();
SELECT count(y) FROM (SELECT predict('late_lenient', CASE WHEN id % 100 = 7 THEN 1e300::float8 ELSE month END, day, sched_dep_time, sched_arr_time, distance, hour, carrier, origin, dest) AS y FROM flight) s;
SET pg_predict.enable_batch_scan = off;
SELECT count(y) FROM (SELECT predict('late_lenient', CASE WHEN id % 100 = 7 THEN 1e300::float8 ELSE month END, day, sched_dep_time, sched_arr_time, distance, hour, carrier, origin, dest) AS y FROM flight) s;
DROP EXTENSION postgres_fdw CASCADE;
