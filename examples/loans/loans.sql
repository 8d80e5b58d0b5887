-- Loan applications of a business day: each hour a job scores those that have come in, and a decision with its reason is written down.
--
--   psql -v root=REPOSITORY -f examples/loans/loans.sql
\set schema example_loans
\ir ../start.sql
\set name example_credit
\set job 'example applications'
-- An application without an income is not guessed at: its risk is NULL.
\set options '{"on_null": "null"}'
\ir ../credit.sql

-- Applications as they come in. What the model takes is in them; how a loan will go is not.
CREATE TABLE applications (LIKE loans, received timestamptz NOT NULL);
ALTER TABLE applications DROP COLUMN class, ALTER annual_inc DROP NOT NULL, ADD PRIMARY KEY (id);
SELECT predict.create_job('example applications', 'example_credit', 'applications', 'id', 'example_loans.risks',
    '{"columns": {"risk": "probabilities[2]"}, "skip_unchanged": true, "max_errors": 10, "chunk_size": 1000}');

-- Why a risk is high: how much lower it would be if one thing were as it is for most. One run of the model for all variants of all rows.
CREATE VIEW variants AS
SELECT a.*, v.reason FROM applications a, LATERAL (VALUES
    (NULL), ('the interest rate'), ('the term'), ('the grade'), ('the income')) v(reason);
CREATE VIEW features AS
SELECT id, reason, funded_amnt, CASE reason WHEN 'the term' THEN 'term_36' ELSE term END AS term,
       CASE reason WHEN 'the interest rate' THEN 11.5 ELSE int_rate END AS int_rate, CASE reason WHEN 'the grade' THEN 'B3' ELSE sub_grade END AS sub_grade,
       addr_state, verification_status, CASE reason WHEN 'the income' THEN 75000 ELSE annual_inc END AS annual_inc, emp_length, delinq_2yrs, inq_last_6mths, revol_util,
       acc_now_delinq, open_il_6m, open_il_12m, open_il_24m, total_bal_il, all_util, inq_fi, inq_last_12m, delinq_amnt, num_il_tl, total_il_high_credit_limit
  FROM variants;
CREATE TABLE decisions (id integer PRIMARY KEY REFERENCES applications, decision text NOT NULL, risk real, reason text NOT NULL, decided timestamptz NOT NULL DEFAULT now());

CREATE PROCEDURE decide() LANGUAGE sql AS $$
INSERT INTO decisions (id, decision, risk, reason)
SELECT a.id,
       CASE WHEN r.risk IS NULL THEN 'ask' WHEN r.risk < 0.4 THEN 'grant' WHEN r.risk < 0.6 THEN 'look at' ELSE 'refuse' END,
       r.risk,
       CASE WHEN r.risk IS NULL THEN 'something is missing' WHEN r.risk < 0.4 THEN 'the risk is low'
            ELSE format('%s alone adds %s', w.reason, round(w.adds::numeric, 3)) END
  FROM applications a JOIN risks r USING (id) LEFT JOIN decisions d USING (id)
  LEFT JOIN (SELECT DISTINCT ON (v.id) v.id, v.reason, s.risk - predict('example_credit/probabilities[2]', v) AS adds
               FROM features v JOIN risks s USING (id) LEFT JOIN decisions o USING (id)
              WHERE v.reason IS NOT NULL AND s.risk >= 0.4 AND o.id IS NULL ORDER BY v.id, adds DESC NULLS LAST) w USING (id)
 WHERE d.id IS NULL
$$;
-- In pg_cron: SELECT cron.schedule('applications', '5 9-17 * * 1-5', 'CALL predict.run_job(''example applications''); CALL decide()');

-- The day, in nine hours.
CREATE PROCEDURE hour(n integer) LANGUAGE sql AS $$
INSERT INTO applications
SELECT id, funded_amnt, term, int_rate, sub_grade, addr_state, verification_status, CASE WHEN id % 500 = 0 THEN NULL ELSE annual_inc END, emp_length, delinq_2yrs,
       inq_last_6mths, revol_util, acc_now_delinq, open_il_6m, open_il_12m, open_il_24m, total_bal_il, all_util, inq_fi, inq_last_12m, delinq_amnt, num_il_tl,
       total_il_high_credit_limit, date_trunc('day', now()) + make_interval(hours => n)
  FROM loans WHERE id % 9 = n - 9
$$;
CALL hour(9);  CALL predict.run_job('example applications'); CALL decide();
CALL hour(10); CALL predict.run_job('example applications'); CALL decide();
CALL hour(11); CALL predict.run_job('example applications'); CALL decide();
CALL hour(12); CALL predict.run_job('example applications'); CALL decide();
CALL hour(13); CALL predict.run_job('example applications'); CALL decide();
CALL hour(14); CALL predict.run_job('example applications'); CALL decide();
CALL hour(15); CALL predict.run_job('example applications'); CALL decide();
CALL hour(16); CALL predict.run_job('example applications'); CALL decide();
CALL hour(17); CALL predict.run_job('example applications'); CALL decide();

SELECT run, rows, scored, skipped, failed FROM predict.job_runs WHERE job = 'example applications' ORDER BY run;
SELECT decision, count(*), round(avg(risk)::numeric, 3) AS "mean risk", round(100 * avg((l.class = 'bad')::int), 1) AS "went bad, %"
  FROM decisions d JOIN loans l USING (id) GROUP BY 1 ORDER BY 3;
SELECT id, decision, round(risk::numeric, 3) AS risk, reason FROM decisions WHERE decision = 'refuse' ORDER BY risk DESC, id LIMIT 5;

DO $$
BEGIN
    ASSERT (SELECT count(*) = 9857 FROM decisions), 'every application has a decision';
    ASSERT (SELECT count(*) = 9 AND sum(scored) + sum(failed) = 9857 AND bool_and(status = 'succeeded') FROM predict.job_runs WHERE job = 'example applications'), 'an hour scores what is new';
    ASSERT (SELECT count(*) = 19 AND bool_and(reason = 'something is missing') FROM decisions WHERE decision = 'ask'), 'what lacks an income is asked for';
    ASSERT (SELECT bool_and(abs(d.risk - predict('example_credit/probabilities[2]', a)) < 1e-5) FROM decisions d JOIN applications a USING (id)), 'a risk is what the model says';
    ASSERT (SELECT (avg((l.class = 'bad')::int) FILTER (WHERE decision = 'refuse')) > 4 * (avg((l.class = 'bad')::int) FILTER (WHERE decision = 'grant'))
              FROM decisions d JOIN loans l USING (id)), 'refused loans go bad more often than granted ones';
    ASSERT (SELECT bool_and(reason LIKE 'the % alone adds %') FROM decisions WHERE decision IN ('refuse', 'look at')), 'each has a reason';
END $$;
SELECT predict.drop_job('example applications');
