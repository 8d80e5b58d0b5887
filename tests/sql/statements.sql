-- statements: predictions inside of prepared statements, cursors, PL/pgSQL, writes of every kind, views and sub-selects.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

SELECT predict.create_model('m', model('named')), predict.create_model('lookup', model('lookup'));
SELECT predict.create_model('m', model('named'), '{"defaults": {"c": 10}}');
CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int);
INSERT INTO t SELECT g, g, 1, 0 FROM generate_series(1, 5) g;

-- Prepared, with a plan of its own for every call and with one for all, the model as a parameter too.
SET plan_cache_mode = force_generic_plan;
PREPARE one(text, int) AS SELECT predict($1, $2, 1, 0);
EXECUTE one('m', 1);
EXECUTE one('m@2', 2);
SELECT * FROM attempt('EXECUTE one(''nobody'', 3)');
EXECUTE one('m', 3);
PREPARE many(text, int) AS SELECT p.* FROM predictions((SELECT predict_batch($1, t) FROM t WHERE id <= $2)) p(id int, y real) ORDER BY id;
EXECUTE many('m', 2);
EXECUTE many('m@2', 3);
EXECUTE many('m', 0);
PREPARE fixed AS SELECT predict('m', 1, 2, NULL);
EXECUTE fixed;
-- A promotion between two executions is seen by the second.
SELECT predict.set_alias('m', 'default', 2);
EXECUTE fixed;
EXECUTE one('m', 3);
SELECT predict.set_alias('m', 'default', 1);
EXECUTE fixed;
-- A column that is dropped in between.
ALTER TABLE t DROP COLUMN c;
ALTER TABLE t ADD COLUMN c int DEFAULT 1;
EXECUTE many('m', 2);
ALTER TABLE t DROP COLUMN c;
SELECT left(a, 80) FROM attempt('EXECUTE many(''m'', 2)') a LIMIT 1;
ALTER TABLE t ADD COLUMN c int DEFAULT 0;
EXECUTE many('m', 2);
SET plan_cache_mode = force_custom_plan;
EXECUTE one('m', 4);
EXECUTE many('m', 2);
RESET plan_cache_mode;
DEALLOCATE ALL;

-- Cursors: forward and back, over a promotion, and kept beyond the transaction.
SELECT predict.create_model('p', model('linear'), '{"features": ["a", "b", "c"]}'), predict.create_model('p', model('linear_next'), '{"features": ["a", "b", "c"]}');
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id, predict('p', t) FROM t ORDER BY id;
DECLARE d CURSOR FOR SELECT p.* FROM predictions((SELECT predict_batch('p', t) FROM t)) p(id int, y real) ORDER BY id;
DECLARE unread CURSOR FOR SELECT id, predict('p', t) FROM t ORDER BY id;
DECLARE unread_batch CURSOR FOR SELECT p.* FROM predictions((SELECT predict_batch('p', t) FROM t)) p(id int, y real) ORDER BY id;
FETCH 2 FROM c;
FETCH 1 FROM d;
SELECT predict.set_alias('p', 'default', 2);
FETCH 2 FROM c;
FETCH 2 FROM d;
FETCH 1 FROM unread;
FETCH 1 FROM unread_batch;
FETCH BACKWARD 1 FROM c;
SELECT predict('p', 1, 1, 0);
ROLLBACK;
BEGIN;
DECLARE kept CURSOR WITH HOLD FOR SELECT p.* FROM predictions((SELECT predict_batch('m', t) FROM t)) p(id int, y real) ORDER BY id;
DECLARE kept_batch CURSOR WITH HOLD FOR SELECT predict_batch('m', t ORDER BY id) AS batch FROM t;
FETCH 1 FROM kept;
COMMIT;
FETCH 2 FROM kept;
CLOSE kept;
FETCH ALL FROM kept_batch \gset
SELECT p.* FROM predictions(:'batch'::prediction_batch) p(id int, y real) LIMIT 2;
CLOSE kept_batch;
-- A cursor that is left in the middle, by an error too.
BEGIN;
DECLARE c CURSOR FOR SELECT predict('lookup', g) FROM generate_series(0, 9) g;
FETCH 3 FROM c;
SAVEPOINT s;
\set VERBOSITY sqlstate
FETCH 5 FROM c;
\set VERBOSITY default
ROLLBACK TO s;
SELECT predict('lookup', 1);
ROLLBACK;
SELECT predict('lookup', 2);

