-- trust: golden rows kept with a model, promotions that they refuse, comparisons, history; and who sees them.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start
\set VERBOSITY terse

-- a + 10 b + 100 c; version 2 takes 1 for a missing b, version 3 is another model.
SELECT predict.create_model('named', model('named')), predict.create_model('named', model('named'), '{"defaults": {"b": 1}}');
CREATE TABLE rows (id int, a real, b real, c real);
INSERT INTO rows VALUES (1, 1, 2, 3), (2, 4, 5, 6), (3, 7, NULL, 9), (4, 'NaN', 1, 1);

-- Without an output among its columns a check keeps what the version says now.
SELECT predict.add_checks('named', 'SELECT * FROM rows ORDER BY id');
SELECT name, rows, tolerance, created_by = current_user AS mine FROM predict.checks;
SELECT position, input, expected FROM predict.check_row ORDER BY 1;
SELECT * FROM predict.check('named');
SELECT model_name, version, name, rows, failed, worst, passed, first_failure FROM predict.check('named@2');
-- A version that fails is refused, inside a transaction too, and nothing changes.
SELECT attempt($$SELECT predict.set_alias('named', 'default', 2)$$);
BEGIN;
SELECT predict.set_alias('named', 'default', 2);
ROLLBACK;
SELECT attempt($$SELECT predict.set_alias('named', 'staging', 2)$$);
SELECT version, aliases FROM predict.models ORDER BY 1;
SELECT version, name, passed, failed FROM predict.check_results ORDER BY 1;
-- It can be forced, which is told and kept.
SELECT predict.set_alias('named', 'default', 2, force => true);
SELECT predict.set_alias('named', 'default', 1);
-- Expected outputs can be given: what does not hold fails, within the tolerance it does.
SELECT column_name FROM information_schema.columns WHERE table_name = 'model_outputs' ORDER BY ordinal_position;
SELECT name FROM predict.model_outputs WHERE model = 'named' AND version = 1;
SELECT predict.add_checks('named', 'SELECT 1::real AS a, 2::real AS b, 3::real AS c, 321.001::real AS y', 'near', 1e-3);
SELECT predict.add_checks('named', 'SELECT 1::real AS a, 2::real AS b, 3::real AS c, 321.001::real AS y', 'nearer', 1e-7);
SELECT model_name, name, rows, failed, passed FROM predict.check() ORDER BY 1, 2;
SELECT predict.drop_checks('named', 'nearer');
SELECT attempt($$SELECT predict.drop_checks('named', 'nearer')$$);
-- A new check under an old name takes its place.
SELECT predict.add_checks('named', 'SELECT * FROM rows WHERE id = 1', 'near');
SELECT name, rows FROM predict.checks ORDER BY 1;
-- What cannot be a check.
SELECT attempt($$SELECT predict.add_checks('named', 'SELECT * FROM rows WHERE false', 'none')$$);
SELECT attempt($$SELECT predict.add_checks('nobody', 'SELECT 1')$$);
SELECT attempt($$SELECT predict.add_checks('named', 'SELECT 1 AS a')$$);
SELECT attempt($$SELECT predict.add_checks('named', NULL)$$);
SELECT attempt($$SELECT predict.add_checks('named', 'SELECT * FROM rows', 'x', -1)$$);
SELECT name, rows FROM predict.checks ORDER BY 1;
-- Types that JSON has no word for come back as they were: bytes, text, booleans, big integers, infinity.
SELECT predict.create_model('types', model('types'));
SELECT string_agg(format('%s %s', name, type), ', ' ORDER BY position) FROM predict.model_inputs WHERE model = 'types';

-- Two versions beside each other.
SELECT output, rows, agreement, max_difference, jsonb_array_length(worst) AS worst FROM predict.compare('named@1', 'named@2', 'SELECT * FROM rows');
SELECT w->'row'->>'id' AS id, w->'a' AS a, w->'b' AS b FROM predict.compare('named@1', 'named@2', 'SELECT * FROM rows'), jsonb_array_elements(worst) w;
SELECT output, agreement FROM predict.compare('named', 'named', 'SELECT * FROM rows');
SELECT attempt($$SELECT predict.compare('named', 'nobody', 'SELECT * FROM rows')$$);
SELECT * FROM predict.compare('named', 'named', 'SELECT * FROM rows WHERE false');

