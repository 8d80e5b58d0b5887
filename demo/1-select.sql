-- Use (a): a SELECT in psql. Which of the 336,776 flights that left New York in 2013 will be late?
\set ON_ERROR_STOP on
SELECT count(*) AS scored FROM flights \gset
\echo
\echo '== (a) SELECT: which of' :scored 'real flights will be late?'
\echo

\ir start.sql
SELECT f.carrier, f.flight, f.origin, f.dest, f.time_hour::date AS day, round(p.probabilities[2]::numeric, 3) AS late
FROM predictions((SELECT predict_batch('late', f) FROM flights f)) AS p(id integer, probabilities real[])
JOIN flights f USING (id)
ORDER BY p.probabilities[2] DESC, id LIMIT 8;
\ir rate.sql

\echo 'Columns that the model does not take come back with their row: how many of the flights it calls late (1) were late?'
\echo
\ir start.sql
SELECT p.label, count(*) AS flights, round(100 * avg((p.arr_delay > 15)::integer), 1) AS were_late_percent
FROM predictions((SELECT predict_batch('late', f) FROM flights f)) AS p(label bigint, arr_delay smallint)
GROUP BY p.label ORDER BY p.label;
\ir rate.sql

\echo 'The plain call gives one value a row, wherever an expression may stand: Christmas Eve at JFK.'
\echo
SELECT count(*) AS scored FROM flights WHERE (month, day, origin) = (12, 24, 'JFK') \gset
\ir start.sql
SELECT carrier, flight, dest, sched_dep_time, round(predict('late/probabilities[2]', f)::numeric, 3) AS late
FROM flights f WHERE (month, day, origin) = (12, 24, 'JFK')
ORDER BY late DESC, id LIMIT 5;
\ir rate.sql
