-- stored_batches: a stored prediction_batch has all that it carries in itself, notices what changed, and trusts nothing that it says.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

SELECT predict.create_model('named', model('named')), predict.create_model('shapes', model('shapes'));
CREATE FUNCTION literal(carried text, rows text, shape text DEFAULT '[]', more text DEFAULT '') RETURNS text LANGUAGE sql AS $$
    SELECT format('{"model":"m","version":1,"outputs":[{"name":"y","kind":"tensor","element":"float32","shape":%s,"declared":[-1,1]}],"selected":0,"carried":%s,"rows":%s%s}',
        shape, carried, rows, more) $$;
CREATE FUNCTION outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text; detail text;
BEGIN
    EXECUTE query INTO result;
    RETURN 'ok ' || coalesce(left(result, 100), 'NULL');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN SQLSTATE || ' ' || SQLERRM || CASE WHEN detail <> '' THEN ': ' || detail ELSE '' END;
END $$;

-- Large values come along, however they are stored; their table may go.
CREATE TABLE source (id int, a real, b float8, c int, outside text, compressed text, short text, list text[]);
ALTER TABLE source ALTER outside SET STORAGE external, ALTER list SET STORAGE external;
INSERT INTO source SELECT g, g, 1, 1, repeat('outside ' || g, 4000), repeat('c', 100000), 'short', ARRAY[repeat('list' || g, 4000), NULL] FROM generate_series(1, 3) g;
CREATE TABLE stored AS SELECT predict_batch('named', s ORDER BY id) AS b FROM source s;
CREATE TABLE wanted AS SELECT id, md5(outside) AS outside, length(compressed) AS compressed, md5(list::text) AS list FROM source;
DROP TABLE source;
SELECT count(*) AS same FROM wanted w JOIN (SELECT p.id, md5(p.outside) AS outside, length(p.compressed) AS compressed, md5(p.list::text) AS list
    FROM stored, predictions(b) p(id int, outside text, compressed text, list text[])) p USING (id, outside, compressed, list);
SELECT count(*) AS same FROM wanted JOIN (SELECT p.id, md5(p.outside) AS outside FROM stored, predictions(b::text::prediction_batch) p(id int, outside text)) p USING (id, outside);
DROP TABLE stored, wanted;

