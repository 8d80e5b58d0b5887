-- permissions: what a role without privileges, a role with USAGE and an owner can do with models, and what an attacker tries.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

SET client_min_messages = warning;
DROP ROLE IF EXISTS pgp_mallory, pgp_owner, pgp_user, pgp_group, pgp_files;
SET client_min_messages = notice;
CREATE ROLE pgp_mallory;
CREATE ROLE pgp_owner;
CREATE ROLE pgp_user;
CREATE ROLE pgp_group;
CREATE ROLE pgp_files;
GRANT EXECUTE ON FUNCTION predict.create_model(text, bytea, jsonb, jsonb, bytea), predict.create_model_from_file(text, text, jsonb, text),
    predict.drop_model(text, integer), predict.set_alias(text, text, integer, boolean), predict.drop_alias(text, text),
    predict.grant_usage(text, text), predict.revoke_usage(text, text) TO pgp_owner;
SELECT predict.create_model('admins', model('linear'));

-- Somebody with no privilege: neither reads nor writes the registry, nor calls what writes it.
SET ROLE pgp_mallory;
SELECT c.relname, a
  FROM pg_class c, attempt(format('SELECT * FROM predict.%I', c.relname)) a
 WHERE c.relnamespace = 'predict'::regnamespace AND c.relkind = 'r' ORDER BY 1;
SELECT c.relname, a
  FROM pg_class c, attempt(format('DELETE FROM predict.%I', c.relname)) a
 WHERE c.relnamespace = 'predict'::regnamespace AND c.relkind IN ('r', 'v') ORDER BY 1, 2;
