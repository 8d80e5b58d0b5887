-- equivalence: a call is made for a row if and only if PostgreSQL would make it.
\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start
SELECT predict.create_model('m', model('one')), predict.grant_usage('m', 'public');
-- A value of 1e300 does not fit the model: a row with it fails as soon as the model gets it.
CREATE TABLE rows_of (id int, visible boolean, x float8);
INSERT INTO rows_of VALUES (1, true, 1), (2, true, 2), (3, false, 1e300), (4, true, 4);

-- A policy asks the model for visible rows alone, and so does the query: the model never gets a hidden row.
CREATE ROLE eq_reader;
GRANT USAGE ON SCHEMA test TO eq_reader;
CREATE TABLE guarded AS SELECT * FROM rows_of;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON guarded USING (CASE WHEN visible THEN predict('m', x) < 100 ELSE false END);
GRANT SELECT ON guarded TO eq_reader;
SET ROLE eq_reader;
SELECT id, predict('m', x) IS NOT NULL AS scored FROM guarded ORDER BY id;
SELECT count(predict('m', x)) FROM guarded WHERE predict('m', x) IS NOT NULL;
RESET ROLE;
-- The same in a view with a security barrier.
CREATE VIEW barrier WITH (security_barrier) AS SELECT * FROM rows_of WHERE visible AND predict('m', x) < 100;
SELECT id, predict('m', x) IS NOT NULL AS scored FROM barrier ORDER BY id;
-- An output that does not exist is an error only where it is asked for.
SELECT id, CASE WHEN id > 9 THEN predict('m/none', 1) ELSE predict('m', 1) END IS NOT NULL AS scored FROM rows_of ORDER BY id;

-- Window functions evaluate their arguments for the rows that they choose.
SELECT id, lag(predict('m', x)) OVER (ORDER BY id) IS NOT NULL AS scored FROM rows_of WHERE id < 4 ORDER BY id;
SELECT id, first_value(predict('m', x)) OVER (ORDER BY id) IS NOT NULL AS scored FROM rows_of ORDER BY id;
SELECT id, sum(predict('m', x)) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND 2 PRECEDING) IS NOT NULL AS scored FROM rows_of ORDER BY id;
-- A run condition stops the window at the row after the last: its rows are all there, and the fourth is not evaluated.
SELECT id, n, scored
  FROM (SELECT id, row_number() OVER (ORDER BY id) AS n, predict('m', CASE WHEN id < 4 THEN id ELSE 1e300 END) IS NOT NULL AS scored FROM rows_of) r
 WHERE n <= 2 ORDER BY id;
SELECT g, n, scored FROM (SELECT id % 2 AS g, row_number() OVER (PARTITION BY id % 2 ORDER BY id) AS n, predict('m', 1) IS NOT NULL AS scored FROM rows_of) r
 WHERE n <= 1 ORDER BY g;
-- A comparison with an empty subquery evaluates nothing.
SELECT count(*) FROM rows_of WHERE predict('m', x) = ANY (SELECT x FROM rows_of WHERE id > 9);
SELECT count(*) FROM rows_of WHERE predict('m', x) > ALL (SELECT x FROM rows_of WHERE id > 9);
-- The outer side of a hash join with an empty inner side is not read to its end.
SET enable_nestloop = off; SET enable_mergejoin = off;
SELECT count(y) FROM (SELECT id, predict('m', x) AS y FROM rows_of OFFSET 0) r JOIN (SELECT * FROM rows_of WHERE id > 9 OFFSET 0) s USING (id);
RESET enable_nestloop; RESET enable_mergejoin;
-- LIMIT and cursors read no more than they need, with a filter too; EXISTS stops at the first row.
SELECT id, predict('m', x) IS NOT NULL AS scored FROM rows_of LIMIT 2;
SELECT id FROM (SELECT id, predict('m', x) AS y FROM rows_of OFFSET 0) r WHERE id > 1 AND y IS NOT NULL LIMIT 1;
SELECT EXISTS (SELECT FROM rows_of WHERE predict('m', x) IS NOT NULL);
BEGIN;
CREATE SEQUENCE drawn;
DECLARE c CURSOR FOR SELECT id, predict('m', x) IS NOT NULL AS scored FROM (SELECT id, x, nextval('drawn') AS n FROM rows_of OFFSET 0) r;
FETCH 1 FROM c;
SELECT last_value FROM drawn;
FETCH 1 FROM c;
SELECT last_value FROM drawn;
DECLARE d CURSOR FOR SELECT id, predict('m', x) IS NOT NULL AS scored FROM rows_of;
FETCH 2 FROM d;
ROLLBACK;
-- A function in PL/pgSQL that leaves its loop early.
CREATE FUNCTION first_ids(n int) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE r record; ids int[];
BEGIN
    FOR r IN SELECT id, predict('m', x) AS y FROM rows_of WHERE id <> 3 LOOP
        ids := ids || r.id; EXIT WHEN cardinality(ids) = n;
    END LOOP;
    RETURN ids;
END $$;
SELECT first_ids(2);
-- An argument is evaluated once for a row, the first row too: its subquery may call a function that has effects.
CREATE FUNCTION said(x float8) RETURNS float8 STABLE LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'evaluated for %', x; RETURN x; END $$;
SELECT id, predict('m', (SELECT said(i.x) FROM rows_of i WHERE i.id = r.id)) IS NOT NULL AS scored FROM rows_of r WHERE id <> 3 ORDER BY id;
SELECT id, predict('m', said(x)) IS NOT NULL AS scored FROM rows_of WHERE id <> 3 ORDER BY id;

DROP POLICY p ON guarded;
REVOKE ALL ON SCHEMA test FROM eq_reader; DROP OWNED BY eq_reader; DROP ROLE eq_reader;
DROP VIEW barrier; DROP TABLE rows_of, guarded; DROP FUNCTION first_ids(int), said(float8);
SELECT predict.drop_model('m');
