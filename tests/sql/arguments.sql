-- arguments: the forms in which a row is given, how its columns find a model's inputs, and the errors where they do not.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

-- named: y = a + 10 b + 100 c, an input for each. linear: the same of x[1..3] + 0.5, one wide input. cased: Total = Age + 10 Income.
SELECT predict.create_model('named', model('named')), predict.create_model('linear', model('linear')), predict.create_model('cased', model('cased')),
       predict.create_model('wide', model('linear'), '{"features": ["a", "b", "c"]}'), predict.create_model('one', model('one')),
       predict.create_model('open', model('open')), predict.create_model('grid', model('grid')), predict.create_model('text', model('text')),
       predict.create_model('odd', model('odd_names'));

-- A row of a table: by name, wherever the columns are, with others between them.
CREATE TABLE t (c int, note text, b real, id serial PRIMARY KEY, a float8);
INSERT INTO t (a, b, c, note) VALUES (1, 2, 3, 'first'), (4, 5, 6, 'second');
SELECT id, predict('named', t) FROM t ORDER BY id;
SELECT id, predict('wide', t) FROM t ORDER BY id;
SELECT p.* FROM predictions((SELECT predict_batch('named', t) FROM t)) p(id int, note text, y real) ORDER BY id;
SELECT p.* FROM predictions((SELECT predict_batch('wide', t) FROM t)) p(id int, note text, y real) ORDER BY id;
-- Values in the order of the inputs; an array; VARIADIC.
SELECT predict('named', 1, 2, 3), predict('linear', 1, 2, 3), predict('wide', 1, 2, 3);
SELECT predict('linear', ARRAY[1, 2, 3]), predict('linear', VARIADIC ARRAY[1, 2, 3]), predict('wide', ARRAY[1, 2, 3]);
SELECT (predict_batch('linear', ARRAY[a, b, c]))::real[], (predict_batch('linear', a, b, c))::real[], (predict_batch('linear', VARIADIC ARRAY[a, b, c]))::real[] FROM (SELECT * FROM t ORDER BY id) t;

-- After columns were dropped and added.
ALTER TABLE t DROP COLUMN b, ADD COLUMN extra int DEFAULT 9;
SELECT * FROM attempt($$SELECT predict('named', t) FROM t$$);
ALTER TABLE t ADD COLUMN b int DEFAULT 2;
SELECT id, predict('named', t) FROM t ORDER BY id;
SELECT p.* FROM predictions((SELECT predict_batch('named', t) FROM t)) p(id int, extra int, y real) ORDER BY id;

-- A view, a subquery's alias, a CTE, a function's row, a row type of its own, a domain over it.
CREATE VIEW v AS SELECT id, c AS "C", b, a FROM t;
SELECT id, predict('named', v) FROM v ORDER BY id;
SELECT id, predict('named', s) FROM (SELECT id, 3 AS c, a, 2.0 AS b FROM t) s ORDER BY id;
WITH w AS (SELECT 1 AS a, 2 AS b, 3 AS c) SELECT predict('named', w) FROM w;
WITH w AS MATERIALIZED (SELECT 1 AS a, 2 AS b, g AS c FROM generate_series(1, 3) g) SELECT (predict_batch('named', w))::real[] FROM w;
SELECT predict('named', f) FROM json_to_record('{"a": 1, "b": 2, "c": 3}') f(c int, b int, a int);
CREATE TYPE abc AS (a int, b int, c int);
CREATE DOMAIN abc_domain AS abc;
SELECT predict('named', ROW(1, 2, 3)::abc), predict('named', ROW(1, 2, 3)::abc::abc_domain);
CREATE FUNCTION abcs() RETURNS SETOF abc LANGUAGE sql AS 'VALUES (1, 2, 3), (4, 5, 6)';
SELECT (predict_batch('named', f))::real[] FROM abcs() f;
SELECT predict('named', x) FROM (SELECT t.*, 0 AS more FROM t WHERE id = 1) x;
-- A join's rows.
SELECT predict('named', j) FROM (SELECT a, b FROM t WHERE id = 1) t1 CROSS JOIN LATERAL (SELECT t1.a, t1.b, 7 AS c) j;

