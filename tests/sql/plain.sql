-- plain: predict, predict_text, predict_array and predict_json: references, elements, answers that are NULL, outputs of the wrong kind.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

SELECT predict.create_model('shapes', model('shapes')), predict.create_model('named', model('named')), predict.create_model('text', model('text')),
       predict.create_model('zip', model('zipmap_text')), predict.create_model('zipi', model('zipmap_integer')), predict.create_model('odd', model('odd_names')),
       predict.create_model('lying', model('lying_shape')), predict.create_model('lookup', model('lookup')), predict.create_model('cased', model('cased')),
       predict.create_model('divide', model('divide')), predict.create_model('remainder', model('remainder'));
SELECT predict.create_model('named', model('named'), '{"defaults": {"c": 7}}');
SELECT predict.set_alias('named', 'next', 2);

-- References.
SELECT r, predict(r, 1, 2, NULL), predict(r, 1, 2, 3) FROM unnest(ARRAY['named', 'named@1', 'named@2', 'named@next', 'named@default', 'named/y', 'named@2/y', 'named@next/y[1]']) WITH ORDINALITY u(r, n) ORDER BY n;
SELECT r, predict(r, 1, 2.5) FROM unnest(ARRAY['shapes', 'shapes/label', 'shapes/total', 'shapes/total[1]', 'shapes/pair[1]', 'shapes/pair[2]', 'shapes/grid[1]', 'shapes/grid[4]']) WITH ORDINALITY u(r, n) ORDER BY n;
SELECT predict('lying', 1, 2), predict('lying/label', ARRAY[3, 4]), predict('odd', 1), predict('odd/dense/out:0', 1), predict('odd/dense/out:0[1]', 1);
SELECT r, left(a, 60) FROM unnest(ARRAY['nobody', 'named@3', 'named@0', 'named@none', 'named@', 'named/', 'named@/y', '@1', '/y', 'named@1@2', 'named@99999999999', 'named@-1', 'named[1]', ' named', 'Named', 'named@1x']) WITH ORDINALITY u(r, m),
       attempt(format('SELECT predict(%L, 1, 2, 3)', r)) WITH ORDINALITY a(a, n) WHERE n = 1 ORDER BY m;
SELECT a FROM unnest(ARRAY['shapes/none', 'shapes/Label', 'shapes/pair[0]', 'shapes/pair[3]', 'shapes/pair[x]', 'shapes/none[1]', 'shapes/pair[1', 'shapes/label[2]']) WITH ORDINALITY u(r, m),
       attempt(format('SELECT predict(%L, 1, 2)', r)) WITH ORDINALITY a(a, n) ORDER BY m, n;

-- Maps, by their keys; a key that is not there is NULL.
SELECT predict('zip/scores[bad]', 0.25, 0.75), predict('zip/scores[good]', 0.25, 0.75), predict('zip/scores[none]', 0.25, 0.75), predict_text('zip/scores[good]', 0.25, 0.75), predict_json('zip/scores[good]', 0.25, 0.75), predict_array('zip/scores[good]', 0.25, 0.75);
SELECT predict('zipi/scores[0]', 0.25, 0.75), predict('zipi/scores[7]', 0.25, 0.75), predict('zipi/scores[1]', 0.25, 0.75), predict('zipi/scores[-7]', 0.25, 0.75);
SELECT predict_json('zip', 0.25, 0.75), predict_json('zipi', 0.25, 0.75);
SELECT a FROM unnest(ARRAY['predict(''zip'', 1, 2)', 'predict_text(''zip/scores'', 1, 2)', 'predict_array(''zip'', 1, 2)', 'predict(''zipi/scores[a]'', 1, 2)']) WITH ORDINALITY u(r, m), attempt('SELECT ' || r) WITH ORDINALITY a(a, n) ORDER BY m, n;

