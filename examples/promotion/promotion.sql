-- A promotion that is guarded: a version that answers golden rows otherwise is refused, one that agrees is promoted, and drift of
-- the rows that come in is told of.
--
--   psql -v root=REPOSITORY -f examples/promotion/promotion.sql
\set schema example_promotion
\ir ../start.sql
\set models :root '/models'
\set load :models '/sql/load.sql'
\o /dev/null
\i :load
SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'example_scorecard') m;
\o
\set model `base64 < "$PG_PREDICT_MODELS"/credit.onnx | tr -d '\n'`
\set other `base64 < "$PG_PREDICT_MODELS"/credit_zipmap.onnx | tr -d '\n'`
SELECT predict.create_model('example_scorecard', decode(:'model', 'base64')) AS version;

-- Two hundred loans, as version 1 answers them, are what every later version is held to.
SELECT predict.add_checks('example_scorecard', 'SELECT * FROM loans WHERE id % 50 = 0', 'golden loans') AS golden_rows;
SELECT predict.set_baseline('example_scorecard', 'SELECT * FROM loans WHERE id % 2 = 0') AS baseline_rows;

-- Version 2 fills in what is missing and answers the rest as before; version 3 gives its answers in another form.
SELECT predict.create_model('example_scorecard', decode(:'model', 'base64'), '{"on_null": "nan", "defaults": {"emp_length": "emp_5"}}') AS version;
SELECT predict.create_model('example_scorecard', decode(:'other', 'base64')) AS version;
SELECT version, name, rows, failed, passed FROM predict.check('example_scorecard@2') c(model, version, name, rows, failed, worst, passed, first_failure)
UNION ALL SELECT version, name, rows, failed, passed FROM predict.check('example_scorecard@3') c(model, version, name, rows, failed, worst, passed, first_failure);
SELECT output, rows, agreement, max_difference FROM predict.compare('example_scorecard@1', 'example_scorecard@2', 'SELECT * FROM loans WHERE id <= 2000');

DO $$
BEGIN
    PERFORM predict.set_alias('example_scorecard', 'default', 3);
    ASSERT false, 'version 3 must be refused';
EXCEPTION WHEN check_violation THEN
    RAISE INFO 'refused: %', SQLERRM;
END $$;
SELECT predict.set_alias('example_scorecard', 'default', 2);
SELECT action, version, alias, detail FROM predict.history WHERE model = 'example_scorecard' AND at > now() - interval '5 minutes' ORDER BY id DESC LIMIT 1;

-- The rows of the other half are like the baseline; those of a year with higher rates are not.
SELECT kind, name, round(psi::numeric, 3) AS psi, verdict FROM predict.drift('example_scorecard', 'SELECT * FROM loans WHERE id % 2 = 1') WHERE verdict = 'drift';
CREATE VIEW dearer AS SELECT id, funded_amnt, term, (int_rate * 1.5)::numeric(5, 2) AS int_rate, sub_grade, addr_state, verification_status, annual_inc, emp_length, delinq_2yrs,
    inq_last_6mths, revol_util, acc_now_delinq, open_il_6m, open_il_12m, open_il_24m, total_bal_il, all_util, inq_fi, inq_last_12m, delinq_amnt, num_il_tl, total_il_high_credit_limit
    FROM loans WHERE id % 2 = 1;
SELECT kind, name, round(psi::numeric, 3) AS psi, verdict FROM predict.drift('example_scorecard', 'SELECT * FROM dearer', warn => true) WHERE verdict = 'drift' ORDER BY 1, 2;

DO $$
BEGIN
    ASSERT (SELECT aliases = '{default}' FROM predict.models WHERE name = 'example_scorecard' AND version = 2), 'version 2 is promoted';
    ASSERT NOT EXISTS (SELECT FROM predict.drift('example_scorecard', 'SELECT * FROM loans WHERE id % 2 = 1') WHERE verdict = 'drift'), 'what is alike is not flagged';
    ASSERT EXISTS (SELECT FROM predict.drift('example_scorecard', 'SELECT * FROM dearer') WHERE verdict = 'drift' AND name = 'int_rate'), 'what has changed is';
END $$;
