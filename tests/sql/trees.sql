-- Trees: tree ensembles run on the engine's kernels, with the answers of ONNX Runtime, NaN and NULL included.
\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

-- Which versions are compiled.
SELECT predict.create_model('trees', model('trees'));
SELECT predict.create_model('plain', model('trees'), '{"trees": "onnxruntime"}');
SELECT predict.create_model('nan', model('trees'), '{"on_null": "nan"}');
SELECT predict.create_model('labels', model('trees_labels'));
SELECT predict.create_model('plain_labels', model('trees_labels'), '{"trees": "onnxruntime"}');
SELECT name, metadata->'compiled_trees' AS compiled, options FROM predict.models ORDER BY name;

-- By hand: 0.5 and the weights of two leaves.
CREATE TABLE r (id int, x real[]);
INSERT INTO r VALUES (1, '{1, 1}'), (2, '{1, 2}'), (3, '{1.0000001, 2}'), (4, '{0, -1}'), (5, '{0, -0}'), (6, '{NaN, 5}'),
                     (7, '{5, NaN}'), (8, '{NaN, NaN}'), (9, '{-Infinity, Infinity}'), (10, '{1e-40, -1e-40}');
SELECT id, x, predict('trees', x), predict('plain', x), predict_text('labels', x), predict_array('labels/scores', x) FROM r ORDER BY id;
SELECT (predict_batch('trees', x ORDER BY id))::real[] FROM r;
SELECT (predict_batch('labels', x ORDER BY id))::text[] FROM r;

-- NULL: no prediction, or NaN.
SELECT predict('trees', NULL::real, 5::real) IS NULL, predict('nan', NULL::real, 5::real), predict('nan', 5::real, NULL::real);

-- Many rows, in batches of every size: not one differs.
CREATE TABLE many AS SELECT n AS id, ARRAY[sin(n) * 3, cos(n * 7) * 3]::real[] AS x FROM generate_series(1, 10000) n;
SELECT count(*) FROM many WHERE predict('trees', x) IS DISTINCT FROM predict('plain', x);
SELECT count(*) FROM many WHERE predict_text('labels', x) IS DISTINCT FROM predict_text('plain_labels', x);
SELECT count(*) FROM many WHERE predict_array('labels/scores', x) IS DISTINCT FROM predict_array('plain_labels/scores', x);
SET pg_predict.batch_size = 3;
SELECT count(*) FROM many WHERE predict('trees', x) IS DISTINCT FROM predict('plain', x);
RESET pg_predict.batch_size;
SET pg_predict.isolation = 'backend';
SELECT count(*) FROM many WHERE predict('trees', x) IS DISTINCT FROM predict('plain', x);
SELECT count(*) FROM many WHERE predict_text('labels', x) IS DISTINCT FROM predict_text('plain_labels', x);
RESET pg_predict.isolation;

-- Refused: a tree with a cycle, a value that is none of the option's, an input that is too narrow.
SELECT attempt($$SELECT predict.create_model('cycle', model('trees_cycle'))$$);
SELECT attempt($$SELECT predict.create_model('bad', model('trees'), '{"trees": "fast"}')$$);
SELECT attempt($$SELECT predict('trees', ARRAY[1]::real[])$$);