SELECT * FROM attempt($$INSERT INTO predict.privilege VALUES ('admins', 'pgp_mallory', 'usage')$$);
SELECT * FROM attempt($$UPDATE predict.alias SET version = 1$$);
SELECT * FROM attempt($$UPDATE predict.models SET name = 'mine'$$);
SELECT * FROM attempt($$SELECT data FROM predict.chunk$$);
SELECT * FROM attempt($$CREATE TABLE predict.mine (a int)$$);
SELECT * FROM attempt($$CREATE FUNCTION predict.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'$$);
SELECT * FROM attempt($$ALTER TABLE predict.model DISABLE TRIGGER ALL$$);
SELECT * FROM attempt($$SELECT predict.create_model('mine', test.model('one'))$$);
SELECT * FROM attempt($$SELECT predict.create_model_from_file('mine', '/etc/passwd')$$);
SELECT * FROM attempt($$SELECT predict.drop_model('admins')$$);
SELECT * FROM attempt($$SELECT predict.set_alias('admins', 'mine', 1)$$);
SELECT * FROM attempt($$SELECT predict.drop_alias('admins', 'default')$$);
SELECT * FROM attempt($$SELECT predict.grant_usage('admins', 'pgp_mallory')$$);
SELECT * FROM attempt($$SELECT predict.revoke_usage('admins', 'public')$$);
-- The views list what there is, with no bytes.
SELECT name, version, owner FROM predict.models ORDER BY 1, 2;
SELECT model, name, type FROM predict.model_inputs ORDER BY 1, 2;

-- Nor uses a model, in any form.
SELECT * FROM attempt($$SELECT predict('admins', 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT predict_text('admins@1', 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT predict_array('admins', 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT predict_json('admins', 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT predict_batch('admins', 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('admins', 1, 2, 3))) p(y real)$$);
-- Which versions and aliases it has makes no difference.
SELECT * FROM attempt($$SELECT predict('admins@9', 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT predict('admins@nobody/none', 1, 2, 3)$$);
-- The functions behind the verbs are no way around.
SELECT * FROM attempt($$SELECT predict_internal.predict_batch_handle('admins', ARRAY['y'], 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT predict_internal.predictions_of_handle('1')$$);
SELECT * FROM attempt($$SELECT '12345'::predict_internal.batch_handle$$);
RESET ROLE;

-- A grant opens the use and nothing else; a revoke closes it again.
SELECT predict.grant_usage('admins', 'pgp_user');
SET ROLE pgp_user;
SELECT predict('admins', 1, 2, 3), predict_text('admins', 1, 2, 3), predict_json('admins', 1, 2, 3);
SELECT (predict_batch('admins', 1, 2, x))::real[] FROM generate_series(1, 3) x;
SELECT * FROM predictions((SELECT predict_batch('admins', 1, 2, x) FROM generate_series(1, 3) x)) p(y real) ORDER BY 1;
SELECT * FROM attempt($$SELECT data FROM predict.chunk$$);
RESET ROLE;
SELECT predict.revoke_usage('admins', 'pgp_user');
SET ROLE pgp_user;
SELECT * FROM attempt($$SELECT predict('admins', 1, 2, 3)$$);
RESET ROLE;
-- A grant twice is one, a revoke of nothing is nothing.
SELECT predict.grant_usage('admins', 'pgp_user'), predict.grant_usage('admins', 'pgp_user');
SELECT predict.revoke_usage('admins', 'pgp_user'), predict.revoke_usage('admins', 'pgp_user');
SELECT * FROM attempt($$SELECT predict.grant_usage('admins', 'nobody_has_this_name')$$);
SELECT * FROM attempt($$SELECT predict.grant_usage('nobody_has_this_name', 'public')$$);
SELECT * FROM attempt($$SELECT predict.grant_usage('admins', NULL)$$);

-- Through membership, by inheritance.
SELECT predict.grant_usage('admins', 'pgp_group');
GRANT pgp_group TO pgp_user;
SET ROLE pgp_user;
SELECT predict('admins', 1, 2, 3);
RESET ROLE;
-- From PostgreSQL 16 on, what a role inherits is settled when it is granted.
REVOKE pgp_group FROM pgp_user;
ALTER ROLE pgp_user NOINHERIT;
GRANT pgp_group TO pgp_user;
SET ROLE pgp_user;
SELECT * FROM attempt($$SELECT predict('admins', 1, 2, 3)$$);
RESET ROLE;
ALTER ROLE pgp_user INHERIT;
REVOKE pgp_group FROM pgp_user;
SELECT predict.revoke_usage('admins', 'pgp_group');

-- Everybody.
SELECT predict.grant_usage('admins', 'public');
SET ROLE pgp_mallory;
SELECT predict('admins', 1, 2, 3);
RESET ROLE;
SELECT predict.revoke_usage('admins', 'PUBLIC');
SET ROLE pgp_mallory;
SELECT * FROM attempt($$SELECT predict('admins', 1, 2, 3)$$);
RESET ROLE;

-- A prepared statement is checked when it runs, and as whom it runs.
PREPARE score AS SELECT predict('admins', 1, 2, 3);
EXECUTE score;
SET ROLE pgp_mallory;
SELECT * FROM attempt('EXECUTE score');
RESET ROLE;
EXECUTE score;
DEALLOCATE score;

-- A function that runs as its owner lends the owner's use of the model.
CREATE FUNCTION test.lent(x int) RETURNS float8 STABLE SECURITY DEFINER SET search_path = public, pg_temp LANGUAGE sql AS $$SELECT predict('admins', x, 2, 3)$$;
SET ROLE pgp_mallory;
SELECT test.lent(1), test.lent(2);
RESET ROLE;

-- An owner who is not superuser.
SET ROLE pgp_owner;
SELECT predict.create_model('owned', model('linear'));
SELECT name, version, owner, created_by FROM predict.models WHERE name = 'owned';
SELECT predict.create_model('owned', model('linear_next'));
SELECT predict.set_alias('owned', 'default', 2);
SELECT predict('owned', 1, 2, 3);
SELECT predict.grant_usage('owned', 'pgp_user');
-- Has no say over the models of others, ..
SELECT * FROM attempt($$SELECT predict.create_model('admins', test.model('one'))$$);
SELECT * FROM attempt($$SELECT predict.set_alias('admins', 'mine', 1)$$);
SELECT * FROM attempt($$SELECT predict.drop_alias('admins', 'default')$$);
SELECT * FROM attempt($$SELECT predict.drop_model('admins')$$);
SELECT * FROM attempt($$SELECT predict.drop_model('admins', 1)$$);
SELECT * FROM attempt($$SELECT predict.grant_usage('admins', 'pgp_owner')$$);
SELECT * FROM attempt($$SELECT predict.revoke_usage('admins', 'pgp_user')$$);
SELECT * FROM attempt($$SELECT predict('admins', 1, 2, 3)$$);
-- .. the registry's tables, even those rows that are about the own models, ..
SELECT * FROM attempt($$SELECT * FROM predict.version$$);
SELECT * FROM attempt($$DELETE FROM predict.model WHERE name = 'owned'$$);
-- .. or files of the server, and cannot tell which there are.
SELECT * FROM attempt($$SELECT predict.create_model_from_file('file', '/etc/passwd')$$);
SELECT * FROM attempt($$SELECT predict.create_model_from_file('file', '/no/such/file')$$);
RESET ROLE;
SET ROLE pgp_user;
SELECT predict('owned', 1, 2, 3);
SELECT * FROM attempt($$SELECT predict.set_alias('owned', 'default', 1)$$);
RESET ROLE;

-- With the server's privilege to read files, what is no model is still none.
GRANT pg_read_server_files TO pgp_owner;
SET ROLE pgp_owner;
SELECT * FROM attempt($$SELECT predict.create_model_from_file('file', '/no/such/file')$$);
SELECT * FROM attempt($$SELECT predict.create_model_from_file('file', '/dev/zero')$$);
SELECT * FROM attempt($$SELECT predict.create_model_from_file('file', '/')$$);
SELECT split_part(a, ':', 1) || ':' || split_part(a, ':', 2) FROM attempt($$SELECT predict.create_model_from_file('file', '/etc/passwd')$$) a LIMIT 1;
\set path '''' :tests '/models/linear.onnx' ''''
SELECT predict.create_model_from_file('file', :path);
SELECT predict('file', 1, 2, 3);
SELECT predict.drop_model('file');
RESET ROLE;
REVOKE pg_read_server_files FROM pgp_owner;

-- The owner of a model may be a group: whoever is a member changes the model.
GRANT pgp_owner TO pgp_user;
SET ROLE pgp_user;
SELECT predict.set_alias('owned', 'default', 1);
SELECT predict('owned', 1, 2, 3);
RESET ROLE;
REVOKE pgp_owner FROM pgp_user;

-- Functions and operators planted where the registry's statements might look for PostgreSQL's own: they are never run.
CREATE SCHEMA trap AUTHORIZATION pgp_mallory;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
SET ROLE pgp_mallory;
CREATE FUNCTION trap.caught() RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'the trap was run as %', current_user; END$$;
CREATE FUNCTION trap.text_equal(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN PERFORM trap.caught(); RETURN true; END$$;
CREATE FUNCTION trap.int_equal(int, int) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN PERFORM trap.caught(); RETURN true; END$$;
CREATE FUNCTION trap.bytea_equal(bytea, bytea) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN PERFORM trap.caught(); RETURN true; END$$;
CREATE FUNCTION trap.int_plus(int, int) RETURNS int LANGUAGE plpgsql AS $$BEGIN PERFORM trap.caught(); RETURN 1; END$$;
CREATE OPERATOR trap.= (FUNCTION = trap.text_equal, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR trap.= (FUNCTION = trap.int_equal, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR trap.= (FUNCTION = trap.bytea_equal, LEFTARG = bytea, RIGHTARG = bytea);
CREATE OPERATOR trap.+ (FUNCTION = trap.int_plus, LEFTARG = int, RIGHTARG = int);
CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN PERFORM trap.caught(); RETURN NULL; END$$;
CREATE FUNCTION trap.jsonb_array_elements(jsonb) RETURNS SETOF jsonb LANGUAGE plpgsql AS $$BEGIN PERFORM trap.caught(); END$$;
CREATE TABLE trap.version (LIKE predict.models);
CREATE DOMAIN trap.regrole AS int CHECK (trap.caught() IS NOT NULL);
RESET ROLE;
CREATE TEMPORARY TABLE model (name text);
CREATE TEMPORARY TABLE content (hash bytea);
SET search_path = trap, pg_temp, public, test, pg_catalog;
SELECT 1 OPERATOR(pg_catalog.=) 1, * FROM test.attempt('SELECT 1 = 1');
SELECT predict.create_model('trapped', test.model('linear')) FROM (VALUES (1)) v;
SELECT predict.create_model('trapped', test.model('linear_next'));
SELECT predict.set_alias('trapped', 'default', 2);
SELECT predict('trapped', 1, 2, 3);
SELECT p.* FROM predictions((SELECT predict_batch('trapped@1', 1, 2, 3))) p(y real);
SELECT predict.grant_usage('trapped', 'pgp_user');
SELECT predict.revoke_usage('trapped', 'pgp_user');
SELECT predict.drop_alias('trapped', 'default');
SELECT predict.drop_model('trapped', 1);
SELECT predict.drop_model('trapped');
-- The search path of the session is as it was, after an error too.
SHOW search_path;
SELECT * FROM test.attempt($$SELECT predict('nobody', 1)$$);
SHOW search_path;
SELECT * FROM test.attempt($$SELECT predict.create_model('a@b', '\x00')$$);
SELECT current_user;
SET search_path = test, public;
DROP TABLE pg_temp.model, pg_temp.content;
SET client_min_messages = warning;
DROP SCHEMA trap CASCADE;
SET client_min_messages = notice;

-- A role may be dropped while models name it: they stay, and others use them as before.
SELECT predict.grant_usage('admins', 'pgp_user'), predict.grant_usage('admins', 'pgp_group');
SET ROLE pgp_owner;
SELECT predict.grant_usage('owned', 'pgp_group');
RESET ROLE;
DROP FUNCTION test.lent;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA predict FROM pgp_owner;
DROP ROLE pgp_mallory, pgp_owner, pgp_user, pgp_files;
SELECT name, version, owner = 'postgres' AS mine FROM predict.models ORDER BY 1, 2;
SET ROLE pgp_group;
SELECT predict('owned', 1, 2, 3), predict('admins', 1, 2, 3);
RESET ROLE;
SELECT predict.drop_model('owned'), predict.drop_model('admins');
DROP ROLE pgp_group;
