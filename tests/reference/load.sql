-- Owns the tables that only the reference check reads: those that oracle.py wrote, and the expected answers of each model.
--
--   psql -v reference=DIR -f tests/reference/load.sql
\set ON_ERROR_STOP on
\setenv PG_PREDICT_REFERENCE :reference
BEGIN;
CREATE TABLE credit_matrix (
    id integer PRIMARY KEY,
    f1 real, f2 real, f3 real, f4 real, f5 real, f6 real, f7 real, f8 real, f9 real, f10 real, f11 real, f12 real, f13 real,
    f14 real, f15 real, f16 real, f17 real, f18 real, f19 real, f20 real, f21 real, f22 real, f23 real, f24 real, f25 real, f26 real
);
\copy credit_matrix FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/credit_matrix.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE reviews (id integer PRIMARY KEY, product text, review text, score text, split text);
\copy reviews FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/reviews.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE tweets (id integer PRIMARY KEY, mean_sentiment double precision, text text);
\copy tweets FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/tweets.csv' WITH (FORMAT csv, HEADER)

CREATE SCHEMA expected;
CREATE TABLE expected.late (id integer PRIMARY KEY, label text, v1 real, v2 real);
\copy expected.late FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_late.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE expected.credit (id integer PRIMARY KEY, label text, v1 real, v2 real);
\copy expected.credit FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_credit.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE expected.credit_zipmap (id integer PRIMARY KEY, label text, v1 real, v2 real);
\copy expected.credit_zipmap FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_credit_zipmap.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE expected.credit_lgbm (id integer PRIMARY KEY, label text, v1 real, v2 real);
\copy expected.credit_lgbm FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_credit_lgbm.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE expected.credit_lgbm_zipmap (id integer PRIMARY KEY, label text, v1 real, v2 real);
\copy expected.credit_lgbm_zipmap FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_credit_lgbm_zipmap.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE expected.credit_mlp (id integer PRIMARY KEY, label text, v1 real, v2 real);
\copy expected.credit_mlp FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_credit_mlp.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE expected.credit_isoforest (id integer PRIMARY KEY, label text, v1 real);
\copy expected.credit_isoforest FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_credit_isoforest.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE expected.diamonds (id integer PRIMARY KEY, label text, v1 real);
\copy expected.diamonds FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_diamonds.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE expected.diamonds_mlp (id integer PRIMARY KEY, label text, v1 real);
\copy expected.diamonds_mlp FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_diamonds_mlp.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE expected.recs (id integer PRIMARY KEY, label text, v1 real);
\copy expected.recs FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_recs.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE expected.reviews (id integer PRIMARY KEY, label text, v1 real, v2 real);
\copy expected.reviews FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_reviews.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE expected.tweets (id integer PRIMARY KEY, label text, v1 real, v2 real, v3 real);
\copy expected.tweets FROM PROGRAM 'cat "$PG_PREDICT_REFERENCE"/expected_tweets.csv' WITH (FORMAT csv, HEADER)
COMMIT;
VACUUM ANALYZE;
