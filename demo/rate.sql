-- Included after it: tells how long it took for the `scored` rows that went through the model.
\set ECHO none
SELECT format('   %s rows in %s s: %s rows per second', to_char(:scored, 'FM999,999,999'), round(seconds::numeric, 2), to_char(:scored / seconds, 'FM999,999,999')) AS told
FROM (SELECT greatest(extract(epoch FROM clock_timestamp() - :'started'::timestamptz)::float8, 0.001) AS seconds) AS clock \gset
\echo :told
\echo
