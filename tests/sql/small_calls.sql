-- Small calls: what a statement leaves for the next of its kind never changes an answer: not after a promotion, a revoked right, a
-- table of the registry that was written anew, a failed row, a changed setting, a model dropped and made again.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

SET client_min_messages = warning;
DROP ROLE IF EXISTS pgp_small;
SET client_min_messages = notice;
CREATE ROLE pgp_small;
SET plan_cache_mode = force_generic_plan;
CREATE TABLE r (id int PRIMARY KEY, a real, b real, c real);
INSERT INTO r SELECT n, n, 0, 0 FROM generate_series(1, 100) n;
GRANT SELECT ON r TO pgp_small;
SELECT predict.create_model('small', model('linear'));
PREPARE point(int) AS SELECT id, predict('small', a, b, c) FROM r WHERE id = $1;
SET pg_predict.batch_size = 100;
EXPLAIN (COSTS OFF) EXECUTE point(1);
RESET pg_predict.batch_size;

-- The same statement again and again, and another that looks the same.
EXECUTE point(1);
EXECUTE point(2);
PREPARE other(int) AS SELECT predict('small', a, b, c), id FROM r WHERE id = $1;
PREPARE turned(int) AS SELECT id, predict('small', c, b, a) FROM r WHERE id = $1;
PREPARE doubles(int) AS SELECT id, predict('small', a::float8, b, c) FROM r WHERE id = $1;
EXECUTE other(3);
EXECUTE turned(3);
EXECUTE doubles(3);
EXECUTE point(3);

-- A promotion, one that is undone, and a version by its number.
SELECT predict.create_model('small', model('linear_next'));
PREPARE first(int) AS SELECT predict('small@1', a, b, c) FROM r WHERE id = $1;
EXECUTE point(4);
EXECUTE first(4);
SELECT predict.set_alias('small', 'default', 2);
EXECUTE point(4);
EXECUTE first(4);
BEGIN;
SELECT predict.set_alias('small', 'default', 1);
EXECUTE point(4);
ROLLBACK;
EXECUTE point(4);
BEGIN;
SAVEPOINT s;
SELECT predict.set_alias('small', 'default', 1);
EXECUTE point(4);
ROLLBACK TO s;
EXECUTE point(4);
COMMIT;
SELECT predict.set_alias('small', 'default', 1);
EXECUTE point(4);

-- Rights are the caller's, and of this moment.
SET ROLE pgp_small;
SELECT * FROM attempt('EXECUTE point(5)');
RESET ROLE;
SELECT predict.grant_usage('small', 'pgp_small');
SET ROLE pgp_small;
EXECUTE point(5);
EXECUTE point(6);
RESET ROLE;
SELECT predict.revoke_usage('small', 'pgp_small');
SET ROLE pgp_small;
SELECT * FROM attempt('EXECUTE point(5)');
RESET ROLE;
SELECT predict.grant_usage('small', 'public');
SET ROLE pgp_small;
EXECUTE point(5);
RESET ROLE;
SELECT predict.revoke_usage('small', 'public');
EXECUTE point(5);

-- The registry's tables are written anew, and rows that one transaction made change places.
BEGIN;
SELECT predict.create_model('a_model', model('linear_next')), predict.create_model('b_model', model('linear'));
COMMIT;
PREPARE b(int) AS SELECT predict('b_model', a, b, c), predict('a_model', a, b, c) FROM r WHERE id = $1;
EXECUTE b(7);
SELECT predict.drop_model('a_model');
VACUUM FULL predict.alias;
VACUUM FULL predict.version;
VACUUM FULL predict.privilege;
SELECT * FROM attempt('EXECUTE b(7)');
SELECT predict.create_model('a_model', model('linear'));
EXECUTE b(7);
CLUSTER predict.version USING version_pkey;
EXECUTE b(7);

