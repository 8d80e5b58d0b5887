-- types: every element type in both directions, what goes into which, ranges, and the errors that name the column.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

-- types: an input and an output of every element type; what comes out is what went in.
SELECT predict.create_model('types', model('types')), predict.create_model('text', model('text'));
SELECT position, name, type, row_shape FROM predict.model_inputs WHERE model = 'types' ORDER BY 1;
SELECT position, name, type, row_shape FROM predict.model_outputs WHERE model = 'types' ORDER BY 1;
CREATE TABLE t (id int, f32 real, f64 float8, i8 int2, i16 int2, i32 int4, i64 int8, u8 int2, u16 int4, u32 int8, u64 numeric, b boolean, s text);
INSERT INTO t VALUES (1, 1.5, 2.5, -128, -32768, -2147483648, -9223372036854775808, 0, 0, 0, 0, false, ''),
                     (2, -1234.5, 1234567.25, 127, 32767, 2147483647, 9223372036854775807, 255, 65535, 4294967295, 9223372036854775807, true, 'zwölf ♞ 𝄞'),
                     (3, 'NaN', '-Infinity', 1, 1, 1, 1, 1, 1, 1, 1, true, E'tab\there "quoted" \\');
SELECT * FROM attempt($$SELECT predict_batch('types', t) FROM t$$);
-- uint64 takes integers; numeric could have a fraction.
ALTER TABLE t ALTER u64 TYPE int8;
SELECT p.* FROM predictions((SELECT predict_batch('types', t) FROM t)) p(id int, o_f32 real, o_f64 float8, o_i8 int2, o_i16 int2, o_i32 int4, o_i64 int8,
       o_u8 int2, o_u16 int4, o_u32 int8, o_u64 numeric, o_b boolean, o_s text) ORDER BY id;
SELECT id, jsonb_pretty(predict_json('types', t)) FROM t WHERE id < 3 ORDER BY id;
SELECT o, predict_text('types/o_' || o, t) FROM t, unnest(ARRAY['f32', 'f64', 'i8', 'i16', 'i32', 'i64', 'u8', 'u16', 'u32', 'u64', 'b', 's']) WITH ORDINALITY u(o, n) WHERE id = 2 ORDER BY n;
SELECT id, o, predict('types/o_' || o, t) FROM t, unnest(ARRAY['f32', 'f64', 'i8', 'u16', 'u32', 'b']) WITH ORDINALITY u(o, n) ORDER BY id, n;
SELECT o, predict_array('types/o_' || o, t) FROM t, unnest(ARRAY['f32', 'i8', 'i16', 'u8', 'u16', 'b']) WITH ORDINALITY u(o, n) WHERE id = 2 ORDER BY n;
SELECT * FROM attempt($$SELECT predict('types/o_s', t) FROM t$$);
SELECT * FROM attempt($$SELECT predict_array('types/o_s', t) FROM t$$);