-- PL/pgSQL: errors caught in a loop, models resolved anew in every statement, results in variables.
DO $$
DECLARE
    good int := 0;
    bad int := 0;
    batch prediction_batch;
    total float8;
BEGIN
    FOR i IN 1..200 LOOP
        BEGIN
            IF i % 3 = 0 THEN
                PERFORM predict('lookup', 5 + i);
            ELSIF i % 3 = 1 THEN
                PERFORM predict_batch('lookup', g) FROM generate_series(0, 4 + i % 2) g;
            ELSE
                PERFORM p.value FROM predictions((SELECT predict_batch('lookup', g) FROM generate_series(0, 3) g)) p(value real);
            END IF;
            good := good + 1;
        EXCEPTION WHEN external_routine_exception THEN
            bad := bad + 1;
        END;
    END LOOP;
    RAISE NOTICE '% good, % bad', good, bad;
    SELECT predict_batch('m', t ORDER BY id) INTO batch FROM t;
    SELECT sum(y) INTO total FROM predictions(batch) p(id int, y real);
    RAISE NOTICE 'sum %, first %', total, (SELECT y FROM predictions(batch) p(id int, y real) ORDER BY id LIMIT 1);
    batch := NULL;
    total := predict('m', 1, 2, 3);
    RAISE NOTICE 'expression %', total;
END $$;
CREATE FUNCTION score(model text, x int) RETURNS float8 STABLE LANGUAGE plpgsql AS $$BEGIN RETURN predict(model, x, 1, 0); END$$;
SELECT score(m, g) FROM generate_series(1, 2) g, (VALUES ('m'), ('m@2')) v(m) ORDER BY m, g;
DO $$
BEGIN
    FOR i IN 1..3 LOOP
        PERFORM predict.set_alias('m', 'default', 1 + i % 2);
        RAISE NOTICE '%', predict('m', 1, 2, NULL);
    END LOOP;
END $$;
SELECT predict.set_alias('m', 'default', 1);
CREATE FUNCTION scores() RETURNS SETOF t STABLE LANGUAGE sql AS 'SELECT t.* FROM t WHERE predict(''m'', t) > 13';
SELECT id FROM scores() ORDER BY id;
CREATE PROCEDURE in_steps() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..3 LOOP
        UPDATE t SET b = predict('m', id, i, 0) WHERE id = i;
        COMMIT;
    END LOOP;
END $$;
CALL in_steps();
SELECT id, b FROM t ORDER BY id;
UPDATE t SET b = 1;