-- Partitions whose columns lie differently.
CREATE TABLE parted (id int, a int, b int, c int) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE parted_2 (c int, dropped text, b int, a int, id int);
ALTER TABLE parted_2 DROP COLUMN dropped;
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM (10) TO (20);
INSERT INTO parted VALUES (1, 1, 2, 3), (11, 4, 5, 6);
SELECT id, predict('named', parted) FROM parted ORDER BY id;
SELECT p.* FROM predictions((SELECT predict_batch('named', parted) FROM parted)) p(id int, y real) ORDER BY id;
SELECT predict('named', parted_2) FROM parted_2;
-- Inheritance: the rows of a child with columns of its own.
CREATE TABLE parent (a int, b int, c int);
CREATE TABLE child (more text) INHERITS (parent);
INSERT INTO parent VALUES (1, 2, 3);
INSERT INTO child VALUES (4, 5, 6, 'more');
SELECT (predict_batch('named', p ORDER BY a))::real[] FROM parent p;

-- Names: exactly, or else in the only other case.
SELECT predict('cased', r) FROM (SELECT 1 AS "Age", 2 AS "Income") r;
SELECT predict('cased', r) FROM (SELECT 1 AS age, 2 AS INCOME) r;
SELECT predict('cased', r) FROM (SELECT 1 AS "AGE", 2 AS "InCome") r;
SELECT predict('cased', r) FROM (SELECT 9 AS age, 1 AS "Age", 2 AS income) r;
SELECT p.* FROM predictions((SELECT predict_batch('cased', r) FROM (SELECT 1 AS age, 2 AS income) r)) p(total real);
SELECT p.* FROM predictions((SELECT predict_batch('cased', r) FROM (SELECT 1 AS age, 2 AS income) r)) p("Total" real);
SELECT * FROM attempt($$SELECT predict('cased', r) FROM (SELECT 1 AS age, 1 AS "AGE", 2 AS income) r$$);
SELECT predict('odd', r) FROM (SELECT 3 AS "input:0") r;
SELECT predict('odd/dense/out:0', 3);
SELECT p."dense/out:0" FROM predictions((SELECT predict_batch('odd', 3))) p("dense/out:0" real);

-- Missing columns are listed, all of them.
SELECT * FROM attempt($$SELECT predict('named', r) FROM (SELECT 1 AS a) r$$);
SELECT * FROM attempt($$SELECT predict('named', r) FROM (SELECT 1 AS a, 2 AS b) r$$);
SELECT * FROM attempt($$SELECT predict('wide', r) FROM (SELECT 1 AS x, 2 AS b) r$$);
SELECT * FROM attempt($$SELECT predict('linear', r) FROM (SELECT 1 AS a, 2 AS b, 3 AS c) r$$);
SELECT * FROM attempt($$SELECT predict_batch('named', r) FROM (SELECT 1 AS "a ", 2 AS b) r$$);
-- A row without names.
SELECT * FROM attempt($$SELECT predict('named', ROW(1, 2, 3))$$);
SELECT * FROM attempt($$SELECT predict_batch('named', ROW(1, 2, 3))$$);
SELECT * FROM attempt($$SELECT predict('linear', ROW())$$);
-- A wide input as an array column of its name.
SELECT predict('linear', r) FROM (SELECT ARRAY[1, 2, 3] AS x, 'carried' AS note) r;
SELECT p.* FROM predictions((SELECT predict_batch('linear', r) FROM (SELECT ARRAY[1, 2, 3] AS x, 'carried' AS note) r)) p(note text, y real);

