-- tensors: tensors of any rank and type, wherever the batch is; models without one; rows of any shape; bytes as elements.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

-- A batch on another axis, in and out; a state that is the same for every row.
SELECT predict.create_model('state', model('state')), predict.create_model('stateless', model('state'), '{"constants": {"h0": 0}}'),
       predict.create_model('started', model('state'), '{"constants": {"h0": [[10, 20]]}}');
SELECT name, row_shape, declared_shape FROM predict.model_inputs WHERE model = 'state' ORDER BY position;
SELECT name, row_shape, declared_shape FROM predict.model_outputs WHERE model = 'state' ORDER BY position;
SELECT p.* FROM predictions((SELECT predict_batch('state', ARRAY[g, g * 2], ARRAY[ARRAY[100 * g, 0]] ORDER BY g) FROM generate_series(1, 4) g)) AS p(y real[], hn real[]);
SELECT p.* FROM predictions((SELECT predict_batch('stateless', ARRAY[g, g * 2] ORDER BY g) FROM generate_series(1, 3) g)) AS p(y real[], hn real[]);
SELECT p.* FROM predictions((SELECT predict_batch('started', ARRAY[g, g * 2] ORDER BY g) FROM generate_series(1, 3) g)) AS p(y real[], hn real[]);
SELECT predict_json('state', ARRAY[1, 2], ARRAY[3, 4]), predict_array('started/hn', ARRAY[1, 1]);

-- A scalar for all rows, and an output that has nothing to do with rows.
SELECT predict.create_model('rate', model('rate'), '{"constants": {"rate": 1.5}}');
SELECT p.* FROM predictions((SELECT predict_batch('rate', ARRAY[g, 10 * g] ORDER BY g) FROM generate_series(1, 3) g)) AS p(y real[], classes real[]);
SELECT o, a FROM unnest(ARRAY['{"constants": {"rat": 1}}', '{"constants": {"rate": "a"}}', '{"constants": {"rate": [1, 2]}}', '{"constants": {"x": [[1], [2, 3]]}}', '{"constants": 3}']) WITH ORDINALITY u(o, n),
  attempt(format('SELECT predict.create_model(''no'', test.model(''rate''), %L)', o)) a ORDER BY n;
-- The scalar from the row: rows with the same value share a batch, and each gets its own.
SELECT predict.create_model('shared', model('rate'));
SELECT g, predict_array('shared/y', ARRAY[g, 10 * g]::real[], g % 3) FROM generate_series(1, 7) g ORDER BY g;
SELECT p.* FROM predictions((SELECT predict_batch('shared', ARRAY[g, 10 * g]::real[], (g % 3)::real ORDER BY g) FROM generate_series(1, 7) g)) AS p(y real[], classes real[]);

-- Without a batch axis a row is one whole run, found out or told.
SELECT predict.create_model('nonzero', model('nonzero'), '{"batch": "none"}'), predict.create_model('found', model('nonzero')), predict.create_model('still', model('rate'), '{"batch": "none"}');
SELECT name, batch_size FROM predict.models WHERE name IN ('nonzero', 'found', 'still') ORDER BY name;
SELECT predict_json('nonzero', '{{0,1,0},{2,0,3}}'::real[]), predict_array('found', '{{0,1,0},{2,0,3}}'::real[]), predict_array('nonzero', '{0,0,0,0,0,0}'::real[]);
SELECT p.* FROM predictions((SELECT predict_batch('nonzero', array_fill(g::real, ARRAY[2, 3]) ORDER BY g) FROM generate_series(0, 2) g)) AS p(places bigint[]);
SELECT (predict_batch('nonzero', array_fill(1::real, ARRAY[2, 3])))::bigint[] FROM generate_series(1, 2);
SELECT * FROM attempt($$SELECT predict_batch('nonzero', array_fill(g::real, ARRAY[2, 3]))::bigint[] FROM generate_series(0, 1) g$$);
SELECT predict('nonzero/places[2]', array_fill(1::real, ARRAY[2, 3])), predict('nonzero/places[99]', array_fill(1::real, ARRAY[2, 3])) IS NULL AS missing;
SELECT predict_json('still', '{{1,2},{3,4},{5,6}}'::real[], 2::real);

