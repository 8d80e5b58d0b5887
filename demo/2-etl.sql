-- Use (b): ETL. An upsert of scores into a table, run again after a new version of the model was promoted.
-- Needs the psql variable `generated`: the folder that models/recommender.py wrote.
\set ON_ERROR_STOP on
-- The demo can be played again: it begins without the model and its scores.
SET client_min_messages = warning;
DROP TABLE IF EXISTS recommendations;
SELECT predict.drop_model('recs') FROM predict.models WHERE name = 'recs' LIMIT 1 \g /dev/null
RESET client_min_messages;
SELECT count(*) AS scored FROM candidates \gset
\echo
\echo '== (b) ETL: what' :scored 'pairs of a user and a film are worth, kept in a table'
\echo
\set v1 `base64 < :'generated'/recs_v1.onnx | tr -d '\n'`
\set v2 `base64 < :'generated'/recs_v2.onnx | tr -d '\n'`
\echo 'SELECT predict.create_model(''recs'', <the bytes of recs_v1.onnx>) AS version;'
SELECT predict.create_model('recs', decode(:'v1', 'base64')) AS version;

\ir start.sql
CREATE TABLE recommendations (
    user_id integer, item_id integer, score real NOT NULL, version integer NOT NULL,
    PRIMARY KEY (user_id, item_id)
);
\set ECHO none
\set upsert 'INSERT INTO recommendations AS r (user_id, item_id, score, version)\nSELECT p.user_id, p.item_id, p.score, m.version\nFROM predictions((SELECT predict_batch(''recs'', c) FROM candidates c)) AS p(user_id integer, item_id integer, score real),\n     predict.models m WHERE m.name = ''recs'' AND ''default'' = ANY (m.aliases)\nON CONFLICT (user_id, item_id) DO UPDATE SET score = excluded.score, version = excluded.version\n    WHERE (r.score, r.version) IS DISTINCT FROM (excluded.score, excluded.version);'
\echo
\echo 'The first night:'
\echo
\ir start.sql
:upsert
\set ECHO none
\echo '  ' :ROW_COUNT 'rows were inserted'
\ir rate.sql
\ir start.sql
SELECT * FROM recommendations ORDER BY user_id, score DESC LIMIT 5;
\set ECHO none

\echo 'A better version is created, tried beside the old one, and promoted; a statement that is running keeps the old one:'
\echo
CREATE TEMP TABLE best AS SELECT DISTINCT ON (user_id) user_id, item_id FROM recommendations ORDER BY user_id, score DESC, item_id;
\echo 'SELECT predict.create_model(''recs'', <the bytes of recs_v2.onnx>) AS version;'
SELECT predict.create_model('recs', decode(:'v2', 'base64')) AS version;
\ir start.sql
SELECT r.user_id, r.item_id, r.rating, predict('recs@1', r.user_id, r.item_id) AS version_1, predict('recs@2', r.user_id, r.item_id) AS version_2
FROM ratings r ORDER BY r.id LIMIT 3;
SELECT predict.set_alias('recs', 'default', 2);
\set ECHO none
\echo 'The second night, the same statement:'
\echo
\ir start.sql
:upsert
\set ECHO none
\echo '  ' :ROW_COUNT 'rows changed'
\ir rate.sql
\ir start.sql
SELECT * FROM recommendations ORDER BY user_id, score DESC LIMIT 5;
\set ECHO none
SELECT count(*) AS users, count(*) FILTER (WHERE was.item_id <> now_is.item_id) AS "have another best film"
FROM best was JOIN (SELECT DISTINCT ON (user_id) user_id, item_id FROM recommendations ORDER BY user_id, score DESC, item_id) now_is USING (user_id);
