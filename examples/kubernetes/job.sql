-- The job that the manifests run.
\set schema example_kubernetes
\ir ../start.sql
\set models :root '/models'
\set load :models '/sql/load.sql'
\o /dev/null
\i :load
SELECT predict.drop_job(name) FROM predict.jobs WHERE name = 'nightly scores' AND owner = current_user;
SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'nightly') m;
\o
\set model `base64 < "$PG_PREDICT_MODELS"/credit.onnx | tr -d '\n'`
SELECT predict.create_model('nightly', decode(:'model', 'base64')) AS version;
CREATE VIEW applications AS SELECT * FROM loans;
SELECT predict.set_baseline('nightly', 'SELECT * FROM loans WHERE id % 2 = 0') AS baseline_rows;
SELECT predict.create_job('nightly scores', 'nightly', 'example_kubernetes.applications', 'id', 'example_kubernetes.scores', '{"columns": {"risk": "probabilities[2]"}, "skip_unchanged": true}');
