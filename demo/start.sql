-- Included before a statement whose speed is told: starts the clock, and shows the SQL that follows.
\set ECHO none
SELECT clock_timestamp() AS started \gset
\set ECHO queries
