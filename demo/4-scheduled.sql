-- Use (c), its end: what the job did, in the table that it fills and in pg_cron's own log.
\set ON_ERROR_STOP on
\set ECHO queries
SELECT id, funded_amnt, term, sub_grade, round(risk::numeric, 3) AS risk, scored - arrived AS after
FROM applications ORDER BY risk DESC, id LIMIT 5;
SELECT pass::time(0) AS pass, count(*) AS scored, round(count(*) / extract(epoch FROM max(scored) - pass)) AS rows_per_second
FROM applications GROUP BY pass ORDER BY pass;
SELECT runid, status, return_message, start_time::time(0) AS started, end_time::time(0) AS ended, command
FROM cron.job_run_details WHERE command LIKE '%score_applications%' AND start_time > pg_postmaster_start_time() AND end_time IS NOT NULL ORDER BY end_time DESC LIMIT 5;
