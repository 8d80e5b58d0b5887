-- catalog_life: what the catalog goes through in its life: roles and models that go, tables that are written anew or changed within
-- one connection, publications, names that need quotes.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

SET client_min_messages = warning;
DROP PUBLICATION IF EXISTS life_all;
DROP ROLE IF EXISTS life_owner, life_user, life_other;
SET client_min_messages = notice;
CREATE ROLE life_owner;
CREATE ROLE life_user;
CREATE ROLE life_other;
GRANT ALL ON SCHEMA test TO PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA predict TO life_other;
GRANT EXECUTE ON FUNCTION predict.create_model(text, bytea, jsonb, jsonb, bytea), predict.drop_model(text, integer), predict.grant_usage(text, text),
    predict.add_checks(text, text, text, float8), predict.set_baseline(text, text), predict.set_alias(text, text, integer, boolean) TO life_owner, life_user;

-- Tables of the registry are written anew: rows move, and what this session remembers of a place is not what is there now.
BEGIN;
SELECT predict.create_model('moved', model('linear'));
SELECT predict('moved', 1, 2, 3);
SELECT predict.drop_model('moved');
SELECT predict.create_model('moved', model('linear_next'));
COMMIT;
VACUUM FULL predict.version;
SELECT predict('moved', 1, 2, 3);
SELECT predict.create_model('moved', model('linear'));
SELECT predict.set_alias('moved', 'default', 2);
SELECT predict('moved', 1, 2, 3), predict('moved@1', 1, 2, 3);
SELECT predict.grant_usage('moved', 'life_user'), predict.grant_usage('moved', 'life_other');
SET ROLE life_user;
SELECT predict('moved', 1, 2, 3);
RESET ROLE;
SELECT predict.revoke_usage('moved', 'life_user');
CLUSTER predict.privilege USING privilege_pkey;
CLUSTER predict.alias USING alias_pkey;
CLUSTER predict.version USING version_pkey;
VACUUM FULL predict.model, predict.content, predict.chunk;
REINDEX SCHEMA predict;
SET ROLE life_user;
SELECT attempt($$SELECT predict('moved', 1, 2, 3)$$);
SET ROLE life_other;
SELECT predict('moved', 1, 2, 3), predict('moved@1', 1, 2, 3);
RESET ROLE;

-- Columns come, go and change within one connection.
SELECT predict.create_model('named', model('named'));
CREATE TABLE t AS SELECT 1::real AS a, 2::real AS b, 3::real AS c;
CREATE FUNCTION scored() RETURNS SETOF float8 STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT predict('named', t) FROM t; END $$;
PREPARE plain AS SELECT predict('named', t) FROM t;
PREPARE batch AS SELECT (predict_batch('named', t))::real[] FROM t;
PREPARE listed AS SELECT p.y FROM predictions((SELECT predict_batch('named', t) FROM t)) p(y real);
EXECUTE plain; EXECUTE batch; EXECUTE listed; SELECT scored();
ALTER TABLE t ADD COLUMN z text DEFAULT 'z';
EXECUTE plain; EXECUTE batch; EXECUTE listed; SELECT scored();
ALTER TABLE t DROP COLUMN b;
EXECUTE plain;
EXECUTE batch;
EXECUTE listed;
SELECT scored();
ALTER TABLE t ADD COLUMN b real DEFAULT 20;
EXECUTE plain; EXECUTE batch; EXECUTE listed; SELECT scored();
ALTER TABLE t ALTER COLUMN a TYPE float8 USING a + 0.5, ALTER COLUMN c TYPE smallint;
EXECUTE plain; EXECUTE batch; EXECUTE listed; SELECT scored();
ALTER TABLE t RENAME COLUMN z TO y; ALTER TABLE t RENAME COLUMN c TO d; ALTER TABLE t RENAME COLUMN a TO c; ALTER TABLE t RENAME COLUMN d TO a;
EXECUTE plain; EXECUTE batch; EXECUTE listed; SELECT scored();
ALTER TABLE t ALTER COLUMN a TYPE text;
EXECUTE plain;
SELECT scored();
-- In one transaction, and taken back.
ALTER TABLE t ALTER COLUMN a TYPE real USING 1;
BEGIN;
EXECUTE plain;
SAVEPOINT s;
ALTER TABLE t DROP COLUMN a; ALTER TABLE t ADD COLUMN a real DEFAULT 9;
EXECUTE plain; SELECT scored();
ROLLBACK TO s;
EXECUTE plain; SELECT scored();
COMMIT;
-- A cursor keeps reading the rows that it was opened for.
BEGIN;
DECLARE c CURSOR FOR SELECT predict('named', t) FROM t, generate_series(1, 3);
FETCH 1 FROM c;
SELECT attempt('ALTER TABLE t ADD COLUMN late integer');
FETCH ALL FROM c;
COMMIT;
DEALLOCATE ALL;
-- Types likewise.
CREATE TYPE features AS (a real, b real, c real);
CREATE FUNCTION typed() RETURNS float8 STABLE LANGUAGE plpgsql AS $$ DECLARE f features; BEGIN f.a := 1; f.b := 2; f.c := 3; RETURN predict('named', f); END $$;
CREATE TABLE held (f features); INSERT INTO held VALUES ('(1,2,3)');
PREPARE held AS SELECT predict('named', f) FROM held;
SELECT typed(); EXECUTE held;
ALTER TYPE features ADD ATTRIBUTE d text;
SELECT typed(); EXECUTE held;
ALTER TYPE features RENAME ATTRIBUTE c TO e;
EXECUTE held;
ALTER TYPE features RENAME ATTRIBUTE e TO c;
ALTER TYPE features DROP ATTRIBUTE b;
EXECUTE held;
ALTER TYPE features ADD ATTRIBUTE b real;
EXECUTE held;
UPDATE held SET f.b = 2;
EXECUTE held;
DEALLOCATE ALL;

