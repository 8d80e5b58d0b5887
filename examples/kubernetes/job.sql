-- The job that the manifests run.
\set schema example_kubernetes
\ir ../start.sql
\set name nightly
\set job 'nightly scores'
\set options '{}'
\ir ../credit.sql
CREATE VIEW applications AS SELECT * FROM loans;
SELECT predict.set_baseline('nightly', 'SELECT * FROM loans WHERE id % 2 = 0') AS baseline_rows;
SELECT predict.create_job('nightly scores', 'nightly', 'example_kubernetes.applications', 'id', 'example_kubernetes.scores', '{"columns": {"risk": "probabilities[2]"}, "skip_unchanged": true}');