-- Written: INSERT .. SELECT, CREATE TABLE AS, UPDATE, an upsert, DELETE, RETURNING, a generated sum, a trigger, a check.
CREATE TABLE scored (id int PRIMARY KEY, y real, at_version int DEFAULT 1);
INSERT INTO scored SELECT p.* FROM predictions((SELECT predict_batch('m', t) FROM t WHERE id < 4)) p(id int, y real);
INSERT INTO scored AS s (id, y, at_version) SELECT id, y, 2 FROM predictions((SELECT predict_batch('m', t) FROM t)) p(id int, y real) ON CONFLICT (id) DO UPDATE SET y = excluded.y + 1000, at_version = excluded.at_version;
SELECT * FROM scored ORDER BY id;
UPDATE scored s SET y = p.y FROM predictions((SELECT predict_batch('m', t) FROM t)) p(id int, y real) WHERE p.id = s.id;
UPDATE scored SET y = predict('m', id, 0, 0) WHERE id > 3 RETURNING id, y;
DELETE FROM scored USING predictions((SELECT predict_batch('m', t) FROM t)) p(id int, y real) WHERE p.id = scored.id AND p.y < 12 RETURNING scored.id;
MERGE INTO scored s USING (SELECT * FROM predictions((SELECT predict_batch('m', t) FROM t)) p(id int, y real)) p ON p.id = s.id WHEN MATCHED THEN UPDATE SET y = p.y WHEN NOT MATCHED THEN INSERT VALUES (p.id, -p.y, 3);
SELECT * FROM scored ORDER BY id;
INSERT INTO scored VALUES (100, predict('m', 1, 2, 3)) RETURNING y, predict_text('m', id, 0, 0);
CREATE TABLE made AS SELECT id, predict('m', t) AS y, predict_json('m', t) ? 'y' AS named FROM t;
SELECT * FROM made ORDER BY id;
CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.y := predict('m', NEW.id, 2, 0); RETURN NEW; END$$;
CREATE TRIGGER fill BEFORE INSERT ON made FOR EACH ROW EXECUTE FUNCTION fill();
INSERT INTO made SELECT g FROM generate_series(7, 9) g RETURNING id, y;
WITH new AS (INSERT INTO made VALUES (10) RETURNING id, y) SELECT (predict_batch('m', y, id, 0))::real[] FROM new;
-- Not for what is stored as a fact: predictions are not immutable.
SELECT * FROM attempt($$CREATE TABLE wrong (a int, y float8 GENERATED ALWAYS AS (predict('m', a, 0, 0)) STORED)$$);
SELECT * FROM attempt($$CREATE INDEX ON t (predict('m', a, b, c))$$);

-- Views, plain and materialized.
CREATE VIEW v AS SELECT p.* FROM predictions((SELECT predict_batch('m', t) FROM t)) p(id int, y real);
SELECT * FROM v ORDER BY id;
CREATE MATERIALIZED VIEW mv AS SELECT * FROM v;
UPDATE t SET a = a + 100;
SELECT sum(y) FROM v;
SELECT sum(y) FROM mv;
REFRESH MATERIALIZED VIEW mv;
SELECT sum(y) FROM mv;
SELECT pg_get_viewdef('v') ~ 'predict_batch\(''m''' AS shown_as_written;
UPDATE t SET a = a - 100;
-- Sub-selects, correlated and not; unions; limits; sorts; semi-joins.
SELECT id, (SELECT predict('m', t.a, s.b, 0) FROM t s WHERE s.id = t.id) FROM t ORDER BY id;
SELECT id, (SELECT sum(y) FROM predictions((SELECT predict_batch('m', s.a, t.a, 0) FROM t s WHERE s.id <= t.id)) p(y real)) FROM t ORDER BY id;
SELECT id, (SELECT (predict_batch('m', s ORDER BY s.id))::real[] FROM t s WHERE s.id <= t.id) FROM t ORDER BY id;
SELECT predict('m', 1, 1, 1) UNION ALL SELECT predict('m@2', 1, 1, NULL) ORDER BY 1;
SELECT id FROM t ORDER BY predict('m', t) DESC LIMIT 2;
SELECT id FROM t WHERE EXISTS (SELECT FROM predictions((SELECT predict_batch('m', s) FROM t s)) p(id int, y real) WHERE p.y > 13 AND p.id = t.id) ORDER BY id;
SELECT count(*) FROM t WHERE id IN (SELECT p.id FROM predictions((SELECT predict_batch('m', s) FROM t s)) p(id int, y real) WHERE y > 12);
WITH RECURSIVE r(n, y) AS (SELECT 1, predict('m', 1, 0, 0) UNION ALL SELECT n + 1, predict('m', y, 1, 0) FROM r WHERE n < 4) SELECT * FROM r ORDER BY n;
SELECT plan($$SELECT p.* FROM predictions((SELECT predict_batch('m', t) FROM t)) p(id int, y real)$$);

DROP MATERIALIZED VIEW mv;
DROP VIEW v;
SELECT count(predict.drop_model(name)) FROM (SELECT DISTINCT name FROM predict.models) n;