-- A role goes, with DROP OWNED, and leaves its models and jobs to nobody: to no later role of its name either.
CREATE TABLE rows AS SELECT id, 1::real AS a, 2::real AS b, 3::real AS c FROM generate_series(1, 3) id;
GRANT SELECT ON rows TO PUBLIC;
SET ROLE life_owner;
SELECT predict.create_model('left', model('named'));
SELECT predict.grant_usage('left', 'life_user');
SELECT predict.create_job('left', 'left', 'rows', 'id', 'left_scores');
CALL predict.run_job('left');
SELECT (SELECT count(*) FROM predict.jobs) AS jobs, (SELECT count(*) FROM predict.job_runs) AS runs, (SELECT count(*) FROM predict.history) AS history;
RESET ROLE;
REASSIGN OWNED BY life_owner TO life_other;
DROP OWNED BY life_owner;
DROP ROLE life_owner;
SELECT name, owner FROM predict.models WHERE name = 'left';
SELECT name, owner LIKE 'unknown%' AS gone FROM predict.jobs;
CREATE ROLE life_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA predict TO life_user, life_owner;
REVOKE EXECUTE ON FUNCTION predict_internal.put_job(oid, predict.job) FROM life_user, life_owner;
SET ROLE life_owner;
SELECT (SELECT count(*) FROM predict.jobs) AS jobs, (SELECT count(*) FROM predict.job_runs) AS runs, (SELECT count(*) FROM predict.history) AS history;
SELECT attempt($$SELECT predict('left', 1, 2, 3)$$);
SELECT attempt($$SELECT predict.drop_model('left')$$);
SELECT attempt($$SELECT predict.drop_job('left')$$);
SELECT predict.create_job('left', 'named', 'rows', 'id', 'other_scores');
RESET ROLE;
SELECT predict.grant_usage('named', 'life_owner');
SET ROLE life_owner;
SELECT predict.create_job('left', 'named', 'rows', 'id', 'other_scores');
SELECT name, owner, status FROM predict.jobs;
RESET ROLE;
-- A role that has been renamed keeps what it has.
ALTER ROLE life_owner RENAME TO life_owner_now;
CREATE ROLE life_owner;
SET ROLE life_owner;
SELECT count(*) FROM predict.jobs;
RESET ROLE;
SET ROLE life_owner_now;
SELECT name, owner FROM predict.jobs;
CALL predict.run_job('left');
SELECT predict.drop_job('left');
RESET ROLE;
DROP ROLE life_owner;
ALTER ROLE life_owner_now RENAME TO life_owner;
-- What is left of a role that is gone is neither dumped nor kept when something is granted.
SELECT format('SELECT count(*) AS dumped FROM predict.privilege %s AND model = ''left''',
              (SELECT e.extcondition[array_position(e.extconfig, 'predict.privilege'::regclass::oid)] FROM pg_extension e WHERE e.extname = 'pg_predict')) \gexec
SELECT count(*) AS kept, count(*) FILTER (WHERE r.oid IS NULL) AS strays FROM predict.privilege p LEFT JOIN pg_roles r ON r.oid = p.role WHERE model = 'left';
SELECT predict.grant_usage('left', 'life_other');
SELECT count(*) AS kept, count(*) FILTER (WHERE r.oid IS NULL) AS strays FROM predict.privilege p LEFT JOIN pg_roles r ON r.oid = p.role WHERE model = 'left';

