-- Loads bench_loans: the loans of models/data with the inputs of models/credit.onnx, numbers as real and names as text, over
-- and over until there are about as many as the psql variable `loans` says. PG_PREDICT_LOANS names the file for psql.

CREATE TEMPORARY TABLE loan (
    place integer GENERATED ALWAYS AS IDENTITY,
    funded_amnt real, term text, int_rate real, sub_grade text, addr_state text, verification_status text, annual_inc real,
    emp_length text, delinq_2yrs real, inq_last_6mths real, revol_util real, acc_now_delinq real, open_il_6m real,
    open_il_12m real, open_il_24m real, total_bal_il real, all_util real, inq_fi real, inq_last_12m real, delinq_amnt real,
    num_il_tl real, total_il_high_credit_limit real, class text
);
\copy loan (funded_amnt, term, int_rate, sub_grade, addr_state, verification_status, annual_inc, emp_length, delinq_2yrs, inq_last_6mths, revol_util, acc_now_delinq, open_il_6m, open_il_12m, open_il_24m, total_bal_il, all_util, inq_fi, inq_last_12m, delinq_amnt, num_il_tl, total_il_high_credit_limit, class) FROM PROGRAM 'gzip -dc "$PG_PREDICT_LOANS"' WITH (FORMAT csv, HEADER)

CREATE TABLE bench_loans AS
SELECT (row_number() OVER (ORDER BY again, place))::integer AS id, funded_amnt, int_rate, annual_inc, delinq_2yrs,
       inq_last_6mths, revol_util, acc_now_delinq, open_il_6m, open_il_12m, open_il_24m, total_bal_il, all_util, inq_fi,
       inq_last_12m, delinq_amnt, num_il_tl, total_il_high_credit_limit, term, sub_grade, addr_state, verification_status,
       emp_length
FROM loan, generate_series(1, greatest(1, :loans / (SELECT count(*) FROM loan))) AS again;
DROP TABLE loan;
VACUUM (ANALYZE, FREEZE) bench_loans;
