-- The job that the DAG runs.
\set schema example_airflow
\ir ../start.sql
\set models :root '/models'
\set load :models '/sql/load.sql'
\o /dev/null
\i :load
SELECT predict.drop_job(name) FROM predict.jobs WHERE name = 'example airflow' AND owner = current_user;
SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'example_airflow') m;
\o
\set model `base64 < "$PG_PREDICT_MODELS"/credit.onnx | tr -d '\n'`
SELECT predict.create_model('example_airflow', decode(:'model', 'base64')) AS version;
CREATE TABLE applications AS SELECT * FROM loans;
ALTER TABLE applications ADD PRIMARY KEY (id);
SELECT predict.set_baseline('example_airflow', 'SELECT * FROM applications') AS baseline_rows;
SELECT predict.create_job('example airflow', 'example_airflow', 'example_airflow.applications', 'id', 'example_airflow.scores', '{"columns": {"risk": "probabilities[2]"}, "skip_unchanged": true}');
