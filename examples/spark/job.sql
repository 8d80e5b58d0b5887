-- What Spark reads, and where it writes.
\set schema example_spark
\ir ../start.sql
\set models :root '/models'
\setenv PG_PREDICT_MODELS :models
CREATE TEMP TABLE file (year int, month int, day int, dep_time int, sched_dep_time int, dep_delay int, arr_time int, sched_arr_time int, arr_delay int, carrier text, flight int,
    tailnum text, origin text, dest text, air_time int, distance int, hour int, minute int, time_hour timestamptz);
\copy file FROM PROGRAM 'gzip -dc "$PG_PREDICT_MODELS"/data/flights.csv.gz' WITH (FORMAT csv, HEADER)
CREATE TABLE flights AS SELECT row_number() OVER ()::integer AS id, month::real, day::real, sched_dep_time::real, sched_arr_time::real, distance::real, hour::real, carrier, origin, dest FROM file;
ALTER TABLE flights ADD PRIMARY KEY (id);
CREATE TABLE candidates (LIKE flights INCLUDING INDEXES);
ANALYZE;
SELECT count(predict.drop_model(name)) AS dropped FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'example_spark') m \gset
\set model `base64 < "$PG_PREDICT_MODELS"/late.onnx | tr -d '\n'`
SELECT predict.create_model('example_spark', decode(:'model', 'base64')) AS version;
