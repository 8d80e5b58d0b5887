-- Owns bench_flights, the workload with texts: the columns that the model `late` takes, under the names of its inputs, and
-- a key. It makes no model and touches no other table. PG_PREDICT_FLIGHTS names flights.csv.gz; the file is read by psql.
--
-- Row N of the file gets the key N. A row is kept where no input is NULL, which all 336,776 are: what a peer reads is then
-- exactly what pg_predict scores.

\set ON_ERROR_STOP on

CREATE TEMPORARY TABLE flight (
    id             integer GENERATED ALWAYS AS IDENTITY,
    year           smallint,
    month          real,
    day            real,
    dep_time       smallint,
    sched_dep_time real,
    dep_delay      smallint,
    arr_time       smallint,
    sched_arr_time real,
    arr_delay      smallint,
    carrier        text,
    flight         integer,
    tailnum        text,
    origin         text,
    dest           text,
    air_time       smallint,
    distance       real,
    hour           real,
    minute         smallint,
    time_hour      timestamptz
);
\copy flight (year, month, day, dep_time, sched_dep_time, dep_delay, arr_time, sched_arr_time, arr_delay, carrier, flight, tailnum, origin, dest, air_time, distance, hour, minute, time_hour) FROM PROGRAM 'gzip -dc "$PG_PREDICT_FLIGHTS"' WITH (FORMAT csv, HEADER)

CREATE TABLE bench_flights AS
SELECT id, month, day, sched_dep_time, sched_arr_time, distance, hour, carrier, origin, dest
FROM flight
WHERE num_nulls(month, day, sched_dep_time, sched_arr_time, distance, hour, carrier, origin, dest) = 0
ORDER BY id;
DROP TABLE flight;

VACUUM (ANALYZE, FREEZE) bench_flights;
CHECKPOINT;
