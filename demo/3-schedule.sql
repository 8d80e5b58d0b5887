-- Use (c), its beginning: a pg_cron job that scores new loan applications every five seconds. demo.sh waits for it, then
-- plays 4-scheduled.sql.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_cron;
SELECT to_regclass('applications') IS NOT NULL AS again \gset
\if :again
DELETE FROM applications;
\endif
SELECT (regexp_match(extversion, '^\d+\.\d+'))[1] AS pg_cron, string_to_array((regexp_match(extversion, '^\d+\.\d+'))[1], '.')::integer[] >= '{1,5}' AS has_seconds
FROM pg_extension WHERE extname = 'pg_cron' \gset
\echo
\echo '== (c) A job: new loan applications are scored every five seconds, by pg_cron'
\echo

\set ECHO queries
CREATE TABLE IF NOT EXISTS applications (
    LIKE loans INCLUDING INDEXES, arrived timestamptz DEFAULT clock_timestamp(), risk real, pass timestamptz, scored timestamptz
);
CREATE OR REPLACE PROCEDURE score_applications() LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz := clock_timestamp();
BEGIN
    UPDATE applications a SET risk = p.probabilities[2], pass = began, scored = clock_timestamp()
    FROM predictions((SELECT predict_batch('credit', n) FROM applications n WHERE n.risk IS NULL)) AS p(id integer, probabilities real[])
    WHERE a.id = p.id;
END $$;
\set ECHO none
-- Jobs of an earlier demo go on, but for those that another pg_cron or another place of the server has made wrong.
SELECT count(cron.unschedule(jobid)) FROM cron.job
WHERE jobname LIKE 'score new applications%' AND (nodename <> current_setting('cron.host') OR :'has_seconds' = (jobname LIKE '%, after %')) \g /dev/null
\if :has_seconds
\set ECHO queries
SELECT cron.schedule('score new applications', '5 seconds', 'CALL score_applications()');
\else
\echo
\echo 'This server has pg_cron' :pg_cron 'and a schedule of seconds came with 1.5 (''5 seconds''). So twelve jobs start each minute and wait for their turn:'
\echo
\set ECHO queries
SELECT count(cron.schedule('score new applications, after ' || s || ' s', '* * * * *', format('SELECT pg_sleep(%s); CALL score_applications()', s))) AS jobs
FROM generate_series(0, 55, 5) AS s;
\endif
\set ECHO none
\echo 'Applications arrive:'
\echo
\set ECHO queries
INSERT INTO applications SELECT * FROM loans WHERE id <= 1000;
