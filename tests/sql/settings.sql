-- settings: what each takes, who may set it, devices that are not there, and a library that is none.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

SELECT predict.create_model('m', model('linear'));
SELECT predict.create_model('gpu', model('linear'), '{"device": "cuda"}');
SELECT predict.create_model('anywhere', model('linear'), '{"device": "auto", "threads": 2}');
SELECT name, boot_val AS setting, unit, context, min_val, max_val FROM pg_settings WHERE name LIKE 'pg\_predict.%' ORDER BY name COLLATE "C";
-- Values that cannot be. From PostgreSQL 16 on, ranges have units.
SELECT s, regexp_replace(a, '(\d+)( \w+)? \.\. (\d+)( \w+)?\)', '\1 .. \3)') FROM unnest(ARRAY['batch_size = -1', 'batch_size = 1048577', 'batch_size = many', 'device = gpu', 'device = ''cuda:''', 'device = ''cuda:-1''', 'device = ''cuda:1x''', 'max_batch_memory = 1', 'enable_pipelining = maybe',
                              'validation_memory_limit = ''1MB''', 'validation_timeout = 1', 'session_cache_size = 0', 'threads = -1', 'threads = 257']) WITH ORDINALITY u(s, m), attempt('SET pg_predict.' || s) WITH ORDINALITY a(a, n) ORDER BY m, n;
SELECT s, a FROM unnest(ARRAY['device = cpu', 'device = cuda', 'device = ''cuda:3''', 'device = auto', 'device = ''''', 'batch_size = 1048576', 'threads = 0', 'threads = 256', 'session_cache_size = ''1MB''']) WITH ORDINALITY u(s, m), attempt('SET LOCAL pg_predict.' || s) a ORDER BY m;
-- A name that there is not is an error: the prefix is reserved.
SELECT * FROM attempt('SET pg_predict.bath_size = 1');
RESET pg_predict.device;
-- Who may.
CREATE ROLE pgp_nobody;
SELECT predict.grant_usage('m', 'pgp_nobody');
SET ROLE pgp_nobody;
SELECT s, a FROM unnest(ARRAY['batch_size = 3', 'device = cpu', 'enable_pipelining = off', 'threads = 1', 'max_batch_memory = ''1GB''', 'onnxruntime_library = ''/tmp/mine.so''', 'validation_memory_limit = ''1TB''', 'validation_timeout = ''1h''', 'session_cache_size = ''1TB''']) WITH ORDINALITY u(s, m),
     attempt('SET LOCAL pg_predict.' || s) WITH ORDINALITY a(a, n) ORDER BY m, n;
SELECT count(*) FROM pg_settings WHERE name = 'pg_predict.onnxruntime_library';
SELECT left(a, 5) FROM attempt('SHOW pg_predict.onnxruntime_library') a LIMIT 1;
RESET ROLE;

-- Devices. This library may have CUDA or not, the machine a card or not: where there is none, the error says what is missing and the hint what to do.
CREATE FUNCTION device_error(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE state text; message text; hint text;
BEGIN
    EXECUTE statement;
    RETURN 'as it should be';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    IF state = '55000' AND message ~ '^device "cuda(:\d+)?" is not available: (this ONNX Runtime library has no CUDA in it|the CUDA or cuDNN libraries cannot be loaded|there is no CUDA driver or no card|there is no card with this number)$' AND hint <> '' THEN
        RETURN 'as it should be';
    END IF;
    RETURN format('%s: %s; %s', state, message, hint);
END $$;
SELECT line FROM regexp_split_to_table(predict.describe('gpu'), '\n') line WHERE line LIKE '-- Runs on%';
SELECT device_error($$SELECT predict('gpu', 1, 2, 3)$$);
SELECT device_error($$SELECT predict_batch('gpu', 1, 2, 3)$$);
SET pg_predict.device = 'cuda:99';
SELECT device_error($$SELECT predict('m', 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT count(*) FROM (SELECT predict('m', 1, 2, 3)) s WHERE false$$);
-- The session's word goes before the version's; auto falls back, and cpu is everywhere.
SET pg_predict.device = 'cpu';
SELECT predict('gpu', 1, 2, 3), predict('m', 1, 2, 3), predict('anywhere', 1, 2, 3);
SET pg_predict.device = 'auto';
SELECT predict('gpu', 1, 2, 3), predict('m', 1, 2, 3);
RESET pg_predict.device;
SELECT predict('anywhere', 1, 2, 3);

-- Other settings while a session goes on: each query takes them as they are.
SET pg_predict.threads = 2;
SELECT predict('m', 1, 2, 3), (predict_batch('m', g, 2, 3))::real[] FROM generate_series(1, 3) g;
SET pg_predict.threads = 0;
SET pg_predict.batch_size = 2;
SET pg_predict.enable_pipelining = off;
SELECT (predict_batch('m', g, 2, 3))::real[] FROM generate_series(1, 5) g;
RESET pg_predict.batch_size;
RESET pg_predict.enable_pipelining;
-- A cache that the model fits in, though it holds no two.
SET pg_predict.session_cache_size = '1MB';
SELECT predict('m', 1, 2, 3), predict('anywhere', 1, 2, 3);
SELECT predict('m', 2, 2, 3), predict('anywhere', 2, 2, 3);
RESET pg_predict.session_cache_size;

-- A library that is not there, or is none: an error that says so, in a session that has not loaded one; never a wait, never an end of the session.
\c -
SET search_path = test, public;
CREATE FUNCTION library_error(path text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE state text; message text; detail text; hint text;
BEGIN
    PERFORM set_config('pg_predict.onnxruntime_library', path, false);
    PERFORM predict('m', 1, 2, 3);
    RETURN 'loaded';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN format(E'%s: %s\nDETAIL given: %s\nHINT: %s', state, message, detail <> '', hint);
END $$;
SELECT library_error('/no/such/libonnxruntime.so');
SELECT library_error('/dev/null');
SELECT library_error('/etc/passwd');
SELECT library_error('libc.so.6');
SELECT library_error('/dev/zero');
-- A creation says the same.
SET pg_predict.onnxruntime_library = '/no/such/libonnxruntime.so';
SELECT left(a, 80) FROM attempt($$SELECT predict.create_model('n', test.model('one'))$$) a LIMIT 1;
-- With the right one, the session goes on.
RESET pg_predict.onnxruntime_library;
SELECT predict('m', 1, 2, 3);

SELECT count(predict.drop_model(name)) FROM (SELECT DISTINCT name FROM predict.models) n;
DROP ROLE pgp_nobody;
