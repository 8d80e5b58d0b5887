-- registry: creating models and versions, aliases, what may be dropped, bytes stored once, and all of it in transactions.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

-- A first version, its alias and its facts.
SELECT predict.create_model('m', model('linear'));
SELECT name, version, aliases, owner, bytes = length(model('linear')) AS bytes, sha256 = encode(sha256(model('linear')), 'hex') AS sha256,
       verified, options, created_by FROM predict.models;
SELECT metadata->>'ir_version', metadata->'opsets', metadata->'operators', metadata->>'producer' FROM predict.models;
SELECT * FROM predict.model_inputs;
SELECT * FROM predict.model_outputs;
SELECT predict('m', 1, 2, 3);

-- A second version is not used before an alias names it.
SELECT predict.create_model('m', model('linear_next'));
SELECT name, version, aliases FROM predict.models ORDER BY 1, 2;
SELECT predict('m', 1, 2, 3), predict('m@1', 1, 2, 3), predict('m@2', 1, 2, 3), predict('m@default', 1, 2, 3);
SELECT predict.set_alias('m', 'staging', 2);
SELECT predict('m@staging', 1, 2, 3);
SELECT predict.set_alias('m', 'default', 2);
SELECT predict('m', 1, 2, 3);
SELECT name, version, aliases FROM predict.models ORDER BY 1, 2;
-- Back again.
SELECT predict.set_alias('m', 'default', 1);
SELECT predict('m', 1, 2, 3);

-- Aliases that cannot be.
SELECT * FROM attempt($$SELECT predict.set_alias('m', '1st', 1)$$);
SELECT * FROM attempt($$SELECT predict.set_alias('m', '', 1)$$);
SELECT * FROM attempt($$SELECT predict.set_alias('m', 'a/b', 1)$$);
SELECT * FROM attempt($$SELECT predict.set_alias('m', 'new', 3)$$);
SELECT * FROM attempt($$SELECT predict.set_alias('nobody', 'new', 1)$$);
SELECT * FROM attempt($$SELECT predict.set_alias('m', NULL, 1)$$);
SELECT * FROM attempt($$SELECT predict.set_alias('m', 'new', NULL)$$);
SELECT * FROM attempt($$SELECT predict.drop_alias('m', 'nobody')$$);
SELECT name, version, aliases FROM predict.models ORDER BY 1, 2;

