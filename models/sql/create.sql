-- Owns the models of models/: creates those that are not there yet. Their bytes go from psql to the server.
--
--   psql -v models=DIR [-v generated=DIR] -f models/sql/create.sql
--
-- models: the folder models/ of this repository. generated: the folder that models/recommender.py wrote (target/models);
-- without it the model recs is left out. Version 2 of recs is in that folder too: creating and promoting it is the reader's.
\set ON_ERROR_STOP on

SELECT NOT EXISTS (SELECT FROM predict.models WHERE name = 'late') AS missing \gset
\if :missing
\set model `base64 < :'models'/late.onnx | tr -d '\n'`
SELECT predict.create_model('late', decode(:'model', 'base64')) AS late;
\endif

SELECT NOT EXISTS (SELECT FROM predict.models WHERE name = 'credit') AS missing \gset
\if :missing
\set model `base64 < :'models'/credit.onnx | tr -d '\n'`
SELECT predict.create_model('credit', decode(:'model', 'base64')) AS credit;
\endif

SELECT NOT EXISTS (SELECT FROM predict.models WHERE name = 'credit_zipmap') AS missing \gset
\if :missing
\set model `base64 < :'models'/credit_zipmap.onnx | tr -d '\n'`
SELECT predict.create_model('credit_zipmap', decode(:'model', 'base64')) AS credit_zipmap;
\endif

SELECT NOT EXISTS (SELECT FROM predict.models WHERE name = 'diamonds') AS missing \gset
\if :missing
\set model `base64 < :'models'/diamonds.onnx | tr -d '\n'`
SELECT predict.create_model('diamonds', decode(:'model', 'base64'),
    '{"features": ["carat", "cut_code", "color_code", "clarity_code", "depth", "table_width", "x", "y", "z"]}') AS diamonds;
\endif

\if :{?generated}
SELECT NOT EXISTS (SELECT FROM predict.models WHERE name = 'recs') AS missing \gset
\if :missing
\set model `base64 < :'generated'/recs_v1.onnx | tr -d '\n'`
SELECT predict.create_model('recs', decode(:'model', 'base64')) AS recs;
\endif
\endif
