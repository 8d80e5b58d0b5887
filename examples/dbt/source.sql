-- What the warehouse has before dbt comes: ratings and films as tables, and the model.
\set schema example_dbt_source
\ir ../start.sql
DROP SCHEMA IF EXISTS example_dbt CASCADE;
\set name example_dbt
\ir ../films.sql
-- A hundred users, so that the example is over soon.
DELETE FROM ratings WHERE user_id > 100;
ANALYZE;