-- The history of a model that is gone is not that of the next one of its name.
SET ROLE life_user;
SELECT predict.create_model('reborn', model('named'));
SELECT predict.set_alias('reborn', 'secret', 1);
SELECT predict.drop_model('reborn');
SELECT action, alias FROM predict.history WHERE model = 'reborn' ORDER BY id;
SET ROLE life_other;
SELECT predict.create_model('reborn', model('named'));
SELECT action, alias FROM predict.history WHERE model = 'reborn' ORDER BY id;
RESET ROLE;
SELECT role, action, alias FROM predict.history WHERE model = 'reborn' ORDER BY id;

-- Everything is written while a publication of all tables asks each for its identity.
SET client_min_messages = error;
CREATE PUBLICATION life_all FOR ALL TABLES;
SET client_min_messages = notice;
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'predict'::regnamespace AND c.relkind = 'r'
   AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary);
SELECT predict.create_model('published', model('named'));
SELECT predict.create_model('published', model('named'));
SELECT predict.add_checks('published', 'SELECT a, b, c FROM rows'), predict.add_checks('published', 'SELECT a, b, c FROM rows');
SELECT passed FROM predict.check('published');
SELECT predict.set_baseline('published', 'SELECT a, b, c FROM rows'), predict.set_baseline('published', 'SELECT a, b, c FROM rows');
SELECT predict.set_alias('published', 'default', 2), predict.set_alias('published', 'default', 1);
SELECT predict.create_job('published', 'published', 'rows', 'id', 'published_scores', '{"skip_unchanged": true, "delete_missing": true, "keep_runs": 1}');
CALL predict.run_job('published');
CALL predict.run_job('published');
SELECT predict.alter_job('published', '{"chunk_size": 1}');
SELECT length(predict.report('published')) > 1000;
SELECT predict.drop_job('published'), predict.drop_checks('published'), predict.drop_model('published', 2), predict.drop_model('published');
DROP PUBLICATION life_all;

-- Keys, tables and schemas with dots, quotes and commas in their names.
CREATE SCHEMA "s.t";
CREATE TABLE "s.t"."the ""rows""" ("a.s.b" integer, "C,""d""" text, a real, b real, c real);
INSERT INTO "s.t"."the ""rows""" SELECT i, 'x' || i % 2, i, 2, 3 FROM generate_series(1, 7) i;
SELECT predict.create_job('dots', 'named', '"s.t"."the ""rows"""', ' "a.s.b" ,"C,""d""" ', '"s.t"."to.here"', '{"chunk_size": 2, "skip_unchanged": true, "delete_missing": true}');
CALL predict.run_job('dots');
SELECT source, key, target, status FROM predict.jobs WHERE name = 'dots';
DELETE FROM "s.t"."the ""rows""" WHERE "a.s.b" > 5;
UPDATE "s.t"."the ""rows""" SET a = 10 WHERE "a.s.b" = 2;
CALL predict.run_job('dots');
SELECT scored, skipped, failed, deleted FROM predict.job_runs WHERE job = 'dots' ORDER BY run;
SELECT "a.s.b", "C,""d""", y FROM "s.t"."to.here" ORDER BY 1;
-- A row that fails is found by halves.
SELECT predict.create_model('strict', model('named'), '{"on_null": "error"}');
SELECT predict.create_job('halves', 'strict', 'SELECT i AS "s.key", i / nullif(i % 4, 0)::real AS a, 2::real AS b, 3::real AS c FROM generate_series(1, 7) i', '"s.key"', 'halves');
CALL predict.run_job('halves');
SELECT key, message FROM predict.job_errors;
SELECT count(*) FROM halves;
SELECT predict.drop_job('halves');
SELECT attempt($$SELECT predict.alter_job('dots', key => 'a.s')$$);
SELECT attempt($$SELECT predict.alter_job('dots', key => '"a.s.b" "C"')$$);
SELECT attempt($$SELECT predict.alter_job('dots', key => '')$$);
SELECT predict_internal.names_of('a, B ,"C" , "d.e","f,g","h""i"');
SELECT predict.drop_job('dots');
SET client_min_messages = warning;
DROP SCHEMA "s.t" CASCADE;
DROP EXTENSION pg_predict CASCADE;
DROP OWNED BY life_owner, life_user, life_other;
DROP ROLE life_owner, life_user, life_other;
