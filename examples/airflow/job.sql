-- The job that the DAG runs.
\set schema example_airflow
\ir ../start.sql
\set name example_airflow
\set job 'example airflow'
\set options '{}'
\ir ../credit.sql
CREATE TABLE applications AS SELECT * FROM loans;
ALTER TABLE applications ADD PRIMARY KEY (id);
SELECT predict.set_baseline('example_airflow', 'SELECT * FROM applications') AS baseline_rows;
SELECT predict.create_job('example airflow', 'example_airflow', 'example_airflow.applications', 'id', 'example_airflow.scores', '{"columns": {"risk": "probabilities[2]"}, "skip_unchanged": true}');
