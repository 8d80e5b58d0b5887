-- bad_models: bytes that are no model, models that must not be loaded or cannot be, and stored bytes that were damaged: each a clear error.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

-- attempt_model says how a creation fails, without what only ONNX Runtime or the decoder words.
CREATE FUNCTION attempt_model(bytes bytea, options jsonb DEFAULT '{}') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE state text; message text; hint text;
BEGIN
    PERFORM predict.create_model('bad', bytes, options);
    RETURN NEXT 'created';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN NEXT format('%s: %s', state, message);
    IF hint <> '' THEN RETURN NEXT 'HINT: ' || hint; END IF;
END $$;

-- No model: nothing, words, another file, a head without the rest.
SELECT attempt_model('');
SELECT attempt_model('hello, world');
SELECT attempt_model('\x00');
SELECT attempt_model(decode(repeat('ff', 1000), 'hex'));
SELECT attempt_model('\x89504e470d0a1a0a0000000d49484452');
SELECT attempt_model(convert_to('{"this": "is JSON"}', 'UTF8'));
-- Random bytes: never a model, always the same error.
SELECT result, count(*) FROM generate_series(1, 20) g, attempt_model((SELECT string_agg(sha512((g || '.' || i)::bytea), '') FROM generate_series(1, 20) i)) result GROUP BY 1 ORDER BY 1;
-- Truncated everywhere: either no model or one that cannot be loaded; nothing is stored.
SELECT count(*) AS tried, count(*) FILTER (WHERE result = 'created') AS created, count(*) FILTER (WHERE result !~ '^(22023|0A000|created|38000|HINT)') AS otherwise
  FROM generate_series(0, length(model('linear')) - 1, 17) cut, attempt_model(substr(model('linear'), 1, cut)) result;
-- One bit turned over, all through the file: refused or, where it hit a name or a weight, created; never anything worse.
SELECT count(DISTINCT bit) AS tried, count(*) FILTER (WHERE result !~ '^(22023|0A000|38000|54000|53400|created|HINT)') AS otherwise
  FROM generate_series(0, length(model('linear')) * 8 - 1, 67) bit, attempt_model(set_bit(model('linear'), bit, 1 - get_bit(model('linear'), bit))) result;
SELECT count(predict.drop_model(name)) <= 1 FROM (SELECT DISTINCT name FROM predict.models) n;

-- Operators and opsets that there are not.
SELECT attempt_model(model('unknown_operator'));
SELECT attempt_model(model('unknown_domain'));
SELECT attempt_model(model('future_opset'));
-- Weights outside the file, openly and in disguise.
SELECT attempt_model(model('external'));
SELECT attempt_model(model('external_climbs'));
SELECT attempt_model(model('external_memory'));
SELECT attempt_model(model('external_nested'));
-- No row by row, which a model is told of: no batch axis, no input, a batch summed up. None of them is refused.
SELECT attempt_model(model('no_batch'));
SELECT attempt_model(model('no_input'));
SELECT attempt_model(model('sums_batch'));
SELECT predict_json('bad@1', ARRAY[1, 2, 3]), predict_json('bad@2', ROW()), predict_json('bad@2', ROW(7)), (predict_batch('bad@3', ARRAY[g, 10 * g]))::jsonb FROM generate_series(1, 2) g GROUP BY g ORDER BY g;
SELECT predict.drop_model('bad');
-- More elements in a row than an array has, and empty arrays without end.
SELECT attempt_model(model('huge_row'));
SELECT attempt_model(model('empty_arrays'));
SELECT attempt_model(model('empty_rows'));
SELECT predict_json('bad', '{}'::real[], '{3,0}'::bigint[]);
SELECT predict_json('bad', '{}'::real[], '{2147483647,0}'::bigint[]);
SELECT predict.drop_model('bad');
-- Gigabytes at load, and no end: limits of the process that tries the model end it.
SET pg_predict.validation_memory_limit = '1GB';
SELECT attempt_model(model('gigabytes'));
RESET pg_predict.validation_memory_limit;
SET pg_predict.validation_timeout = '1s';
SELECT attempt_model(model('endless'));
RESET pg_predict.validation_timeout;
SET statement_timeout = '500ms';
SELECT predict.create_model('bad', model('endless'));
RESET statement_timeout;
-- Nothing of all that is left.
SELECT (SELECT count(*) FROM predict.model), (SELECT count(*) FROM predict.version), (SELECT count(*) FROM predict.content), (SELECT count(*) FROM predict.chunk), (SELECT count(*) FROM predict.alias), (SELECT count(*) FROM predict.privilege);

-- A model whose answers depend on the batch: created with a warning, and run row by row.
SELECT predict.create_model('centred', model('centred'));
SELECT batch_size FROM predict.models WHERE name = 'centred';
SELECT (predict_batch('centred', g))::real[] FROM generate_series(1, 3) g;

-- A label that is not UTF-8: told at creation where the trial meets it, else of the row that gets it.
SELECT attempt_model(model('latin_key'));
SELECT predict.create_model('latin', model('latin_label')), predict.create_model('lenient', model('latin_label'), '{"on_error": "null"}');
SELECT predict_text('latin', 1), predict_text('latin', 2);
SELECT * FROM attempt($$SELECT predict_text('latin', 1000003)$$);
SELECT * FROM attempt($$SELECT predict_batch('latin', c) FROM (VALUES (1), (1000003), (2)) v(c)$$);
-- A label with a zero byte, which no text holds.
SELECT attempt_model(model('zero_key'));
SELECT predict.create_model('zero', model('zero_label')), predict.create_model('zero_lenient', model('zero_label'), '{"on_error": "null"}');
SELECT predict_text('zero', 1), predict_text('zero', 2);
SELECT * FROM attempt($$SELECT predict_json('zero', 1000003)$$);
SELECT * FROM attempt($$SELECT count(predict_text('zero', c)) FROM (VALUES (1), (1000003), (2)) v(c)$$);
SELECT p.* FROM predictions((SELECT predict_batch('zero_lenient', c) FROM (VALUES (1), (1000003), (2)) v(c))) AS p(label text);
SELECT (predict_batch('lenient', c ORDER BY c))::text[] FROM (VALUES (1), (1000003), (2)) v(c);

-- Stored bytes that were damaged are noticed before they are used: in a session that has not loaded the model.
SELECT predict.create_model('m', model('linear')), predict.create_model('whole', model('one'));
UPDATE predict.chunk SET data = set_byte(data, length(data) / 2, get_byte(data, length(data) / 2) # 1) WHERE hash = sha256(model('linear'));
SELECT * FROM attempt($$SELECT predict('m', 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT predict_batch('m', 1, 2, 3)$$);
DELETE FROM predict.chunk WHERE hash = sha256(model('linear'));
SELECT left(a, 80) FROM attempt($$SELECT predict('m', 1, 2, 3)$$) a LIMIT 1;
SELECT predict('whole', 3);
-- Put back, it works.
INSERT INTO predict.chunk VALUES (sha256(model('linear')), 0, model('linear'));
SELECT predict('m', 1, 2, 3);
SELECT count(predict.drop_model(name)) FROM (SELECT DISTINCT name FROM predict.models) n;
