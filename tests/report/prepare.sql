-- What the report's test looks at: a model of flights with versions, promotions, golden rows, a baseline and jobs, all of a role
-- that is no superuser; and models, columns, values and jobs whose names would be HTML if anybody took them for it.
--
--   psql -v models=DIR -f tests/report/prepare.sql      after models/sql/load.sql
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE ROLE analyst;
CREATE ROLE guest;
CREATE ROLE stranger;
-- As docs/exporter/README.md has it.
CREATE ROLE exporter IN ROLE pg_monitor;
GRANT analyst TO exporter;
GRANT ALL ON SCHEMA public TO analyst;
SELECT format('GRANT CREATE ON DATABASE %I TO analyst', current_database()) \gexec
GRANT SELECT ON ALL TABLES IN SCHEMA public TO analyst;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA predict TO analyst;
\set late `base64 < :'models'/late.onnx | tr -d '\n'`
\set credit_zipmap `base64 < :'models'/credit_zipmap.onnx | tr -d '\n'`
\set diamonds `base64 < :'models'/diamonds.onnx | tr -d '\n'`

SET ROLE analyst;
SELECT predict.create_model('late', decode(:'late', 'base64'));
SELECT predict.add_checks('late', 'SELECT * FROM flights WHERE id % 5000 = 0');
SELECT predict.create_model('late', decode(:'late', 'base64'), '{"threads": 2, "batch_size": 512}');
SELECT predict.check('late'), predict.check('late@2');
SELECT predict.set_alias('late', 'staging', 2);
SELECT predict.set_alias('late', 'default', 2);
SELECT predict.set_alias('late', 'default', 1);
SELECT predict.grant_usage('late', 'guest');
SELECT predict.set_baseline('late', 'SELECT * FROM flights WHERE month = 1');

-- A job whose source is found under its own search_path, and is read again when rows have changed.
CREATE SCHEMA operations;
SET search_path = operations, public;
CREATE TABLE july AS SELECT * FROM flights WHERE month = 7;
ALTER TABLE july ADD PRIMARY KEY (id);
SELECT predict.create_job('late flights', 'late', 'SELECT * FROM july', 'id', 'scores', '{"columns": {"late": "probabilities[2]", "label": "label"}, "skip_unchanged": true, "chunk_size": 5000}');
CALL predict.run_job('late flights');
UPDATE july SET sched_dep_time = sched_dep_time + 5 WHERE id % 2 = 0;
CALL predict.run_job('late flights');
UPDATE july SET distance = distance + 1 WHERE id % 5 = 0;
CALL predict.run_job('late flights');
UPDATE july SET sched_dep_time = sched_dep_time + 1 WHERE id % 3 = 0;
CALL predict.run_job('late flights');
UPDATE july SET distance = distance - 1 WHERE id % 10 = 0;
CALL predict.run_job('late flights');
-- And one in which some rows fail, and then too many.
CREATE TABLE december AS SELECT * FROM flights WHERE month = 12 AND day <= 2;
SELECT predict.create_job('december', 'late', 'december', 'id', 'december_scores', '{"columns": {"late": "probabilities[2]"}, "max_errors": 200, "chunk_size": 500}');
ALTER TABLE december_scores ADD CONSTRAINT "not <late>" CHECK (late < 0.3);
CALL predict.run_job('december');
ALTER TABLE december_scores ADD CONSTRAINT "not <late> & so on" CHECK (late < 0.2) NOT VALID;
\set ON_ERROR_STOP off
CALL predict.run_job('december');
\set ON_ERROR_STOP on
CALL predict.run_job('late flights');
RESET search_path;

-- A map's value in the target; outputs under their own names.
SELECT predict.create_model('credit_zipmap', decode(:'credit_zipmap', 'base64'));
SELECT predict.set_baseline('credit_zipmap', 'SELECT * FROM loans WHERE id % 2 = 0');
SELECT predict.create_job('risk', 'credit_zipmap', 'loans', 'id', 'risks', '{"columns": {"risk": "output_probability[1]"}}');
CALL predict.run_job('risk');
SELECT predict.create_model('diamonds', decode(:'diamonds', 'base64'));

-- Names that are no HTML.
\set hostile '<img src=x onerror=alert(1)>"''&amp;'
\set job '<script>alert(5)</script>'
SELECT predict.create_model(:'hostile', decode(:'late', 'base64'));
SELECT predict.set_alias(:'hostile', '<b>bold<b>', 1);
SELECT predict.create_model('stones <b>', decode(:'diamonds', 'base64'),
    '{"features": ["<script>alert(1)</script>", "\"><svg onload=alert(2)>", "c''d", "%s %I", "</style>", "</title>", "]]>", "--><!--", "&lt;"]}');
CREATE VIEW stones AS SELECT id, carat AS "<script>alert(1)</script>", cut_code AS """><svg onload=alert(2)>", color_code AS "c'd", clarity_code AS "%s %I", depth AS "</style>",
    table_width AS "</title>", x AS "]]>", y AS "--><!--", z AS "&lt;" FROM diamonds;
CREATE TABLE hostile AS SELECT id, month, day, sched_dep_time, sched_arr_time, distance, hour, origin, dest,
    CASE id % 3 WHEN 0 THEN '<script>alert(3)</script>' WHEN 1 THEN '"><img src=x onerror=alert(4)>' ELSE E'a\x01b\u202e&lt;' END AS carrier FROM flights WHERE id <= 2000;
SELECT predict.set_baseline(:'hostile', 'SELECT * FROM hostile');
SELECT predict.set_baseline('stones <b>', 'SELECT * FROM stones');
SELECT predict.add_checks(:'hostile', 'SELECT * FROM hostile WHERE id <= 10', '</td><script>alert(7)</script>');
SELECT predict.check(:'hostile');
SELECT predict.create_job(:'job', :'hostile', E'SELECT *, ''</code></pre><script>alert(6)</script>'' AS note FROM hostile -- LIMIT', 'id', '"</td>target"', '{"max_errors": 10}');
CALL predict.run_job(:'job');
ALTER TABLE "</td>target" ADD CONSTRAINT "<i onclick=alert(8)>" CHECK (id < 1500) NOT VALID;
\set ON_ERROR_STOP off
CALL predict.run_job(:'job');
