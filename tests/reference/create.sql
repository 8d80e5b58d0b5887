-- Creates one model from a file on the client: psql -v name=NAME -v file=PATH -v options=JSON -f tests/reference/create.sql
\set ON_ERROR_STOP on
\set model `base64 < :'file' | tr -d '\n'`
SELECT predict.create_model(:'name', decode(:'model', 'base64'), :'options'::jsonb) AS :"name";
