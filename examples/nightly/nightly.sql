-- A nightly job: pg_cron runs it, it scores what is new or changed, commits as it goes, and says what it did.
--
--   psql -v root=REPOSITORY -f examples/nightly/nightly.sql
--
-- Needs pg_cron in this database. Here the job runs each minute, so that one need not wait for the night.
\set schema example_nightly
\ir ../start.sql
CREATE EXTENSION IF NOT EXISTS pg_cron;
\set name example_risk
\set job 'example nightly'
\set options '{}'
SELECT cron.unschedule(jobname::text) FROM cron.job WHERE jobname = 'example nightly';
\ir ../credit.sql

-- The job: every loan by its key, its risk into a table that is made for it, unchanged loans left alone.
SELECT predict.create_job('example nightly', 'example_risk', 'loans', 'id', 'example_nightly.risk',
    '{"columns": {"risk": "probabilities[2]"}, "skip_unchanged": true, "delete_missing": true, "chunk_size": 2000}');
-- At three in the morning this would be '0 3 * * *'.
SELECT cron.schedule('example nightly', '* * * * *', $$CALL predict.run_job('example nightly')$$) AS scheduled;

DO $$
BEGIN
    FOR second IN 1..130 LOOP
        EXIT WHEN EXISTS (SELECT FROM predict.job_runs WHERE job = 'example nightly' AND status = 'succeeded');
        PERFORM pg_sleep(1);
    END LOOP;
END $$;
SELECT cron.unschedule('example nightly') AS unscheduled;
SELECT status, chunks, rows, scored, skipped, failed FROM predict.job_runs WHERE job = 'example nightly' ORDER BY run;
SELECT * FROM risk ORDER BY risk DESC LIMIT 3;

-- The day goes on: some loans change, some are paid back. The next run scores those that changed.
UPDATE loans SET int_rate = int_rate + 1 WHERE id <= 100;
DELETE FROM loans WHERE id > 9800;
CALL predict.run_job('example nightly');
SELECT status, chunks, rows, scored, skipped, deleted FROM predict.job_runs WHERE job = 'example nightly' ORDER BY run DESC LIMIT 1;

-- The promise: every loan has its risk once, and it is what the model says now.
DO $$
BEGIN
    ASSERT (SELECT count(*) = 9800 AND count(*) = count(DISTINCT r.id) FROM risk r), 'every loan is scored once';
    ASSERT (SELECT count(*) = 9800 FROM risk r JOIN loans l USING (id) WHERE abs(r.risk - predict('example_risk/probabilities[2]', l)) < 1e-5), 'as the model says';
    ASSERT (SELECT (scored, skipped, deleted) = (100, 9700, 57) FROM predict.job_runs WHERE job = 'example nightly' ORDER BY run DESC LIMIT 1), 'only what changed is scored again';
    ASSERT (SELECT bool_and(status = 'succeeded') FROM predict.job_runs WHERE job = 'example nightly'), 'pg_cron ran it';
END $$;
SELECT predict.drop_job('example nightly');