-- A place that the file no longer has, once VACUUM has cut off its end.
SELECT count(predict.set_alias('small', 'a' || n, 1)) FROM generate_series(1, 400) n;
PREPARE last(int) AS SELECT predict('small@a400', a, b, c) FROM r WHERE id = $1;
EXECUTE last(7);
SELECT count(predict.drop_alias('small', 'a' || n)) FROM generate_series(1, 400) n;
SELECT pg_relation_size('predict.alias') AS size \gset
VACUUM (TRUNCATE) predict.alias;
SELECT pg_relation_size('predict.alias') < :size AS "cut off";
SELECT * FROM attempt('EXECUTE last(7)');
EXECUTE point(7);

-- A model that is dropped and made again with other bytes.
SELECT predict.drop_model('small');
SELECT * FROM attempt('EXECUTE point(8)');
SELECT predict.create_model('small', model('linear_next'));
EXECUTE point(8);

-- A row that fails, NULL, NaN, no row; the ones after them are right.
INSERT INTO r VALUES (101, NULL, 0, 0), (102, 'NaN', 0, 0);
SELECT * FROM attempt('EXECUTE point(101)');
EXECUTE point(102);
EXECUTE point(103);
EXECUTE point(9);
SELECT predict.create_model('strict', model('linear'), '{"on_null": "error"}');
PREPARE strict(int) AS SELECT predict('strict', a, b, c) FROM r WHERE id = $1;
EXECUTE strict(1);
SELECT * FROM attempt('EXECUTE strict(101)');
EXECUTE strict(2);
DO $$
DECLARE x float8; failed int := 0; total float8 := 0;
BEGIN
    FOR n IN 95..102 LOOP
        BEGIN
            SELECT predict('strict', a, b, c) INTO STRICT x FROM r WHERE id = n;
            total := total + CASE WHEN x = 'NaN' THEN 0 ELSE x END;
        EXCEPTION WHEN null_value_not_allowed THEN
            failed := failed + 1;
        END;
    END LOOP;
    RAISE NOTICE 'failed: %, total: %', failed, total;
END $$;

-- A statement that runs inside itself: each run has its own rows.
CREATE FUNCTION inner_call(n int) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE x float8;
BEGIN
    IF n = 0 THEN RETURN 0; END IF;
    SELECT predict('small', a, b, c) + inner_call(n - 1) INTO x FROM r WHERE id = n;
    RETURN x;
END $$;
SELECT inner_call(5), inner_call(5);
BEGIN;
DECLARE one CURSOR FOR SELECT id, predict('small', a, b, c) FROM r WHERE id IN (10, 20) ORDER BY id;
DECLARE two CURSOR FOR SELECT id, predict('small', a, b, c) FROM r WHERE id IN (10, 20) ORDER BY id;
FETCH 1 FROM one;
FETCH 1 FROM two;
FETCH 1 FROM one;
CLOSE one;
FETCH 1 FROM two;
COMMIT;

-- Settings count at once.
EXECUTE point(11);
SET pg_predict.device = 'cuda:0';
SELECT * FROM attempt('EXECUTE point(11)') LIMIT 1;
RESET pg_predict.device;
SET pg_predict.batch_size = 1;
EXECUTE point(11);
RESET pg_predict.batch_size;
SET pg_predict.enable_batch_scan = off;
EXECUTE point(11);
RESET pg_predict.enable_batch_scan;

-- A column that changes its type, a composite's and a domain's columns.
ALTER TABLE r ALTER a TYPE numeric;
EXECUTE point(12);
CREATE DOMAIN score AS real CHECK (VALUE IS DISTINCT FROM -1);
ALTER TABLE r ALTER a TYPE score;
EXECUTE point(12);
ALTER TABLE r DROP COLUMN b, ADD COLUMN b real DEFAULT 1;
EXECUTE point(12);

-- The extension is made anew: other tables hold the registry.
SET client_min_messages = warning;
DROP EXTENSION pg_predict CASCADE;
CREATE EXTENSION pg_predict SCHEMA public;
SET client_min_messages = notice;
SELECT * FROM attempt('EXECUTE point(13)');
SELECT predict.create_model('small', test.model('linear'));
EXECUTE point(13);
DROP TABLE r;
DROP ROLE pgp_small;