-- A version that an alias names is not dropped.
SELECT * FROM attempt($$SELECT predict.drop_model('m', 2)$$);
SELECT predict.drop_alias('m', 'staging');
SELECT * FROM attempt($$SELECT predict('m@staging', 1, 2, 3)$$);
SELECT predict.drop_model('m', 2);
SELECT * FROM attempt($$SELECT predict('m@2', 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT predict.drop_model('m', 2)$$);
SELECT * FROM attempt($$SELECT predict.drop_model('m', 1)$$);
-- Numbers are not given twice.
SELECT predict.create_model('m', model('one'));
SELECT predict('m@3', 21);
-- Without its default, a model is used by number.
SELECT predict.drop_alias('m', 'default');
SELECT * FROM attempt($$SELECT predict('m', 1)$$);
SELECT predict('m@3', 21);
SELECT predict.drop_model('m', 1);
SELECT predict.set_alias('m', 'default', 3);

-- The whole model.
SELECT predict.drop_model('m');
SELECT count(*) FROM predict.models;
SELECT (SELECT count(*) FROM predict.content), (SELECT count(*) FROM predict.chunk), (SELECT count(*) FROM predict.model),
       (SELECT count(*) FROM predict.alias), (SELECT count(*) FROM predict.privilege);
SELECT * FROM attempt($$SELECT predict.drop_model('m')$$);
SELECT * FROM attempt($$SELECT predict('m', 1, 2, 3)$$);
-- Under the same name, another model: what the session remembers of the old one is not used.
SELECT predict.create_model('m', model('one'));
SELECT predict('m', 1);
SELECT predict.drop_model('m');

-- The same bytes are stored once.
SELECT predict.create_model('a', model('linear')), predict.create_model('b', model('linear')), predict.create_model('a', model('linear'), '{"batch_size": 2}');
SELECT count(*) FROM predict.content;
SELECT count(*) FROM predict.chunk;
SELECT name, version, batch_size, options FROM predict.models WHERE options <> '{}' ORDER BY 1, 2;
SELECT predict.drop_model('a', 2);
SELECT predict.drop_model('a');
SELECT count(*) FROM predict.content;
SELECT predict('b', 1, 2, 3);
SELECT predict.drop_model('b');
SELECT count(*) FROM predict.content;

-- A creation rolled back leaves nothing; what was made in this transaction can be used in it.
BEGIN;
SELECT predict.create_model('m', model('linear'));
SELECT predict('m', 1, 2, 3);
SELECT predict.create_model('m', model('linear_next'));
SELECT predict.set_alias('m', 'default', 2);
SELECT predict('m', 1, 2, 3);
SELECT (predict_batch('m@1', x, 2, 3) )::real[] FROM generate_series(1, 3) x;
ROLLBACK;
SELECT count(*) FROM predict.models;
SELECT (SELECT count(*) FROM predict.content), (SELECT count(*) FROM predict.chunk), (SELECT count(*) FROM predict.model), (SELECT count(*) FROM predict.privilege);
SELECT * FROM attempt($$SELECT predict('m', 1, 2, 3)$$);

-- After the rollback the numbers and the bytes may be other ones.
SELECT predict.create_model('m', model('one'));
SELECT predict('m', 4);
SELECT predict.drop_model('m');

-- Savepoints.
BEGIN;
SELECT predict.create_model('m', model('linear'));
SAVEPOINT one;
SELECT predict.create_model('m', model('linear_next'));
SELECT predict.set_alias('m', 'default', 2);
SELECT predict('m', 1, 2, 3);
ROLLBACK TO one;
SELECT predict('m', 1, 2, 3);
SELECT predict.create_model('m', model('one'));
SELECT predict.set_alias('m', 'default', 2);
SELECT predict('m', 21);
RELEASE one;
SAVEPOINT two;
SELECT predict.drop_model('m');
SELECT * FROM predict.models;
ROLLBACK TO two;
SELECT predict('m', 22);
COMMIT;
SELECT name, version, aliases, bytes = length(model('one')) AS one FROM predict.models ORDER BY 1, 2;
SELECT predict('m', 23), predict('m@1', 1, 2, 3);

-- A failed statement inside of a block does not spoil what follows it.
DO $$
BEGIN
    BEGIN
        PERFORM predict.create_model('m', test.model('unknown_operator'));
    EXCEPTION WHEN OTHERS THEN
        RAISE NOTICE 'refused: %', SQLERRM;
    END;
    RAISE NOTICE 'still: %', predict('m', 24);
END $$;

-- The creator and the owner are who calls; a name is given by rules.
SELECT a FROM unnest(ARRAY['', 'a@b', 'a/b', 'a[1]', ' a', 'a ', E'a\tb', repeat('x', 64), repeat('ü', 32)]) n,
     attempt(format('SELECT predict.create_model(%L, test.model(%L))', n, 'one')) a;
SELECT predict.create_model('Größe der Äpfel', model('one')), predict.create_model(repeat('x', 63), model('one'));
SELECT predict('Größe der Äpfel', 2), predict(repeat('x', 63) || '@1/y', 2);
SELECT * FROM attempt($$SELECT predict.create_model(NULL, test.model('one'))$$);
SELECT * FROM attempt($$SELECT predict.create_model('n', NULL)$$);
-- NULL options are none.
SELECT predict.create_model('n', model('one'), NULL);

-- Options.
SELECT o, a FROM unnest(ARRAY['[]', '3', '"{}"', 'null', 'true', '{"batchsize": 3}', '{"batch_size": 0}', '{"batch_size": "3"}', '{"batch_size": 1048577}', '{"threads": 257}',
                    '{"threads": -1}', '{"device": "gpu"}', '{"device": "cuda:x"}', '{"on_null": "nul"}', '{"features": []}', '{"features": ["a", "b"]}',
                    '{"features": "a"}', '{"defaults": {"z": 1}}', '{"defaults": {"x": "text"}}', '{"defaults": {"x": null}}', '{"defaults": {"x": 1e300}}',
                    '{"defaults": []}']) o,
     attempt(format('SELECT predict.create_model(%L, test.model(%L), %L)', 'o', 'one', o)) a;
SELECT * FROM attempt($$SELECT predict.create_model('o', test.model('named'), '{"features": ["a", "b", "c"]}')$$);
SELECT * FROM attempt($$SELECT predict.create_model('o', test.model('linear'), '{"features": ["a", "b", "a"]}')$$);
SELECT * FROM attempt($$SELECT predict.create_model('o', test.model('text'), '{"on_null": "nan"}')$$);
SELECT * FROM attempt($$SELECT predict.create_model('o', test.model('fixed8'), '{"batch_size": 4}')$$);
SELECT count(*) FROM predict.models WHERE name = 'o';

-- What is dumped with the extension.
SELECT c::regclass FROM unnest((SELECT extconfig FROM pg_extension WHERE extname = 'pg_predict')) c ORDER BY c::regclass::text;
-- What is stored is stored out of line and in pieces.
SELECT attstorage FROM pg_attribute WHERE attrelid = 'predict.chunk'::regclass AND attname = 'data';

SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models ORDER BY name) n;
SELECT (SELECT count(*) FROM predict.content), (SELECT count(*) FROM predict.chunk), (SELECT count(*) FROM predict.model);
