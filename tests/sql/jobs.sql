-- jobs: a source is scored by key into a target; what is refused, skipped, deleted, resumed; and whose jobs are whose.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start
\set VERBOSITY terse

SELECT predict.create_model('named', model('named')), predict.create_model('lookup', model('lookup'));
CREATE TABLE customers (id int PRIMARY KEY, a real, b real, c real, note text);
INSERT INTO customers SELECT i, i % 7, i % 5, i % 3, 'note ' || i FROM generate_series(1, 25) i;
-- What runs of a job did, without times.
CREATE FUNCTION runs(name text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('version %s, %s%s: %s chunks, %s rows, %s scored, %s skipped, %s failed, %s deleted%s', version, status, CASE WHEN resumed THEN ', resumed' ELSE '' END, chunks, rows, scored, skipped, failed, deleted, ': ' || message)
      FROM predict.job_runs WHERE job = name ORDER BY run
$$;

-- The target is made; every key is there once, with what predict() says.
SELECT predict.create_job('scores', 'named', 'customers', 'id', 'scores', '{"chunk_size": 10}');
SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = 'scores' AND table_schema = 'test' ORDER BY ordinal_position;
SELECT status FROM predict.jobs;
CALL predict.run_job('scores');
SELECT runs('scores');
SELECT count(*), count(*) FILTER (WHERE s.y = predict('named', c.a, c.b, c.c) AND s.model_version = 1 AND scored_at <= now()) AS right FROM scores s JOIN customers c USING (id);
-- New rows and changed ones: all are scored again.
INSERT INTO customers VALUES (26, 1, 1, 1, 'new');
UPDATE customers SET a = 100 WHERE id = 3;
CALL predict.run_job('scores');
SELECT y FROM scores WHERE id IN (3, 26) ORDER BY id;

-- Unchanged rows are skipped; what the model does not take does not count; a promotion scores all again.
SELECT predict.create_job('fresh', 'named', E'SELECT * FROM customers WHERE id <= 12 -- a dozen\n;', 'id', 'fresh', '{"skip_unchanged": true, "delete_missing": true, "columns": {"score": "y"}}');
CALL predict.run_job('fresh');
CALL predict.run_job('fresh');
UPDATE customers SET note = 'another' WHERE id = 1;
UPDATE customers SET b = 50 WHERE id = 2;
UPDATE customers SET b = NULL WHERE id = 4;
DELETE FROM customers WHERE id = 5;
CALL predict.run_job('fresh');
SELECT id, score FROM fresh WHERE id < 7 ORDER BY id;
SELECT predict.create_model('named', model('named'), '{"defaults": {"b": 7}}');
SELECT predict.set_alias('named', 'default', 2);
CALL predict.run_job('fresh');
SELECT id, score, model_version FROM fresh WHERE id IN (1, 4) ORDER BY id;
DELETE FROM customers WHERE id >= 10;
CALL predict.run_job('fresh');
SELECT runs('fresh');
SELECT max(id) FROM fresh;

-- Where no row can be scored the run has failed.
SELECT predict.create_job('all bad', 'named', 'SELECT 1 AS id, 1e300::float8 AS a, 1 AS b, 1 AS c UNION ALL SELECT 2, 1e300, 2, 2', 'id', 'all_bad');
CALL predict.run_job('all bad');
SELECT runs('all bad');

-- Rows that fail are kept apart, up to a limit.
CREATE TABLE numbers (k int, part text, n bigint, PRIMARY KEY (part, k));
INSERT INTO numbers SELECT i, CASE WHEN i % 2 = 0 THEN 'even' ELSE 'o''d"d' END, CASE WHEN i IN (3, 8, 30) THEN 99 ELSE i % 3 END FROM generate_series(1, 30) i;
SELECT predict.create_job('looked up', 'lookup', 'SELECT part, k, n AS i FROM numbers', 'part, k', 'test.found', '{"chunk_size": 4}');
CALL predict.run_job('looked up');
SELECT runs('looked up');
SELECT key, sqlstate, message FROM predict.job_errors WHERE job = 'looked up' ORDER BY id;
SELECT count(*) FROM found;
SELECT predict.alter_job('looked up', '{"max_errors": 2}');
CALL predict.run_job('looked up');
SELECT resumes, last_key FROM predict.jobs WHERE name = 'looked up';
UPDATE numbers SET n = 1 WHERE n = 99;
CALL predict.run_job('looked up');
SELECT runs('looked up');
SELECT count(*), count(DISTINCT (part, k)) FROM found;

-- Keys that are NULL are told of; keys that come twice end the run; no row is lost without a word.
CREATE TABLE loose (id int, a real, b real, c real);
INSERT INTO loose VALUES (1, 1, 1, 1), (NULL, 1, 1, 1), (2, 2, 2, 2);
SELECT predict.create_job('loose', 'named', 'loose', 'id', 'loose_scores', '{"chunk_size": 1}');
CALL predict.run_job('loose');
INSERT INTO loose VALUES (1, 5, 5, 5);
CALL predict.run_job('loose');
SELECT runs('loose');
-- An empty source, and constraints of a target of one's own.
SELECT predict.create_job('empty', 'named', 'SELECT * FROM loose WHERE false', 'id', 'nothing');
CALL predict.run_job('empty');
SELECT runs('empty');
CREATE TABLE own (id int PRIMARY KEY, y real CHECK (y < 200), extra text DEFAULT 'kept');
SELECT predict.create_job('own', 'named', 'customers', 'id', 'own');
CALL predict.run_job('own');
SELECT count(*), count(DISTINCT extra), max(y) < 200 AS checked FROM own;
SELECT sqlstate, count(*) FROM predict.job_errors WHERE job = 'own' GROUP BY 1;
-- A bigger run of it stops where it is told to; keys of other types.
CREATE TABLE stamped (at timestamptz, who uuid, f float8, a real, b real, c real, PRIMARY KEY (at, who, f));
INSERT INTO stamped SELECT '2024-01-01 00:00:00.123456+02'::timestamptz + i * interval '1 hour', md5(i::text)::uuid, 1.0 / (i + 1), i, 1, 1 FROM generate_series(0, 9) i;
SELECT predict.create_job('stamped', 'named', 'stamped', 'at, who, f', 'stamped_scores', '{"chunk_size": 3}');
SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Kathmandu'; SET extra_float_digits = -10;
CALL predict.run_job('stamped');
RESET datestyle; RESET timezone; RESET extra_float_digits;
SELECT count(*) FROM stamped_scores JOIN stamped USING (at, who, f);
-- The search path is that of the job's creation.
SET search_path = pg_catalog;
CALL predict.run_job('scores');
SET search_path = test, public;

-- Golden rows are asked where this version has not been checked with this ONNX Runtime.
SELECT predict.add_checks('named', 'SELECT 1::real AS a, 1::real AS b, 1::real AS c, 5::real AS y');
CALL predict.run_job('scores');
SELECT predict.drop_checks('named');
CALL predict.run_job('scores');
SELECT runs('scores');

-- What is refused.
SELECT attempt($$SELECT predict.create_job('scores', 'named', 'customers', 'id', 'scores')$$);
SELECT attempt($$SELECT predict.create_job('x', 'nobody', 'customers', 'id', 'x')$$);
SELECT attempt($$SELECT predict.create_job('x', 'named', 'nothing_there', 'id', 'x')$$);
SELECT attempt($$SELECT predict.create_job('x', 'named', 'customers', 'key', 'x')$$);
SELECT attempt($$SELECT predict.create_job('x', 'named', 'SELECT id, a FROM customers', 'id', 'x')$$);
SELECT attempt($$SELECT predict.create_job('x', 'named', 'customers', 'id', 'x', '{"chunk": 1}')$$);
SELECT attempt($$SELECT predict.create_job('x', 'named', 'customers', 'id', 'x', '{"chunk_size": 0}')$$);
SELECT attempt($$SELECT predict.create_job('x', 'named', 'customers', 'id', 'x', '{"columns": {"y": "z"}}')$$);
SELECT attempt($$SELECT predict.create_job('x', 'named', 'customers', 'id', 'own', '{"skip_unchanged": true}')$$);
SELECT attempt($$SELECT predict.create_job('x', 'named', 'customers', 'id', NULL)$$);
SELECT attempt($$SELECT predict.drop_job('x')$$);
SELECT to_regclass('x');
CALL predict.run_job('x');
-- It commits: neither in a transaction, nor in a string of several statements, as pg_cron may send one, nor in a function.
BEGIN;
CALL predict.run_job('scores');
ROLLBACK;
SET datestyle = 'ISO' \; CALL predict.run_job('scores');
SELECT attempt($$CALL predict.run_job('scores')$$);
CREATE PROCEDURE every_night() LANGUAGE plpgsql AS $$ BEGIN CALL predict.run_job('scores'); END $$;
CALL every_night();
CALL predict.run_job('scores');
SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory';
-- Options are an object.
SELECT o, a FROM unnest(ARRAY['[]', '"{}"', '3', 'null', 'true']) WITH ORDINALITY u(o, n), attempt(format('SELECT predict.create_job(''x'', ''named'', ''customers'', ''id'', ''x'', %L)', o)) a ORDER BY n;
SELECT attempt($$SELECT predict.alter_job('scores', '[]')$$);

-- A job belongs to its role: it runs with its rights, and another one neither sees it nor touches it.
CREATE ROLE job_maker; CREATE ROLE job_other;
GRANT CREATE, USAGE ON SCHEMA test TO job_maker;
GRANT USAGE ON SCHEMA test TO job_other;
GRANT TEMPORARY ON DATABASE :"DBNAME" TO job_maker;
GRANT SELECT ON customers TO job_maker;
SELECT predict.grant_usage('named', 'job_maker');
SET ROLE job_maker;
SELECT predict.create_job('mine', 'named', 'customers', 'id', 'test.mine');
CALL predict.run_job('mine');
SELECT name, owner, status FROM predict.jobs;
SELECT runs('mine');
SELECT attempt($$SELECT predict.create_job('secret', 'named', 'scores', 'id', 'test.secret')$$);
SET ROLE job_other;
SELECT (SELECT count(*) FROM predict.jobs) + (SELECT count(*) FROM predict.job_runs) + (SELECT count(*) FROM predict.job_errors) AS seen;
CALL predict.run_job('mine');
SELECT attempt($$SELECT predict.drop_job('mine')$$);
SELECT attempt($$UPDATE predict.job SET source = 'SELECT 1'$$);
SELECT attempt($$INSERT INTO predict.job_run (job, version, resumed) VALUES (1, 1, false)$$);
RESET ROLE;
CALL predict.run_job('mine');
SET ROLE job_maker;
SELECT predict.drop_job('mine');
SELECT count(*) FROM mine;
RESET ROLE;
SELECT predict.revoke_usage('named', 'job_maker');
DROP OWNED BY job_maker, job_other;
DROP ROLE job_maker, job_other;
SELECT predict.drop_job(name) FROM predict.jobs;
SELECT count(*) FROM predict.job_run;
