-- attacks: PUBLIC, a user of a model, an owner of a model and an owner of a job, each against another tenant.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

SET client_min_messages = warning;
DROP ROLE IF EXISTS att_public, att_user, att_owner, att_jobs, att_victim;
SET client_min_messages = notice;
CREATE ROLE att_public;
CREATE ROLE att_user;
CREATE ROLE att_owner;
CREATE ROLE att_jobs;
CREATE ROLE att_victim;
GRANT ALL ON SCHEMA test TO PUBLIC;
GRANT EXECUTE ON FUNCTION predict.create_model(text, bytea, jsonb, jsonb, bytea), predict.drop_model(text, integer),
    predict.set_alias(text, text, integer, boolean), predict.add_checks(text, text, text, float8), predict.set_baseline(text, text),
    predict.grant_usage(text, text) TO att_victim, att_owner;
SET ROLE att_victim;
CREATE TABLE customers AS SELECT id, id::real AS a, 2::real AS b, 3::real AS c FROM generate_series(1, 5) id;
SELECT predict.create_model('victims', model('named'));
SELECT predict.grant_usage('victims', 'att_user'), predict.grant_usage('victims', 'att_jobs');
SELECT predict.add_checks('victims', 'SELECT a, b, c FROM customers', 'golden');
SELECT predict.set_baseline('victims', 'SELECT a, b, c FROM customers');
SELECT predict.create_job('nightly', 'victims', 'SELECT * FROM customers', 'id', 'scores');
CALL predict.run_job('nightly');
RESET ROLE;
SELECT j.id AS job FROM predict.job j \gset

-- PUBLIC locks no table, not even in the mode of a writer, so nobody waits; ..
SET ROLE att_public;
SELECT c.relname, m, left(a, 5)
  FROM pg_class c, unnest('{ROW EXCLUSIVE,SHARE,ACCESS EXCLUSIVE}'::text[]) m, attempt(format('LOCK TABLE predict.%I IN %s MODE', c.relname, m)) a
 WHERE c.relnamespace = 'predict'::regnamespace AND c.relkind = 'r' AND a NOT LIKE '42501%';
-- .. writes nothing, least of all under an id of its choice; ..
SELECT p FROM pg_class c, unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p
 WHERE c.relnamespace = 'predict'::regnamespace AND c.relkind IN ('r', 'v') AND has_table_privilege(c.oid, p);
SELECT p FROM pg_class c, unnest('{INSERT,UPDATE,REFERENCES}'::text[]) p
 WHERE c.relnamespace = 'predict'::regnamespace AND c.relkind IN ('r', 'v') AND has_any_column_privilege(c.oid, p);
SELECT p FROM pg_class c, unnest('{USAGE,UPDATE,SELECT}'::text[]) p
 WHERE c.relnamespace = 'predict'::regnamespace AND c.relkind = 'S' AND has_sequence_privilege(c.oid, p);
SELECT n, has_schema_privilege(n, 'USAGE') AS usage, has_schema_privilege(n, 'CREATE') AS "create" FROM unnest('{predict,predict_internal}'::text[]) n;
SELECT count(*) FROM pg_class c WHERE c.relnamespace = 'predict_internal'::regnamespace;
SELECT attempt($$INSERT INTO predict.job_run (id, job, version, resumed) OVERRIDING SYSTEM VALUE VALUES (1000000, 1, 1, false)$$);
SELECT attempt($$SELECT nextval('predict.event_id_seq')$$);
-- .. reads nothing of another's; ..
SELECT count(*) FROM predict.jobs;
SELECT count(*) FROM predict.job_runs;
SELECT count(*) FROM predict.job_errors;
SELECT count(*) FROM predict.history;
SELECT count(*) FROM predict.baseline;
SELECT count(*) FROM predict.check_row;
-- .. and comes no further by the functions that write on somebody's behalf: they know who calls, and take nobody's word for it.
SELECT p.proname, has_function_privilege(p.oid, 'EXECUTE') FROM pg_proc p
 WHERE p.pronamespace = 'predict_internal'::regnamespace AND p.proargnames[1] = 'caller' AND p.proargtypes[0] = 'oid'::regtype ORDER BY 1;