-- Arrays of every numeric type.
SELECT predict('linear', '{1,2,3}'::int2[]), predict('linear', '{1,2,3}'::int4[]), predict('linear', '{1,2,3}'::int8[]), predict('linear', '{1,2,3}'::float4[]),
       predict('linear', '{1,2,3}'::float8[]), predict('linear', '{1,2,3}'::numeric[]), predict('linear', '{t,f,t}'::boolean[]);
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE DOMAIN triple AS real[] CHECK (array_length(VALUE, 1) = 3);
SELECT predict('linear', ARRAY[1, 2, 3]::small[]), predict('linear', ARRAY[1, 2, 3]::triple), predict('linear', 1::small, 2::small, 3::small);
SELECT * FROM attempt($$SELECT predict('linear', '{1,2,3}'::text[])$$);
SELECT * FROM attempt($$SELECT predict('linear', '{2020-02-02,2020-02-03,2020-02-04}'::date[])$$);
-- Of one, two and three dimensions, and with other lower bounds: as they are written, row by row.
SELECT predict('grid', '{{1,2,3},{4,5,6}}'::real[]), predict('grid', '{1,2,3,4,5,6}'::real[]), predict('grid', '{{{1},{2},{3}},{{4},{5},{6}}}'::int[]);
SELECT predict('linear', '[5:7]={1,2,3}'::int[]), predict('linear', '{{1,2,3}}'::int[]);
SELECT * FROM attempt($$SELECT predict('grid', '{{1,2},{3,4}}'::real[])$$);
SELECT * FROM attempt($$SELECT predict('linear', '{}'::real[])$$);
SELECT * FROM attempt($$SELECT predict('linear', '{1,2,3,4}'::real[])$$);
SELECT * FROM attempt($$SELECT predict('linear', ARRAY[1,2]) $$);
-- An open width is as wide as the rows are; all the same.
SELECT predict('open', ARRAY[1, 2]), predict('open', ARRAY[1, 2, 3, 4]), predict('open', 1, 2, 3, 4, 5);
SELECT (predict_batch('open', ARRAY[g, g, g]))::real[] FROM generate_series(1, 4) g;
SELECT * FROM attempt($$SELECT predict_batch('open', CASE WHEN g < 3 THEN ARRAY[g, g] ELSE ARRAY[g, g, g] END) FROM generate_series(1, 4) g$$);

-- Single values of the only input.
SELECT predict('one', 3), predict('one', 3.5), predict('one', ARRAY[4]), predict('one', r) FROM (SELECT 5 AS x) r;
-- Literals whose type is not said are strings where a string is wanted.
SELECT predict_text('text', 'hello');
SELECT (predict_batch('text', 'hello'))::text[];
SELECT * FROM attempt($$SELECT predict('one', '3')$$);
SELECT * FROM attempt($$SELECT predict('linear', 1, '2', 3)$$);
SELECT predict('one', NULL);
SELECT predict('linear', 1, NULL, 3);

-- SQL prefers a column to the table or alias of its name: the HINT tells how to pass the row.
CREATE TABLE c (a int, b int, c int, "In C" real);
INSERT INTO c VALUES (1, 2, 3, 4);
SELECT * FROM attempt($$SELECT predict('named', c) FROM c$$);
SELECT * FROM attempt($$SELECT predict_batch('named', c) FROM c$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('named', b) FROM c AS b WHERE a > 0)) p(y real)$$);
SELECT * FROM attempt($$SELECT predict_batch('named', "In C") FROM c "In C" GROUP BY a$$);
SELECT * FROM attempt($$SELECT predict('named', c) FROM (SELECT a, b, c FROM c OFFSET 0) AS c$$);
SELECT * FROM attempt($$SELECT predict_batch('named', c) FROM (VALUES (1, 2, 'a text'), (1, 2, NULL)) AS c(a, b, c)$$);
SELECT * FROM attempt($$SELECT predict_batch('named', note) FROM t JOIN c AS note ON note.a = t.id$$);
SELECT predict('named', c.*), (SELECT (predict_batch('named', c.*))::real[] FROM c) FROM c;
SET pg_predict.enable_batch_scan = off;
SELECT * FROM attempt($$SELECT predict('named', c) FROM c$$);
SELECT * FROM attempt($$SELECT predict('named', c) FROM (SELECT a, b, c FROM c) AS c WHERE predict('one', a) > 0$$);
RESET pg_predict.enable_batch_scan;
-- Elsewhere the HINT is as ever.
SELECT * FROM attempt($$SELECT predict_batch('named', a) FROM c$$);
SELECT * FROM attempt($$SELECT predict_batch('named', a) FROM (SELECT a, b, c FROM c) AS c$$);
SELECT predict('one', c) FROM c;