-- The differences of answers.
SELECT predict_internal.difference('1', '1.5'), predict_internal.difference('100', '110'), predict_internal.difference('[1, 2]', '[1, 2.25]'), predict_internal.difference('"a"', '"b"'),
       predict_internal.difference('"NaN"', '"NaN"'), predict_internal.difference('null', '1'), predict_internal.difference(NULL, 'null'), predict_internal.difference('"1"', '1'), predict_internal.difference('{"a": 1}', '{"b": 1}');

-- Who did what.
SELECT action, version, alias, detail, role = current_user AS mine FROM predict.history ORDER BY id;

-- Another role sees nothing of it and touches nothing.
CREATE ROLE trust_maker; CREATE ROLE trust_other;
GRANT EXECUTE ON FUNCTION predict.create_model(text, bytea, jsonb, jsonb, bytea), predict.add_checks(text, text, text, float8), predict.set_alias(text, text, integer, boolean) TO trust_maker;
GRANT SELECT ON rows TO trust_maker, trust_other;
GRANT TEMPORARY ON DATABASE :"DBNAME" TO trust_maker, trust_other;
SET ROLE trust_maker;
SELECT predict.create_model('theirs', model('named'));
SELECT predict.add_checks('theirs', 'SELECT * FROM rows');
SELECT model_name, failed, passed FROM predict.check();
SELECT count(*) FROM predict.checks;
SELECT model, action FROM predict.history ORDER BY id;
SELECT predict.set_alias('theirs', 'good', 1);
SET ROLE trust_other;
SELECT (SELECT count(*) FROM predict.checks) + (SELECT count(*) FROM predict.check_results) + (SELECT count(*) FROM predict.history) + (SELECT count(*) FROM predict.check_row) AS seen;
SELECT attempt($$SELECT * FROM predict.check('theirs')$$);
SELECT attempt($$SELECT predict.add_checks('theirs', 'SELECT * FROM rows')$$);
SELECT attempt($$SELECT predict.drop_checks('theirs')$$);
SELECT attempt($$DELETE FROM predict.check_row$$);
SELECT attempt($$INSERT INTO predict.check_set (model, name, columns, tolerance, query) VALUES ('theirs', 'x', '[]', 0, '')$$);
SELECT attempt($$INSERT INTO predict.event (role, model, action) VALUES ('trust_maker', 'theirs', 'drop model')$$);
SELECT attempt($$SELECT predict.compare('theirs', 'theirs', 'SELECT * FROM rows')$$);
SELECT count(*) FROM predict.check();
RESET ROLE;
-- What an owner writes into a check runs nothing with the rights of a superuser who asks for it: types are names, and domains and
-- composites bring no code of theirs along.
SET ROLE trust_maker;
CREATE FUNCTION pg_temp.spy(x real) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'runs as %', current_user; RETURN true; END $$;
CREATE DOMAIN pg_temp.spying AS real CHECK (pg_temp.spy(VALUE));
SELECT predict.add_checks('theirs', 'SELECT 1::pg_temp.spying AS a, 2::real AS b, 3::real AS c', 'spy');
RESET ROLE;
SELECT model_name, name, passed FROM predict.check('theirs');
SET ROLE trust_maker;
SELECT predict_internal.put_checks('theirs', 'spy', '[{"name": "a", "type": "real) , LATERAL (SELECT pg_temp.spy(1)) x(a, b, c); --"}]', 0, '', '[[{"a": 1}, {}]]');
RESET ROLE;
SELECT attempt($$SELECT * FROM predict.check('theirs')$$);
-- Nor does it keep anybody from checking other models.
SELECT model_name, name, passed, first_failure->>'error' AS error FROM predict.check() ORDER BY 1, 2;
-- A model takes its checks along when it goes; what was done stays known.
SELECT predict.drop_model('theirs');
SELECT count(*) FROM predict.check_row WHERE model = 'theirs';
SELECT action, role FROM predict.history WHERE model = 'theirs' ORDER BY id;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA predict FROM trust_maker;
DROP OWNED BY trust_maker, trust_other;
DROP ROLE trust_maker, trust_other;

-- Another ONNX Runtime than that which ran the checks is told of when a session loads the model.
UPDATE predict.check_result SET runtime = 'of another day' WHERE version = 1;
\c
SET search_path = test, public;
\pset format unaligned
\pset tuples_only on
SELECT predict('named', 1, 2, 3);
SELECT count(*) FROM predict.check('named');
\c
SET search_path = test, public;
SELECT predict('named', 1, 2, 3);

-- Statistics need a preloaded library, and say so.
SELECT attempt('SELECT * FROM predict.stat_models');
SELECT attempt('SELECT * FROM predict.stat_progress');
SELECT attempt('SELECT predict.stat_reset()');