SELECT attempt($$SELECT predict_internal.put_checks('att_victim'::regrole, 'victims', 'golden', '[]', 0, '', '[]')$$);
SELECT attempt($$SELECT predict_internal.put_checks('victims', 'golden', '[]', 0, '', '[]')$$);
SELECT attempt($$SELECT predict_internal.forget_checks('victims', NULL)$$);
SELECT attempt($$SELECT predict_internal.put_check_result('victims', 1, 'golden', 5, 5, 1, 'forged')$$);
SELECT attempt($$SELECT predict_internal.forget_baseline('victims', '{}', '{}')$$);
SELECT attempt($$SELECT predict_internal.put_baseline((SELECT jsonb_populate_record(NULL::predict.baseline, '{"model": "victims"}')))$$);
SELECT predict_internal.forget_job(:job), predict_internal.put_run(:job, 1, false), predict_internal.put_error(1, 'null', '', '', '', 1), predict_internal.put_chunk(1, NULL, 0, 0, 0, 0),
       predict_internal.put_failure(1, 'forged'), predict_internal.forget_runs(:job, 0), predict_internal.lock_job(:job);
SELECT predict_internal.put_job((SELECT jsonb_populate_record(NULL::predict.job, jsonb_build_object('id', :job, 'owner', 'att_victim', 'name', 'nightly')))) IS NULL AS nothing;
-- An advisory lock of its own keeps no job from running.
SELECT pg_advisory_lock(c.oid::bigint::bit(32)::integer, :job) FROM pg_class c WHERE c.oid = 'predict.job'::regclass;
RESET ROLE;
SET ROLE att_victim;
CALL predict.run_job('nightly');
SELECT status, scored FROM predict.job_runs ORDER BY run;
SELECT name, passed FROM predict.check_results;
RESET ROLE;
SELECT pg_advisory_unlock_all();

-- What docs/permissions.md says of views and of stored batches: a view lends tables and no model, and a batch is data.
SET ROLE att_victim;
CREATE VIEW lent AS SELECT predict('victims', a, b, c) AS y FROM customers;
CREATE TABLE stored AS SELECT predict_batch('victims', a, b, c) AS batch FROM customers;
GRANT SELECT ON lent, stored TO att_public;
SET ROLE att_public;
SELECT attempt('SELECT * FROM lent');
SELECT batch::real[] FROM stored;
SELECT attempt($$SELECT predict.stat_reset()$$);
SELECT name, version, owner FROM predict.models ORDER BY 1;
-- A superuser runs nobody's job, a member of its role sees it.
RESET ROLE;
CALL predict.run_job('nightly');
GRANT att_victim TO att_public;
SET ROLE att_public;
SELECT name, owner, status FROM predict.jobs;
SELECT attempt($$SELECT predict.drop_job('nightly')$$);
SELECT attempt($$SELECT predict.alter_job('nightly', '{}')$$);
RESET ROLE;
REVOKE att_victim FROM att_public;