-- Each in its type.
SELECT pg_typeof(predict('shapes', 1, 2)), pg_typeof(predict_text('shapes', 1, 2)), pg_typeof(predict_array('shapes', 1, 2)), pg_typeof(predict_json('shapes', 1, 2));
SELECT predict_text('shapes', 1, 2.5), predict_text('shapes/total', 1, 2.5), predict_text('shapes/grid[2]', 1, 2.5), predict_text('text', 'some text'), predict_text('text/t[1]', 'some text');
SELECT predict_array('shapes', 1, 2.5), predict_array('shapes/pair', 1, 2.5), predict_array('shapes/grid', 1, 2.5), predict_array('shapes/grid[2]', 1, 2.5);
SELECT predict_json('shapes', 1, 2.5), predict_json('shapes/grid', 1, 2.5), predict_json('shapes/pair[2]', 1, 2.5), predict_json('text', E'a "quoted" \\ text');
-- An output that a call cannot give, and which can.
SELECT a FROM unnest(ARRAY['predict(''shapes/pair'', 1, 2)', 'predict(''shapes/grid'', 1, 2)', 'predict_text(''shapes/pair'', 1, 2)', 'predict(''text'', ''x'')', 'predict_array(''text'', ''x'')']) WITH ORDINALITY u(r, m), attempt('SELECT ' || r) WITH ORDINALITY a(a, n) ORDER BY m, n;

-- The same as from a batch, a row at a time.
SELECT count(*), count(*) FILTER (WHERE predict('named', g, 2, 3) <> y OR predict('shapes/total', g, 2)::real <> g + 2) AS wrong
  FROM (SELECT g, ((predict_batch('named', g, 2, 3))::real[])[1] AS y FROM generate_series(1, 300) g GROUP BY g) s;
-- In any place of a query.
SELECT g FROM generate_series(1, 5) g WHERE predict('named', g, 0, 0) > 3 ORDER BY predict('named', -g, 0, 0);
SELECT predict('named', g % 2, 0, 0) AS p, count(*) FROM generate_series(1, 5) g GROUP BY 1 ORDER BY 1;
SELECT sum(predict('named', g, 0, 0)), max(predict('named', 0, g, 0)) OVER () FROM generate_series(1, 3) g GROUP BY g ORDER BY 1;
SELECT CASE WHEN g = 1 THEN predict('named', g, 0, 0) ELSE predict('shapes', g, 1) END FROM generate_series(1, 3) g;
SELECT predict('named', predict('named', 1, 0, 0), predict('named', 2, 0, 0), 0);

-- What fails while it runs, fails alone: the next call is right.
SELECT predict('lookup', 4);
SELECT split_part(a, ':', 1), a ~ 'model "lookup@1" failed while running' AS named FROM attempt($$SELECT predict('lookup', 5)$$) WITH ORDINALITY a(a, n) WHERE n = 1;
SELECT split_part(a, ':', 1), a ~ 'model "lookup@1" failed while running' AS named FROM attempt($$SELECT predict_batch('lookup', g) FROM generate_series(0, 9) g$$) WITH ORDINALITY a(a, n) WHERE n = 1;
SELECT predict('lookup', 4), (predict_batch('lookup', g))::real[] FROM generate_series(0, 4) g;
SELECT predict('divide', 7, 2), predict('remainder', 7, 2), predict('divide', -2147483648, 2);
SELECT split_part(a, ':', 1) FROM attempt($$SELECT predict('divide', 9, 0)$$) WITH ORDINALITY a(a, n) WHERE n = 1;
-- What the processor would stop a program for is an error too, and the server goes on.
SELECT split_part(a, ':', 1) FROM attempt($$SELECT predict('divide', -2147483648, -1)$$) WITH ORDINALITY a(a, n) WHERE n = 1;
SELECT split_part(a, ':', 1) FROM attempt($$SELECT predict('remainder', 9, 0)$$) WITH ORDINALITY a(a, n) WHERE n = 1;
SELECT predict('divide', 9, 3);

SELECT count(predict.drop_model(name)) FROM (SELECT DISTINCT name FROM predict.models) n;
