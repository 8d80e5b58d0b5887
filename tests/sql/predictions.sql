-- predictions: the ways out of a prediction_batch: columns by name, carried columns, conversions, casts, and values that are stored.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

-- shapes: of x[2], label [N] int64 = their sum, total [N,1], pair [N,2], grid [N,2,2] = x twice.
SELECT predict.create_model('shapes', model('shapes')), predict.create_model('named', model('named')), predict.create_model('text', model('text')), predict.create_model('zip', model('zipmap_text')),
       predict.create_model('types', model('types'));
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE t (id int PRIMARY KEY, x real[], note text, at date, price numeric(8,2), mood mood, data jsonb, nothing text);
INSERT INTO t VALUES (1, '{1,2}', 'first', '2020-01-01', 1.50, 'sad', '{"a": 1}'), (2, '{3.5,4}', 'second', '2020-02-02', 2.25, 'happy', '[1]'), (3, NULL, 'third', NULL, NULL, NULL, NULL);

-- Outputs and carried columns, by name, in any order, those that are wanted; carried in the type that they had.
SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, label bigint, total real, pair real[], grid real[]) ORDER BY id;
SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(total real, note text, at date, price numeric(8,2), mood mood, data jsonb, nothing text, id int) ORDER BY id;
SELECT count(*) FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int);
SELECT p.total FROM predictions((SELECT predict_batch('shapes', t ORDER BY id) FROM t)) p(total real);
-- A column that the model took comes back where it is named.
SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, x real[], label bigint) ORDER BY id;
-- The same through a value that does not know who reads it: what the model took is not carried.
CREATE TABLE stored AS SELECT 'shapes' AS name, predict_batch('shapes', t ORDER BY id) AS batch FROM t;
SELECT p.* FROM stored, predictions(batch) p(id int, note text, label bigint) ORDER BY id;
SELECT * FROM attempt($$SELECT p.* FROM stored, predictions(batch) p(id int, x real[])$$);
-- A column that is nowhere.
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int, probability real)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', 1, 2))) p(id int)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes/total', t) FROM t)) p(id int, label bigint)$$);
-- A reference that names an output gives that one.
SELECT * FROM predictions((SELECT predict_batch('shapes/total', t) FROM t)) p(id int, total real) ORDER BY id;
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t))$$);

-- Conversions, as an assignment makes them.
CREATE DOMAIN positive AS real CHECK (VALUE > 0);
CREATE DOMAIN below_7 AS real CHECK (VALUE < 7);
SELECT * FROM predictions((SELECT predict_batch('shapes', 1.25, 2))) p(total float8, label int);
SELECT * FROM predictions((SELECT predict_batch('shapes', 1.25, 2))) p(total numeric(5,1), label smallint);
SELECT * FROM predictions((SELECT predict_batch('shapes', 1.25, 2))) p(total numeric, label numeric(3,0));
SELECT * FROM predictions((SELECT predict_batch('shapes', 1.25, 2))) p(total int, label real);
SELECT * FROM predictions((SELECT predict_batch('shapes', 1.25, 2))) p(total text, label varchar(3));
SELECT * FROM predictions((SELECT predict_batch('shapes', 1.25, 2))) p(total json, label jsonb, grid json, pair jsonb);
SELECT * FROM predictions((SELECT predict_batch('shapes', 1.25, 2))) p(pair float8[], grid float8[], total real[], label bigint[]);
SELECT * FROM predictions((SELECT predict_batch('shapes', 1.25, 2))) p(pair int[], grid numeric[], total float8[]);
SELECT * FROM predictions((SELECT predict_batch('shapes', 1.25, 2))) p(total positive, label bigint);
SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id text, note varchar(10), price int, mood text, at timestamp) ORDER BY id;
SELECT * FROM predictions((SELECT predict_batch('zip', 0.25, 0.75))) p(scores jsonb);
SELECT * FROM predictions((SELECT predict_batch('zip', 0.25, 0.75))) p(scores json);
SELECT * FROM predictions((SELECT predict_batch('zip', 0.25, 0.75))) p(scores text);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', 1, 2))) p(total date)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', 1, 2))) p(total boolean)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', 1, 2))) p(pair real)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('zip', 1, 2))) p(scores real[])$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('text', 'longer'))) p(t varchar(3))$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('text', 'x'))) p(t int)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', 30000, 30000))) p(label smallint)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', 3, 4))) p(total test.below_7)$$);
SELECT * FROM attempt($$SELECT * FROM predictions((SELECT predict_batch('shapes', t) FROM test.t)) p(id date)$$);

-- In a FROM clause like any other function.
SELECT g, p.total FROM generate_series(1, 2) g, LATERAL predictions((SELECT predict_batch('shapes', g, i) FROM generate_series(1, 2) i)) p(total real) ORDER BY 1, 2;
SELECT g, p.total FROM generate_series(1, 2) g LEFT JOIN LATERAL predictions((SELECT predict_batch('shapes', g, i) FROM generate_series(2, g) i)) p(total real) ON true ORDER BY 1, 2;
SELECT * FROM ROWS FROM (predictions((SELECT predict_batch('shapes', g, 1) FROM generate_series(1, 3) g)) AS (total real), generate_series(7, 8)) WITH ORDINALITY r(total, g, n);
SELECT * FROM predictions((SELECT predict_batch('shapes', g, 1) FROM generate_series(1, 3) g)) a(total real) JOIN predictions((SELECT predict_batch('named', g, 1, 0) FROM generate_series(1, 3) g)) b(y real) ON b.y = a.total + 9 ORDER BY 1;
WITH b AS MATERIALIZED (SELECT predict_batch('shapes', g, 1) AS batch FROM generate_series(1, 2) g)
SELECT one.total, two.label FROM b, predictions(batch) one(total real), predictions(batch) two(label bigint) ORDER BY 1, 2;
SELECT * FROM predictions((SELECT batch FROM stored)) p(id int, total real) ORDER BY id;
SELECT (SELECT sum(total) FROM predictions(batch) p(total real)) FROM stored;
SELECT sum(total) FROM predictions((SELECT predict_batch('shapes', t) FROM t WHERE id < 3)) p(total real);
SELECT exists(SELECT FROM predictions((SELECT predict_batch('shapes', t) FROM t)) p(id int) WHERE id = 2);

