-- The loans, and a model of their risk: made anew under the name :name, without the job :job of an earlier run. :options are the model's.
\set models :root '/models'
\set load :models '/sql/load.sql'
\o /dev/null
\i :load
SELECT predict.drop_job(name) FROM predict.jobs WHERE name = :'job' AND owner = current_user;
SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models WHERE name = :'name') m;
\o
\set model `base64 < "$PG_PREDICT_MODELS"/credit.onnx | tr -d '\n'`
SELECT predict.create_model(:'name', decode(:'model', 'base64'), :'options') AS version;