-- Every type of SQL into every element type: taken where the values are the same by type, else 42804.
CREATE FUNCTION into_input(given text, input text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
    EXECUTE format('SELECT predict_text(%L, r) FROM (SELECT %s) r', 'types/o_' || input,
        (SELECT string_agg(CASE WHEN e = input THEN format('%s AS %s', given, e) WHEN e = 'b' THEN 'false AS b' WHEN e = 's' THEN quote_literal('') || '::text AS s' ELSE '0 AS ' || e END, ', ')
           FROM unnest(ARRAY['f32', 'f64', 'i8', 'i16', 'i32', 'i64', 'u8', 'u16', 'u32', 'u64', 'b', 's']) e)) INTO result;
    RETURN result;
EXCEPTION WHEN datatype_mismatch THEN RETURN '-'; WHEN numeric_value_out_of_range OR invalid_parameter_value THEN RETURN '!';
END $$;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
SELECT given, string_agg(into_input(given, e), ' ' ORDER BY n) AS "f32 f64 i8 i16 i32 i64 u8 u16 u32 u64 b s"
  FROM unnest(ARRAY['1::int2', '1::int4', '1::int8', '1.5::real', '1.5::float8', '1.5::numeric', 'true', '''x''::text', '''x''::varchar(3)', '''x''::char(3)', '''x''::name',
                    '''happy''::test.mood', '7::test.percent', '''2020-02-02''::date', '''a''::"char"', '1::oid', '''1''::money', '''[1]''::jsonb', '''\x01''::bytea', '''1 s''::interval']) WITH ORDINALITY g(given, m),
       unnest(ARRAY['f32', 'f64', 'i8', 'i16', 'i32', 'i64', 'u8', 'u16', 'u32', 'u64', 'b', 's']) WITH ORDINALITY u(e, n) GROUP BY m, given ORDER BY m;
CREATE VIEW wrong AS SELECT '1'::text AS f32, f64, i8, i16, i32, i64, u8, u16, u32, u64, b, s FROM t;
SELECT * FROM attempt('SELECT predict(''types'', wrong) FROM wrong');
CREATE VIEW wrong_2 AS SELECT f32, f64, i8, i16, i32, 1.0::float8 AS i64, u8, u16, u32, u64, b, s FROM t;
SELECT * FROM attempt('SELECT predict(''types'', wrong_2) FROM wrong_2');
SELECT * FROM attempt($$SELECT predict_text('text', 1)$$);
SELECT * FROM attempt($$SELECT predict_text('text', now())$$);
SELECT * FROM attempt($$SELECT predict_text('text', NULL::jsonb)$$);

-- Out of range: 22003, with the column's name.
CREATE FUNCTION range_of(given text, input text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT a FROM test.attempt(format('SELECT predict(%L, r) FROM (SELECT %s) r', 'types/o_' || input,
        (SELECT string_agg(CASE WHEN e = input THEN format('%s AS %s', given, e) WHEN e = 'b' THEN 'false AS b' WHEN e = 's' THEN quote_literal('') || '::text AS s' ELSE '0 AS ' || e END, ', ')
           FROM unnest(ARRAY['f32', 'f64', 'i8', 'i16', 'i32', 'i64', 'u8', 'u16', 'u32', 'u64', 'b', 's']) e))) a $$;
SELECT given, input, a FROM (VALUES ('128', 'i8'), ('-129', 'i8'), ('32768', 'i16'), ('2147483648', 'i32'), ('-1', 'u8'), ('256', 'u8'), ('65536', 'u16'), ('-1', 'u16'), ('4294967296', 'u32'),
       ('-1', 'u32'), ('-1', 'u64'), ('1e39::float8', 'f32'), ('-1e39::numeric', 'f32'), ('1e400::numeric', 'f32'), ('1e400::numeric', 'f64')) v(given, input), range_of(given, input) WITH ORDINALITY a(a, n) ORDER BY 2, 1, n;
-- What float32 takes rounded, and what is no number.
SELECT into_input(g, 'f32') FROM unnest(ARRAY['16777217', '1e-50::float8', '''NaN''::numeric', '''Infinity''::float8', '''-Infinity''::numeric', '0.1::float8', '-0.0::real']) WITH ORDINALITY u(g, n) ORDER BY n;
SELECT into_input(g, 'f64') FROM unnest(ARRAY['9007199254740993::int8', '''NaN''::real', '0.1::real', '0.1::numeric', '1e-400::numeric', '1e20::real']) WITH ORDINALITY u(g, n) ORDER BY n;

-- Arrays into rows of two: every array type and element type, and back in the type of the output.
SELECT predict.create_model('pair_' || e, model('pair_' || e)) FROM unnest(ARRAY['f32', 'f64', 'i8', 'i32', 'i64', 'u8', 'b', 's']) e;
SELECT * FROM predictions((SELECT predict_batch('pair_f32', ARRAY[1.5, g]) FROM generate_series(1, 2) g)) p(y real[]) ORDER BY 1;
SELECT * FROM predictions((SELECT predict_batch('pair_f64', ARRAY[0.1, g]::float8[]) FROM generate_series(1, 2) g)) p(y float8[]) ORDER BY 1;
SELECT * FROM predictions((SELECT predict_batch('pair_i8', ARRAY[-128, g]) FROM generate_series(1, 2) g)) p(y int2[]) ORDER BY 1;
SELECT * FROM predictions((SELECT predict_batch('pair_i32', ARRAY[-2147483648, g]) FROM generate_series(1, 2) g)) p(y int4[]) ORDER BY 1;
SELECT * FROM predictions((SELECT predict_batch('pair_i64', ARRAY[9223372036854775807, g]) FROM generate_series(1, 2) g)) p(y int8[]) ORDER BY 1;
SELECT * FROM predictions((SELECT predict_batch('pair_u8', ARRAY[255, g]) FROM generate_series(1, 2) g)) p(y int2[]) ORDER BY 1;
SELECT * FROM predictions((SELECT predict_batch('pair_b', ARRAY[true, g > 1]) FROM generate_series(1, 2) g)) p(y boolean[]) ORDER BY 1;
SELECT * FROM predictions((SELECT predict_batch('pair_s', ARRAY['größer', g::text]) FROM generate_series(1, 2) g)) p(y text[]) ORDER BY 1;
SELECT * FROM attempt($$SELECT predict_batch('pair_i8', ARRAY[1, g]) FROM generate_series(127, 129) g$$);
SELECT * FROM attempt($$SELECT predict_batch('pair_i32', ARRAY[1.5, 2])$$);
SELECT * FROM attempt($$SELECT predict_batch('pair_s', ARRAY[1, 2])$$);
SELECT * FROM attempt($$SELECT predict_batch('pair_f32', ARRAY['1', '2'])$$);
SELECT * FROM attempt($$SELECT predict_batch('pair_b', ARRAY[1, 0])$$);
SELECT predict_json('pair_s', 'a'::text, 'b'::varchar), predict_json('pair_b', true, false), predict_json('pair_u8', 1, 255);
-- Values that are long, compressed, stored out of line.
CREATE TABLE long (id int, s text);
ALTER TABLE long ALTER s SET STORAGE EXTERNAL;
INSERT INTO long VALUES (1, repeat('0123456789', 30000)), (2, repeat('ü', 10)), (3, '');
SELECT p.id, length(p.t), md5(p.t) = md5(l.s) AS same FROM predictions((SELECT predict_batch('text', long) FROM long)) p(id int, t text) JOIN long l USING (id) ORDER BY 1;
SELECT id, predict_text('text', s) = s AS same FROM long ORDER BY id;
CREATE TABLE wide_arrays (id int, x real[]);
INSERT INTO wide_arrays SELECT g, ARRAY[g, -g] FROM generate_series(1, 3) g;
SELECT p.* FROM predictions((SELECT predict_batch('pair_f32', w) FROM wide_arrays w)) p(id int, y real[]) ORDER BY id;

SELECT count(predict.drop_model(name)) FROM (SELECT DISTINCT name FROM predict.models) n;