-- The casts: the first output, or the one that the reference names.
SELECT (predict_batch('shapes', t ORDER BY id))::bigint[], (predict_batch('shapes/total', t ORDER BY id))::real[], (predict_batch('shapes/pair', t ORDER BY id))::float8[] FROM t WHERE id < 3;
SELECT (predict_batch('shapes/total', t ORDER BY id))::text[], (predict_batch('shapes/pair', t ORDER BY id))::text[], (predict_batch('shapes/pair[2]', t ORDER BY id))::real[] FROM t;
SELECT (predict_batch('shapes/grid', t ORDER BY id))::real[], (predict_batch('shapes/grid[3]', t ORDER BY id))::float8[] FROM t WHERE id < 3;
SELECT jsonb_pretty((predict_batch('shapes', t ORDER BY id))::jsonb) FROM t WHERE id = 1;
SELECT (predict_batch('zip', 0.25, 0.75))::jsonb, (predict_batch('zip/scores[good]', 0.25, 0.75))::real[], (predict_batch('zip/scores[none]', 0.25, 0.75))::real[];
SELECT (predict_batch('text', note ORDER BY id))::text[] FROM t;
SELECT * FROM attempt($$SELECT (predict_batch('text', 'x'))::real[]$$);
SELECT * FROM attempt($$SELECT (predict_batch('shapes/total', 1, 2))::bigint[]$$);
SELECT * FROM attempt($$SELECT (predict_batch('zip', 1, 2))::real[]$$);
SELECT * FROM attempt($$SELECT (predict_batch('shapes', 1, 2))::int$$);

-- As text, and back.
SELECT (predict_batch('shapes', t ORDER BY id))::text FROM t WHERE id = 1 \gset value_
SELECT :'value_predict_batch'::jsonb - 'rows' ? 'model' AS known;
SELECT p.* FROM predictions(:'value_predict_batch'::prediction_batch) p(id int, note text, at date, price numeric, mood mood, data jsonb, nothing text, label bigint, total real, pair real[], grid real[]);
SELECT batch::text::prediction_batch::text = batch::text AS same FROM stored;
SELECT p.* FROM stored, predictions(batch::text::prediction_batch) p(id int, at date, data jsonb, grid real[]) ORDER BY id;
SELECT count(*) FROM (SELECT predict_batch('types', r) AS b FROM (SELECT 'Infinity'::real AS f32, 'NaN'::float8 AS f64, 1 AS i8, 2 AS i16, 3 AS i32, 9223372036854775807 AS i64, 4 AS u8, 5 AS u16, 6 AS u32, 9223372036854775807 AS u64, true AS b, E'quote " back \\ ü' AS s) r) s,
       predictions(b::text::prediction_batch) p(o_f32 real, o_f64 float8, o_i64 bigint, o_u64 numeric, o_b boolean, o_s text)
 WHERE (o_f32, o_f64, o_i64, o_u64, o_b, o_s) = ('Infinity', 'NaN', 9223372036854775807, 9223372036854775807, true, E'quote " back \\ ü');
SELECT left(a, 40) FROM unnest(ARRAY['', '{}', '[]', 'nonsense', '{"model": "m"}', '{"model": "m", "rows": 3}', '{"model": 1, "version": "x"}']) v, attempt(format('SELECT %L::prediction_batch', v)) WITH ORDINALITY a(a, n) WHERE n = 1;

-- Stored, copied out and in as text and binary, and read when the model is gone.
CREATE TABLE copied (LIKE stored);
\set folder `mktemp -d`
\setenv PG_PREDICT_COPIES :folder
\copy stored TO PROGRAM 'cat > "$PG_PREDICT_COPIES/text"'
\copy stored TO PROGRAM 'cat > "$PG_PREDICT_COPIES/binary"' (FORMAT binary)
\copy copied FROM PROGRAM 'cat "$PG_PREDICT_COPIES/text"'
\copy copied FROM PROGRAM 'cat "$PG_PREDICT_COPIES/binary"' (FORMAT binary)
\! rm -r "$PG_PREDICT_COPIES"
SELECT count(*), count(*) FILTER (WHERE c.batch::text = s.batch::text) AS same FROM copied c, stored s;
INSERT INTO stored SELECT 'large', predict_batch('named', g, 2, 3) FROM generate_series(1, 5000) g;
SELECT name, pg_column_size(batch) > 0, octet_length(batch::text) > 10000 FROM stored ORDER BY name;
UPDATE copied SET name = name || ' copied', batch = batch;
SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models ORDER BY name) n;
SELECT p.* FROM copied, predictions(batch) p(id int, note text, label bigint) ORDER BY 1, 2;
SELECT count(*), sum(y::float8) FROM stored, predictions(batch) p(y real) WHERE name = 'large';
SELECT batch::bigint[] FROM stored WHERE name = 'shapes';
SELECT batch IS NULL FROM stored ORDER BY name;
TRUNCATE copied;
DROP TABLE stored, copied;
