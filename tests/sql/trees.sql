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

-- Trees that are wrong are refused, or ONNX Runtime decides, in a process of its own. The backend survives each one.
CREATE TABLE wrong (pid int, name text, said text);
INSERT INTO wrong
SELECT pg_backend_pid(), name, (SELECT string_agg(a, ' ') FROM attempt(format('SELECT predict.create_model(%1$L, model(%1$L))', 'trees_' || name)) a)
FROM unnest('{missing_child,huge_child,two_parents,huge_feature,negative_count,huge_count,short,target_out_of_range,nan_weight,wrong_type,
              shared_numbers,huge_class,missing_root}'::text[]) AS name;
SELECT name, split_part(said, ':', 1) AS said, said ~ 'signal|process' AS crashed FROM wrong ORDER BY name;
SELECT count(*) FILTER (WHERE pid = pg_backend_pid()) AS survived, count(*) FROM wrong;
-- None of them is compiled, and what could be created answers or reports an error.
SELECT name, metadata->'compiled_trees' AS compiled FROM predict.models WHERE name ^@ 'trees_' ORDER BY name;
SELECT name, split_part((SELECT string_agg(a, ' ') FROM attempt(format('SELECT predict(%L, 1::real, 1::real)', name)) a), ':', 1) AS said
FROM predict.models WHERE name ^@ 'trees_' ORDER BY name;
SELECT predict('trees', 1::real, 1::real);
