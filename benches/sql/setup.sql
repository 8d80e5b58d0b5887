-- Loads what the benchmark reads, once a run; `rows`, `sample`, `tweets`, `flights` and `loans` are psql variables that run.sh sets.
-- A feature is (x * x mod 1000003) / 1000003 with x a line in the row's number: it looks random, lies in [0, 1),
-- and is the same on every machine, because each step is exact or correctly rounded.

CREATE EXTENSION pg_predict;

CREATE FUNCTION bench_feature(row_number bigint, slope bigint, start bigint) RETURNS real
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (((row_number * slope + start) % 1000003 * ((row_number * slope + start) % 1000003)) % 1000003)::real / 1000003::real
$$;

-- Ten float4 columns and a key.
CREATE TABLE bench_rows AS
SELECT i::integer AS id,
       bench_feature(i,  7919, 104729) AS a, bench_feature(i, 15485, 209458) AS b,
       bench_feature(i, 24593, 314187) AS c, bench_feature(i, 32452, 418916) AS d,
       bench_feature(i, 49157, 523645) AS e, bench_feature(i, 57885, 628374) AS f,
       bench_feature(i, 65537, 733103) AS g, bench_feature(i, 73939, 837832) AS h,
       bench_feature(i, 86028, 942561) AS i, bench_feature(i, 98317,  47287) AS j
FROM generate_series(1, :rows::bigint) AS i;

-- The same features as one real[] column.
CREATE TABLE bench_arrays AS
SELECT id, ARRAY[a, b, c, d, e, f, g, h, i, j] AS x FROM bench_rows ORDER BY id;

-- The first rows again, for the forms that run the model once a row.
CREATE TABLE bench_sample AS
SELECT * FROM bench_rows ORDER BY id LIMIT :sample;

-- The point queries read by key.
ALTER TABLE bench_rows ADD PRIMARY KEY (id);

-- Ten times as many, features over again; whole and in parts it shows what the number of rows does.
CREATE TABLE bench_big AS
SELECT ((again - 1) * :rows + r.id)::integer AS id, a, b, c, d, e, f, g, h, i, j
FROM generate_series(1, 10) AS again, bench_rows r;

-- Texts that people wrote; the file is read by psql.
CREATE TABLE bench_tweets (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text);
CREATE TEMPORARY TABLE tweet (id integer, mean_sentiment float8, text text);
\copy tweet FROM PROGRAM 'gzip -dc "$PG_PREDICT_TWEETS"' WITH (FORMAT csv, HEADER)
INSERT INTO bench_tweets (text) SELECT text FROM tweet ORDER BY id LIMIT :tweets;

VACUUM (ANALYZE, FREEZE) bench_rows;
VACUUM (ANALYZE, FREEZE) bench_arrays;
VACUUM (ANALYZE, FREEZE) bench_sample;
VACUUM (ANALYZE, FREEZE) bench_big;

\ir flights.sql
DELETE FROM bench_flights WHERE id > :flights;
VACUUM (ANALYZE, FREEZE) bench_flights;
\ir loans.sql

-- What is read is in shared buffers before it is timed.
CREATE EXTENSION pg_prewarm;
SELECT pg_prewarm(name) FROM unnest('{bench_big,bench_arrays,bench_rows,bench_flights,bench_loans}'::regclass[]) AS name;
CHECKPOINT;