-- Rows of any length: those of like shape run together, or all are padded.
SELECT predict.create_model('ragged', model('ragged')), predict.create_model('padded', model('ragged'), '{"pad": {"x": 100}}'), predict.create_model('zeros', model('ragged'), '{"pad": {"x": 0}}');
SELECT p.* FROM predictions((SELECT predict_batch('ragged', array_fill(g::real, ARRAY[1 + g % 3]) ORDER BY g) FROM generate_series(1, 7) g)) AS p(twice real[], total real);
SELECT p.* FROM predictions((SELECT predict_batch('padded', array_fill(g::real, ARRAY[1 + g % 3]) ORDER BY g) FROM generate_series(1, 7) g)) AS p(twice real[], total real);
SELECT count(*), count(*) FILTER (WHERE p.total = p.id * (1 + p.id % 50)), min(array_length(p.twice, 1)) FILTER (WHERE p.id = 49)
  FROM predictions((SELECT predict_batch('ragged', r) FROM (SELECT g AS id, array_fill(g::real, ARRAY[1 + g % 50]) AS x FROM generate_series(1, 5000) g) r)) AS p(id int, total float8, twice real[]);
SELECT count(*), count(*) FILTER (WHERE p.total = p.id * (1 + p.id % 50))
  FROM predictions((SELECT predict_batch('zeros', r) FROM (SELECT g AS id, array_fill(g::real, ARRAY[1 + g % 50]) AS x FROM generate_series(1, 5000) g) r)) AS p(id int, total float8);
SELECT o, a FROM unnest(ARRAY['{"pad": {"y": 0}}', '{"pad": {"x": "a"}}', '{"pad": {"x": 0}, "batch": "none"}', '{"pad": []}']) WITH ORDINALITY u(o, n),
  attempt(format('SELECT predict.create_model(''no'', test.model(''ragged''), %L)', o)) a ORDER BY n;

-- Seven dimensions are one more than PostgreSQL's arrays have.
SELECT predict.create_model('rank7', model('rank7')), predict.create_model('whole7', model('rank7'), '{"batch": "none"}');
SELECT predict_json('rank7', ARRAY[1, 2, 3, 4]), predict_array('rank7/y[3]', ARRAY[1, 2, 3, 4]);
SELECT p.* FROM predictions((SELECT predict_batch('rank7', ARRAY[1, 2, 3, 4]::smallint[]))) AS p(y jsonb);
SELECT p.y FROM predictions((SELECT predict_batch('rank7', '{1,2,3,4}'::real[]))) AS p(y jsonb);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('rank7', '{1,2,3,4}'::real[]))) AS p(y real[])$$);
SELECT * FROM attempt($$SELECT predict_array('rank7', '{1,2,3,4}'::real[])$$);

-- Sequences are JSON.
SELECT predict.create_model('pieces', model('pieces'), '{"batch": "none"}');
SELECT name, type FROM predict.model_outputs WHERE model = 'pieces';
SELECT predict_json('pieces', '{{1,NaN},{Infinity,-Infinity}}'::real[]);
SELECT p.* FROM predictions((SELECT predict_batch('pieces', array_fill(g::real, ARRAY[2, 2]) ORDER BY g) FROM generate_series(1, 2) g)) AS p(parts jsonb);
SELECT (predict_batch('pieces', array_fill(g::real, ARRAY[2, 2]) ORDER BY g))::text::prediction_batch::jsonb FROM generate_series(1, 2) g;
SELECT o, a FROM unnest(ARRAY['predict', 'predict_text', 'predict_array']) WITH ORDINALITY u(o, n), attempt(format('SELECT %I(''pieces'', ''{{1,2},{3,4}}''::real[])', o)) a ORDER BY n;

-- 16 bits, and integers beyond bigint.
SELECT predict.create_model('narrow', model('narrow')), predict.create_model('half', model('half'));
SELECT p.* FROM predictions((SELECT predict_batch('narrow', '{1.5,65504}'::real[], '{1.5,-3e38}'::float8[], '{0,18446744073709551615}'::numeric[]))) AS p(h2 real[], b2 real[], u2 numeric[]);
SELECT predict('half', 0.1), predict('half', 7), predict('half', 2.5::numeric), predict_json('narrow', '{NaN,Infinity}'::real[], '{-0,1}'::int[], '{1,2}'::bigint[]);
SELECT * FROM attempt($$SELECT predict('half', 70000::real)$$);
SELECT * FROM attempt($$SELECT predict_json('narrow', '{1,2}'::real[], '{1,2}'::real[], '{1,18446744073709551616}'::numeric[])$$);
SELECT * FROM attempt($$SELECT predict_json('narrow', '{1,2}'::real[], '{1,2}'::real[], '{1,0.5}'::numeric[])$$);