-- Types that users make are stored as text. Settings of the session play no part.
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (x int, y text);
CREATE TYPE spread AS RANGE (subtype = float8);
CREATE TABLE typed (id int, a real, b float8, c int, m mood, moods mood[], d positive, ds positive[], p pair, ps pair[], s spread, n numeric(6,2), j jsonb, at timestamptz, span interval, u uuid, fixed char(5), nam name);
INSERT INTO typed VALUES (1, 1, 1, 1, 'happy', '{sad,NULL}', 5, '{1,2}', '(1,"a,b")', '{"(2,c)",NULL}', '[1,2)', 1.5, '{"k": [1, null]}', '2020-02-01 03:04:05+00', '1 month 2 days 03:00', '00000000-0000-0000-0000-000000000001', 'ab', 'name'),
    (2, 1, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE stored AS SELECT predict_batch('named', t ORDER BY id) AS b FROM typed t;
SELECT p.* FROM stored, predictions(b) p(id int, m mood, moods mood[], d positive, ds positive[], p pair, ps pair[], s spread);
SELECT p.* FROM stored, predictions(b) p(id int, n numeric, j jsonb, at timestamptz, span interval, u uuid, fixed char(5), nam name, y real);
SET datestyle = 'SQL, DMY';
SET intervalstyle = 'sql_standard';
SET extra_float_digits = 0;
SELECT b::text::prediction_batch::text = b::text AS same FROM stored;
CREATE TABLE copied AS SELECT predict_batch('named', t ORDER BY id) AS b FROM typed t;
RESET datestyle;
RESET intervalstyle;
RESET extra_float_digits;
SELECT copied.b::text = stored.b::text AS same FROM copied, stored;
DROP TABLE copied;
SELECT b::text FROM stored;
SELECT b::jsonb FROM stored;
-- Types that change: the value is the same, or the difference is an error.
ALTER TYPE mood ADD VALUE 'glad' BEFORE 'happy';
SELECT p.m FROM stored, predictions(b) p(m mood) LIMIT 1;
ALTER TYPE mood RENAME VALUE 'happy' TO 'merry';
SELECT outcome('SELECT p.m FROM stored, predictions(b) p(m mood)');
SELECT outcome('SELECT p.m FROM stored, predictions(b) p(m text)');
DROP TABLE typed;
ALTER TYPE pair DROP ATTRIBUTE x, ADD ATTRIBUTE z text;
SELECT outcome('SELECT p.p FROM stored, predictions(b) p(p pair)');
SELECT outcome('SELECT p.ps FROM stored, predictions(b) p(ps pair[])');
SELECT outcome('SELECT p.p FROM stored, predictions(b) p(p text)');
SELECT outcome('SELECT b::text::prediction_batch FROM stored');
DROP TYPE pair CASCADE;
SELECT outcome('SELECT p.p FROM stored, predictions(b) p(p text)'), outcome('SELECT p.id FROM stored, predictions(b) p(id int)'), outcome('SELECT left(b::text, 10) FROM stored');
ALTER DOMAIN positive ADD CHECK (VALUE > 7);
SELECT outcome('SELECT p.d FROM stored, predictions(b) p(d positive)'), outcome('SELECT p.d FROM stored, predictions(b) p(d int)');
DROP TABLE stored;
DROP DOMAIN positive;

-- Reading runs no function of the writer: not a cast, not a domain's constraint, unless the reader names the type.
CREATE ROLE batch_writer;
GRANT CREATE ON SCHEMA test TO batch_writer;
CREATE TABLE box (b prediction_batch);
GRANT INSERT ON box TO batch_writer;
SET ROLE batch_writer;
CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'run by %', current_user; RETURN 1; END $$;
CREATE TYPE trick AS ENUM ('t');
CREATE FUNCTION trick_int(trick) RETURNS int LANGUAGE sql AS 'SELECT evil()';
CREATE CAST (trick AS int) WITH FUNCTION trick_int(trick) AS ASSIGNMENT;
CREATE FUNCTION trick_json(trick) RETURNS json LANGUAGE sql AS $$ SELECT to_json(evil()) $$;
CREATE CAST (trick AS json) WITH FUNCTION trick_json(trick);
CREATE DOMAIN trap AS text CHECK (evil() = 1);
INSERT INTO box SELECT literal('[{"name":"e","type":"trick"},{"name":"d","type":"trap"},{"name":"l","type":"trap[]"}]', '[[["t","v","{v}"],[1]]]')::prediction_batch;
RESET ROLE;
SELECT outcome('SELECT p.e FROM box, predictions(b) p(e int)');
SELECT p.* FROM box, predictions(b) p(e text, d text, l text, y real);
SELECT b::jsonb FROM box;
SELECT b::text IS NOT NULL AS printed FROM box;
SELECT p.* FROM box, predictions(b) p(e trick, d trap);
SELECT outcome($$SELECT p.e FROM predictions((SELECT predict_batch('named', s) FROM (SELECT 1::real AS a, 2::float8 AS b, 3 AS c, 't'::trick AS e) s)) p(e int)$$);
SELECT p.e FROM predictions((SELECT predict_batch('named', s) FROM (SELECT 1::real AS a, 2::float8 AS b, 3 AS c, 't'::trick AS e) s)) p(e text);
DROP TABLE box;
SET client_min_messages = error;
DROP OWNED BY batch_writer CASCADE;
RESET client_min_messages;
DROP ROLE batch_writer;

-- Types that mean something only in one session, or nothing.
CREATE TYPE shell;
SELECT t, outcome(format('SELECT %L::prediction_batch', literal(format('[{"name":"c","type":"%s"}]', t), '[]')))
  FROM unnest(ARRAY['record', 'record[]', 'anyelement', 'cstring', 'cstring[]', 'internal', 'unknown', 'trigger', 'void', 'pg_stats', 'pg_stats[]', 'shell', 'nothing', 'setof int']) t;
DROP TYPE shell;
SELECT (predict_batch('named', s))::real[] FROM (SELECT 1::real AS a, 2::float8 AS b, 3 AS c, ROW(1, 'x') AS r) s;
SELECT outcome($$SELECT p.r FROM predictions((SELECT predict_batch('named', s) FROM (SELECT 1::real AS a, 2::float8 AS b, 3 AS c, 4 AS d, ROW(1, 'x') AS r) s)) p(r text)$$);
-- Modifiers.
SELECT t, m, outcome(format('SELECT p.c FROM predictions(%L) p(c text)', literal(format('[{"name":"c","type":"%s","typmod":%s}]', t, m), format('[[["%s"],null]]', v))))
  FROM (VALUES ('int', -1, '1'), ('int', 4, '1'), ('numeric(5,1)', -1, '1.55'), ('numeric', 327686, '1.555'), ('numeric', 0, '1'), ('numeric', 2147483647, '1'), ('character', 7, 'a'), ('character', 500000004, 'a'),
    ('character', 3, 'a'), ('varchar', 4, 'a'), ('varchar', -2, 'a'), ('bit', 3, '101'), ('bit', 2000000000, '1'), ('interval', 5, '1 day'), ('interval second(1)', -1, '1.25'), ('timestamp', 7, '2020-01-01'), ('timestamp', 0, '2020-01-01 00:00:00.7')) v(t, m, v);
-- A short text does not become a long value.
SELECT outcome(format('SELECT %L::prediction_batch IS NOT NULL', literal('[{"name":"c","type":"char(10485760)"}]', '[' || repeat('[["a"],null],', 30) || '[["a"],null]]')));

-- Counts and shapes.
SELECT n, outcome(format('SELECT (%L::prediction_batch)::jsonb', literal((SELECT jsonb_agg(jsonb_build_object('name', 'c' || g, 'type', 'int')) FROM generate_series(1, n) g)::text, '[]')))
  FROM unnest(ARRAY[1663, 1664, 33000, 70000]) n;
SELECT shape, outcome(format('SELECT %L::prediction_batch::jsonb', literal('[]', format('[[[],%s]]', value), shape)))
  FROM (VALUES ('[]', '[1]'), ('[]', '[[1]]'), ('[2]', '[[1,2]]'), ('[2]', '[[1]]'), ('[2]', '[[1,2,3]]'), ('[2]', '[1]'), ('[0]', '[[]]'), ('[3,0]', '[[[],[],[]]]'), ('[3,0]', '[[]]'), ('[30000000,0]', '[[]]'),
    ('[1000000000000,0]', '[[]]'), ('[0,1000000000000]', '[[]]'), ('[4294967296,4294967296]', '[[]]'), ('[18446744073709551616]', '[[]]'), ('[-1]', '[[]]'), ('[1.5]', '[[1]]')) v(shape, value);
SELECT outcome(format('SELECT %L::prediction_batch', literal('[]', '[]', '[' || repeat('1,', 64) || '1]')));
SELECT outcome(format('SELECT %L::prediction_batch', repeat('[', 100000)));
-- A wide row is refused where it is made.
DO $$ BEGIN EXECUTE 'CREATE TABLE wide (a real, b float8, c int,' || (SELECT string_agg('w' || g || ' bool', ',') FROM generate_series(1, 1597) g) || ')'; END $$;
INSERT INTO wide (a, b, c) VALUES (1, 2, 3);
SELECT outcome('SELECT (predict_batch(''named'', w))::real[] FROM wide w');
SELECT outcome('SELECT (predict_batch(''named'', s))::real[] FROM (SELECT ' || (SELECT string_agg(g || ' AS x' || g, ',') FROM generate_series(1, 1661) g) || ', 1::real AS a, 2::float8 AS b, 3 AS c) s');
SELECT outcome('SELECT (predict_batch(''shapes'', s))::bigint[] FROM (SELECT ' || (SELECT string_agg(g || ' AS w' || g, ',') FROM generate_series(1, 1662) g) || ', 1::real AS a, 2::real AS b) s');
DROP TABLE wide;

-- What JSON allows and values do not.
SELECT what, outcome(format('SELECT %L::prediction_batch::text IS NOT NULL', text)) FROM (VALUES
    ('zero byte in a name', literal('[{"name":"a\u0000b","type":"int"}]', '[]')), ('zero byte in a value', literal('[{"name":"a","type":"text"}]', '[[["a\u0000"],null]]')),
    ('half a pair', literal('[{"name":"a","type":"text"}]', '[[["\ud800"],null]]')), ('a long name', literal(format('[{"name":"%s","type":"int"}]', repeat('n', 300)), '[]')),
    ('1e400', literal('[]', '[[[],[1e400]]]')), ('1e39', literal('[]', '[[[],[1e39]]]')), ('NaN', literal('[]', '[[[],["NaN"]]]')), ('nan', literal('[]', '[[[],["nan"]]]')),
    ('another format', literal('[]', '[]', more => ',"format":2')), ('this format', literal('[]', '[]', more => ',"format":1')), ('no version', replace(literal('[]', '[]'), '"version":1', '"version":-1')),
    ('another output', replace(literal('[]', '[]'), '"selected":0', '"selected":1')), ('rows twice', literal('[]', '[]', more => ',"rows":[]')), ('more', literal('[]', '[]', more => ',"more":1')),
    ('rows in disguise', literal('[]', '[]', more => ',"r\u006fws":[1]')), ('no rows', '{"model":"m","version":1,"outputs":[],"selected":0,"carried":[]}'), ('an end', literal('[]', '[]') || ']'),
    ('element', literal('[]', '[[[],[[1,2]]]]', '[2]', ',"element":{"position":1}')), ('no element', literal('[]', '[[[],[[1,2]]]]', '[2]', ',"element":{"position":2}')), ('no key', literal('[]', '[]', '[]', ',"element":{"text":"a"}')),
    ('a value too many', literal('[]', '[[["1"],[1]]]')), ('a value too few', literal('[{"name":"a","type":"int"}]', '[[[],[1]]]')), ('a number', literal('[{"name":"a","type":"int"}]', '[[[1],[1]]]')),
    ('an output too many', literal('[]', '[[[],[1,2]]]')), ('an output too few', literal('[]', '[[[],[]]]')), ('a comma', literal('[]', '[[[],[1]],]'))) v(what, text);
-- JSON within JSON, that text can hold and jsonb cannot.
SELECT outcome(format('SELECT %L::prediction_batch::jsonb', replace(literal('[]', format('[[[],[[%s]]]]', v)), '"kind":"tensor","element":"float32","shape":[]', '"kind":"nested","of":"sequence"')))
  FROM unnest(ARRAY['"\ud800"', '"\u0000"', '1e999', 'nothing']) v;
-- JSON in the order of jsonb, which puts the rows first.
SELECT literal('[{"name":"a","type":"int"}]', '[[["1"],[2.5]]]')::jsonb::text::prediction_batch::text;
-- A value of the type within a value of the type.
SELECT p.y, q.* FROM predictions(literal('[{"name":"inner","type":"prediction_batch"}]', format('[[[%s],[1]]]', to_json(literal('[{"name":"a","type":"int"}]', '[[["7"],[2]]]')))) ::prediction_batch) p("inner" prediction_batch, y real),
    predictions(p."inner") q(a int, y real);
-- A handle belongs to the query and the user that made it.
CREATE TABLE kept AS SELECT predict_internal.predict_batch_handle('named', ARRAY['id'], t) AS handle FROM (SELECT 1 AS id, 1::real AS a, 2::float8 AS b, 3 AS c) t;
SELECT outcome('SELECT p.* FROM kept, predict_internal.predictions_of_handle(handle) p(id int)');
DROP TABLE kept;

SELECT predict.drop_model('named'), predict.drop_model('shapes');
DROP TYPE mood, spread;
DROP FUNCTION literal, outcome;