-- A user of a model uses it, and that is all. Objects with the names of PostgreSQL's own, in the schema of the extension and
-- with types that fit better, are taken by nobody who reads a view, a policy or a report.
GRANT CREATE ON SCHEMA public TO att_user;
SET ROLE att_user;
CREATE FUNCTION public.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the trap was run as %', current_user; END $$;
CREATE FUNCTION public.make_interval(years integer DEFAULT 0, secs bigint DEFAULT 0) RETURNS interval LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap(); END $$;
CREATE FUNCTION public.pg_has_role(name, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap(); END $$;
CREATE FUNCTION public.coalesced(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap(); END $$;
CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap(); END $$;
CREATE FUNCTION public.equal(name, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap(); END $$;
CREATE OPERATOR public.= (FUNCTION = public.equal, LEFTARG = name, RIGHTARG = text);
CREATE FUNCTION public.count(text) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap(); END $$;
CREATE FUNCTION public.predict_json(text, customers) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap(); END $$;
CREATE FUNCTION public.predict_json(text, record) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap(); END $$;
CREATE FUNCTION public.predict_batch(text, record) RETURNS prediction_batch LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap(); END $$;
RESET ROLE;
SET ROLE att_victim;
SET search_path = public, pg_catalog, test;
SELECT predict.add_checks('victims', 'SELECT a, b, c FROM test.customers', 'golden');
SELECT name, failed, passed FROM predict.check('victims');
SELECT output, agreement FROM predict.compare('victims', 'victims@1', 'SELECT a, b, c FROM test.customers');
SELECT kind, name, verdict FROM predict.drift('victims', 'SELECT a, b, c FROM test.customers');
SELECT predict.set_baseline('victims', 'SELECT a, b, c FROM test.customers');
SELECT predict.create_job('trapped', 'victims', 'SELECT * FROM test.customers', 'id', 'test.trapped');
CALL predict.run_job('trapped');
SHOW search_path;
SELECT pg_catalog.length(predict.report('victims')) OPERATOR(pg_catalog.>) 1000 AS reported;
SELECT name, status FROM predict.jobs ORDER BY name;
SELECT predict.drop_job('trapped');
RESET ROLE;
SET search_path = test, public;
SET client_min_messages = warning;
-- The install script names nothing that could be found there either.
DROP EXTENSION pg_predict CASCADE;
CREATE FUNCTION public.length(bytea) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.trap(); END $$;
CREATE EXTENSION pg_predict SCHEMA public;
SELECT predict_internal.moment(1500000);
SELECT DISTINCT n.nspname FROM pg_depend d JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.proowner = 'att_user'::regrole AND d.classid IN ('pg_rewrite'::regclass, 'pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_policy'::regclass);
-- A schema predict that somebody has made already is not taken over, nor what is in it.
DROP EXTENSION pg_predict CASCADE;
CREATE SCHEMA predict AUTHORIZATION att_user;
\set VERBOSITY terse
CREATE EXTENSION pg_predict SCHEMA public;
\set VERBOSITY default
DROP SCHEMA predict;
CREATE SCHEMA predict_internal AUTHORIZATION att_user;
\set VERBOSITY terse
CREATE EXTENSION pg_predict SCHEMA public;
\set VERBOSITY default
DROP SCHEMA predict_internal;
DROP OWNED BY att_user;
CREATE EXTENSION pg_predict SCHEMA public;
SET client_min_messages = notice;

-- The owner of a model gives its inputs and outputs names that would be statements where they are printed.
GRANT EXECUTE ON FUNCTION predict.create_model(text, bytea, jsonb, jsonb, bytea), predict.add_checks(text, text, text, float8),
    predict.set_baseline(text, text), predict.grant_usage(text, text) TO att_owner;
CREATE TABLE victims AS SELECT 1 AS a;
SET ROLE att_owner;
SELECT predict.create_model('it''s <i> "%s" :x * --', model('hostile_names'));
SELECT predict.create_model(E'two\nlines', model('one'));
SELECT predict.describe('it''s <i> "%s" :x * --');
RESET ROLE;
-- Each line that is no comment belongs to the one statement, which runs as it stands.
SELECT predict.describe('it''s <i> "%s" :x * --') AS described \gset
:described
SELECT predict.describe('it''s <i> "%s" :x * --') \gexec
SELECT count(*) FROM victims;
EXPLAIN (VERBOSE, COSTS OFF) SELECT predict('it''s <i> "%s" :x * --', a, a, a, a) FROM victims;
SELECT attempt($$SELECT predict('it''s <i> "%s" :x * --', v) FROM victims v$$);
SELECT attempt($$SELECT * FROM predictions((SELECT predict_batch('it''s <i> "%s" :x * --', 1, 1, 1, 1))) p(z real)$$);
SELECT attempt(E'SELECT predict(''nobody\nDROP TABLE victims;'', 1)');
SELECT attempt(E'SELECT predict(''it''''s <i> "%s" :x * --/no\nDROP TABLE victims;'', 1, 1, 1, 1)');
-- In the report no line of a statement begins with what a name contains, and nothing of it is HTML.
SELECT report AS line FROM regexp_split_to_table(predict.report('it''s <i> "%s" :x * --'), '\n') report WHERE report LIKE 'DROP%' OR report LIKE '%<i>%' OR report LIKE '%<b>%';
SELECT attempt(E'SELECT predict.create_job(''a\nDROP TABLE victims;'', ''victims'', ''victims'', ''a'', ''t'')');
SET ROLE att_owner;
SELECT attempt(E'SELECT predict.add_checks(''it''''s <i> "%s" :x * --'', ''SELECT 1'', ''a\nb'')');
RESET ROLE;
-- The texts that print it: one line each, and what they mean is the name.
SELECT predict_internal.name_of(n), predict_internal.literal_of(n), predict_internal.printable_of(n)
  FROM unnest(ARRAY['plain', 'Two words', E'a\nb', E'q"\\\n', E'it''s\t', E'\u202Eback', 'null', '']) n;
SELECT U&"a\000ab" FROM (SELECT 1 AS "a
b") s;

-- An owner's check or job that is broken keeps nobody else from theirs.
SET ROLE att_owner;
SELECT predict.create_model('broken', model('named'));
SELECT predict_internal.put_checks('broken', 'bad', '[{"name": "a", "type": "no_such_type"}]', 0, '', '[[{"a": 1}, {}]]');
RESET ROLE;
SELECT predict.create_model('fine', model('named'));
SELECT predict.add_checks('fine', 'SELECT 1::real AS a, 2::real AS b, 3::real AS c');
SELECT model_name, name, failed, passed, first_failure FROM predict.check() ORDER BY 1;
SELECT attempt($$SELECT * FROM predict.check('broken')$$);
-- A baseline of nonsense spoils its own model's report at most.
SET ROLE att_owner;
SELECT predict_internal.put_baseline(jsonb_populate_record(NULL::predict.baseline, '{"model": "broken", "version": 1, "kind": "feature", "name": "a", "position": 1, "type": "number",
    "rows": 9223372036854775807, "nulls": -5, "nans": 0, "exact": true, "numbers": [1, "NaN", "Infinity"], "counts": [], "rest": -1}'));
RESET ROLE;
SELECT length(predict.report('broken')) > 1000, length(predict.report('fine')) > 1000;
SELECT count(*) FROM predict.baselines;

-- An owner of a job runs it alone, and only what he or she may read and write.
SET ROLE att_owner;
SELECT predict.grant_usage('broken', 'att_jobs');
RESET ROLE;
REVOKE ALL ON victims FROM PUBLIC;
SET ROLE att_jobs;
SELECT attempt($$SELECT predict.create_job('j', 'broken', 'victims', 'a', 'theirs')$$);
SELECT attempt($$SELECT predict.create_job('j', 'broken', 'SELECT 1 AS id, 1::real AS a, 2::real AS b, 3::real AS c', 'id', 'victims')$$);
-- What a function of the owner's does in the job's source it does as the owner, whoever asks for a report.
CREATE FUNCTION test.spy() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'runs as %', current_user; RETURN 1; END $$;
SELECT predict.create_job('spy', 'broken', 'SELECT test.spy() AS id, 1::real AS a, 2::real AS b, 3::real AS c', 'id', 'test.spied');
CALL predict.run_job('spy');
RESET ROLE;
SELECT length(predict.report('broken')) > 1000;
CALL predict.run_job('spy');
-- A target with a name that ends a statement is a name, and so is a key.
SET ROLE att_jobs;
SELECT predict.create_job('quoted', 'broken', 'SELECT 1 AS "s.x"",; DROP TABLE victims; --", 1::real AS a, 2::real AS b, 3::real AS c', '"s.x"",; DROP TABLE victims; --"', 'test."t.s; DROP TABLE victims; --"');
CALL predict.run_job('quoted');
SELECT key, target, status FROM predict.jobs WHERE name = 'quoted';
SELECT "s.x"",; DROP TABLE victims; --" AS key, y, model_version FROM test."t.s; DROP TABLE victims; --";
-- PostgreSQL's own message; its words and SQLSTATE differ between releases.
SELECT attempt($$SELECT predict.create_job('x', 'broken', 'SELECT 1 AS id, 1::real AS a, 2::real AS b, 3::real AS c', 'id', 'test.t (a int); DROP TABLE victims; --')$$) ~ '^(42602|22023): ' AS refused;
RESET ROLE;
SELECT count(*) FROM victims;

SET client_min_messages = warning;
DROP EXTENSION pg_predict CASCADE;
DROP OWNED BY att_public, att_user, att_owner, att_jobs, att_victim;
DROP ROLE att_public, att_user, att_owner, att_jobs, att_victim;