-- Text is no number, and no array: not as a literal without a type, nor as a column.
SELECT * FROM attempt($$SELECT predict('linear', '{1,2,3}')$$);
SELECT * FROM attempt($$SELECT predict_batch('linear', '{1,2,3}'::text)$$);
SELECT * FROM attempt($$SELECT predict('open', '{1,2,3}')$$);
SELECT * FROM attempt($$SELECT predict('one', '{1}')$$);
SELECT * FROM attempt($$SELECT predict('grid', '{{1,2,3},{4,5,6}}')$$);
SELECT * FROM attempt($$SELECT predict_batch('linear', r) FROM (SELECT '{1,2,3}'::text AS x) r$$);
SELECT predict('linear', '{1,2,3}'::real[]);

-- How many.
SELECT * FROM attempt($$SELECT predict('linear')$$);
SELECT * FROM attempt($$SELECT predict_batch('linear')$$);
SELECT * FROM attempt($$SELECT predict('linear', 1, 2)$$);
SELECT * FROM attempt($$SELECT predict('linear', 1, 2, 3, 4)$$);
SELECT * FROM attempt($$SELECT predict('named', 1, 2)$$);
SELECT * FROM attempt($$SELECT predict('named', 1, 2, 3, 4)$$);
SELECT * FROM attempt($$SELECT predict('wide', 1)$$);
SELECT * FROM attempt($$SELECT predict('named', 1)$$);
SELECT * FROM attempt($$SELECT predict('named', ARRAY[1, 2, 3])$$);
SELECT * FROM attempt($$SELECT predict('linear', ARRAY[1, 2, 3], 4, 5)$$);
SELECT predict('grid', 1, 2, 3, 4, 5, 6);
SELECT * FROM attempt($$SELECT predict('grid', 1, 2, 3)$$);
SELECT * FROM attempt($$SELECT predict('named', t, 2, 3) FROM t$$);
-- No model, NULL for a model, another model in the middle.
SELECT * FROM attempt($$SELECT predict(NULL, 1)$$);
SELECT * FROM attempt($$SELECT predict_batch(NULL, 1)$$);
SELECT * FROM attempt($$SELECT predict('', 1)$$);
SELECT * FROM attempt($$SELECT predict_batch(CASE WHEN g < 3 THEN 'one' ELSE 'one@1' END, g) FROM generate_series(1, 4) g$$);
SELECT * FROM attempt($$SELECT predict_batch(CASE WHEN g < 3 THEN 'one' END, g) FROM generate_series(1, 4) g$$);
SELECT m, (predict_batch(m, g))::real[] FROM generate_series(1, 3) g, (VALUES ('one'), ('one@1')) m(m) GROUP BY m ORDER BY m;
SELECT m, predict(m, 1, 2, 3) FROM (VALUES ('linear'), ('named'), ('linear@1'), ('wide/y')) m(m) ORDER BY m;

-- Rows of one call whose columns differ.
CREATE FUNCTION differing(n int) RETURNS record LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
    IF n = 1 THEN SELECT 1 AS a, 2 AS b, 3 AS c INTO r; ELSE SELECT 3 AS c, 2 AS b, 1 AS a INTO r; END IF;
    RETURN r;
END $$;
SELECT predict('named', differing(1)), predict('named', differing(2));
SELECT * FROM attempt($$SELECT predict_batch('named', differing(g)) FROM generate_series(1, 2) g$$);

SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models ORDER BY name) n;