-- A bytea holds the elements, little-endian; also where the length of a row is open.
SELECT predict.create_model('linear', model('linear'));
SELECT predict('linear', '\x0000803f0000004000004040'::bytea), predict('linear', ARRAY[1, 2, 3]), predict_array('ragged', '\x0000803f00000040'::bytea);
SELECT predict('half', '\x003c'::bytea), predict_json('narrow', '\x003c003c'::bytea, '\x803f803f'::bytea, '\x0100000000000000ffffffffffffffff'::bytea);
CREATE TABLE stored (id int, x bytea);
ALTER TABLE stored ALTER x SET STORAGE EXTERNAL;
INSERT INTO stored SELECT g, string_agg('\x0000803f'::bytea, '') FROM generate_series(1, 2) g, generate_series(1, 20000 * g) GROUP BY g;
SELECT p.* FROM predictions((SELECT predict_batch('ragged', s) FROM stored s)) AS p(id int, total real);
SELECT x, a FROM unnest(ARRAY['', '0000803f', '0000803f000000400000', '0000803f000000400000404000008040']) WITH ORDINALITY u(x, n),
  attempt(format('SELECT predict(''linear'', ''\x%s''::bytea)', x)) a ORDER BY n;
SELECT predict('linear', NULL::bytea) IS NULL AS "null";
SELECT * FROM attempt($$SELECT predict('linear', 1, 2, '\x0000803f'::bytea)$$);

-- The shape of a row, or all elements in one dimension; dimensions of one change nothing.
SELECT predict.create_model('grid', model('grid'));
SELECT predict_json('grid', '{{1,2,3},{4,5,6}}'::real[]) = predict_json('grid', '{1,2,3,4,5,6}'::real[]) AND predict_json('grid', '{{{1,2,3},{4,5,6}}}'::real[]) = predict_json('grid', '{1,2,3,4,5,6}'::real[]) AS same;
SELECT x, a FROM unnest(ARRAY['{{1,2},{3,4},{5,6}}', '{{1,2,3}}', '{1,2,3,4,5}', '{}', '{{1,2,3},{4,5,NULL}}']) WITH ORDINALITY u(x, n),
  attempt(format('SELECT predict_json(''grid'', %L::real[])', x)) a ORDER BY n;

-- A shape that the model leaves open can be told.
SELECT predict.create_model('told_shape', model('ragged'), '{"shapes": {"x": [2]}}'), predict.create_model('still_open', model('ragged'), '{"shapes": {"x": [null]}}');
SELECT name, row_shape FROM predict.model_inputs WHERE model IN ('told_shape', 'still_open') ORDER BY model;
SELECT predict_json('told_shape', 1, 2), predict_json('told_shape', '\x0000803f00000040'::bytea), predict_json('still_open', '{1,2,3}'::real[]);
SELECT * FROM attempt($$SELECT predict_json('told_shape', '{1,2,3}'::real[])$$);
SELECT o, a FROM unnest(ARRAY['{"shapes": {"y": [1]}}', '{"shapes": {"x": [1, 2]}}', '{"shapes": {"x": [-1]}}', '{"shapes": {"x": 2}}']) WITH ORDINALITY u(o, n),
  attempt(format('SELECT predict.create_model(''no'', test.model(''ragged''), %L)', o)) a ORDER BY n;
SELECT * FROM attempt($$SELECT predict.create_model('no', test.model('linear'), '{"shapes": {"x": [4]}}')$$);

-- Names of features that the file holds.
SELECT predict.create_model('told', model('told')), predict.create_model('named', model('told'), '{"features": ["a", "b", "c"]}');
SELECT name, options FROM predict.models WHERE name IN ('told', 'named') ORDER BY 1;
SELECT p.* FROM predictions((SELECT predict_batch('told', c) FROM (VALUES (1, 0.5, 3, 2), (2, 1, 0, 0)) AS c(id, "Debt Ratio", age, income))) AS p(id int, y real);

-- Constants, options and shapes go through text, a table and a dump's casts.
CREATE TABLE kept AS SELECT predict_batch('ragged', array_fill(g::real, ARRAY[1 + g % 3]) ORDER BY g) AS batch FROM generate_series(1, 4) g;
SELECT p.* FROM kept, predictions(batch) AS p(twice real[], total real);
SELECT batch::text = batch::text::prediction_batch::text AS same, p.* FROM kept, predictions(batch::text::prediction_batch) AS p(twice real[], total real);

-- The description of a model ends with a call that runs.
SELECT regexp_replace(predict.describe(m), '\d+ rows', 'N rows') FROM unnest(ARRAY['told', 'rank7', 'nonzero']) m;
DO $$
DECLARE
    name text;
    statement text;
BEGIN
    FOR name IN SELECT DISTINCT m.name FROM predict.models m ORDER BY 1 LOOP
        statement := predict.describe(name);
        EXECUTE statement;
    END LOOP;
END $$;
