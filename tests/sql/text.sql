-- text: texts: tokenised, run with texts of like length, given back in row order; pairs; vectors of their tokens.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start
-- The model `tokens` gives (token, 1) as the state of each token, and the sum of the tokens; red is 2, green 3, blue 4.

SELECT predict.create_model('states', model('tokens'), '{}', tokenizer()), predict.create_model('mean', model('tokens'), '{"pooling": "mean"}', tokenizer()),
       predict.create_model('first', model('tokens'), '{"pooling": "cls"}', tokenizer()), predict.create_model('unit', model('tokens'), '{"pooling": "mean", "normalize": true}', tokenizer()),
       predict.create_model('short', model('tokens'), '{"max_length": 2}', tokenizer());
SELECT model, name, type, row_shape FROM predict.model_outputs ORDER BY model COLLATE "C", position;

SELECT predict_json('states', 'red green'), predict_json('states', 'RED pink blue'), predict_json('short', 'red green blue');
SELECT embed('mean', 'red blue'), embed('first', 'blue red red'), embed('unit', 'green'), predict('states/total', 'red green blue');
SELECT embed('mean', NULL) IS NULL AS "null", embed('mean', ''), predict_json('states', '');

-- In row order and without their padding, whatever the batch.
CREATE TABLE posts AS SELECT g AS id, repeat('red ', g % 7) || 'blue' AS text FROM generate_series(1, 500) g;
SELECT size, count(*), count(*) FILTER (WHERE p.total = 2 * (p.id % 7) + 4 AND array_length(p.states, 1) = p.id % 7 + 1 AND p.states[p.id % 7 + 1][1] = 4) AS right
  FROM unnest(ARRAY[1, 7, 0]) size, set_config('pg_predict.batch_size', size::text, false),
       LATERAL (SELECT (predict_batch('states', p))::text::prediction_batch AS batch FROM posts p WHERE set_config IS NOT NULL) b,
       predictions(b.batch) AS p(id int, states real[], total real)
 GROUP BY size ORDER BY size;
RESET pg_predict.batch_size;
SELECT count(*), max(abs(p.states[1] - (2.0 * (p.id % 7) + 4) / (p.id % 7 + 1))) < 1e-6 AS right FROM predictions((SELECT predict_batch('mean', p) FROM posts p)) AS p(id int, states real[]);

-- The state of the last token: beside texts of very different lengths, on whichever side these are padded, and where a text is cut.
SELECT predict.create_model('last', model('tokens'), '{"pooling": "last"}', tokenizer()), predict.create_model('last_short', model('tokens'), '{"pooling": "last", "max_length": 2}', tokenizer()),
       predict.create_model('last_unit', model('tokens'), '{"pooling": "last", "normalize": true}', tokenizer()),
       predict.create_model('last_left', model('tokens'), '{"pooling": "last"}', jsonb_set(tokenizer(), '{padding}', '{"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}'));
SELECT embed('last', 'red red green blue'), embed('last', 'green'), embed('last', ''), embed('last_short', 'red green blue'), embed('last_short', 'blue'), embed('last_unit', 'red green'), embed('last_left', 'green red');
-- An end token that the tokenizer adds is kept where a text is cut, and is the last one then: here [UNK], which is 1.
SELECT predict.create_model('last_end', model('tokens'), '{"pooling": "last", "max_length": 3}', jsonb_set(tokenizer(), '{post_processor}',
    '{"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[UNK]", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {"[UNK]": {"id": "[UNK]", "ids": [1], "tokens": ["[UNK]"]}}}'));
SELECT embed('last_end', 'red green blue blue'), embed('last_end', ''), predict('last_end/total', 'red green blue blue');
CREATE TABLE long_posts AS SELECT g AS id, repeat('red ', g * g % 400) || (ARRAY['red', 'green', 'blue'])[g % 3 + 1] AS text, ARRAY[g % 3 + 2, 1]::real[] AS last FROM generate_series(0, 200) g;
SELECT model, size, count(*), count(*) FILTER (WHERE p.states = p.last) AS right
  FROM unnest(ARRAY['last', 'last_left']) model, unnest(ARRAY[1, 7, 0]) size, set_config('pg_predict.batch_size', size::text, false),
       LATERAL (SELECT (predict_batch(model, p))::text::prediction_batch AS batch FROM long_posts p WHERE set_config IS NOT NULL) b,
       predictions(b.batch) AS p(id int, last real[], states real[])
 GROUP BY model, size ORDER BY model, size;
RESET pg_predict.batch_size;

-- Which column is the text: `text`, or what the option names; two make a pair.
SELECT predict.create_model('bodies', model('tokens'), '{"features": ["body"], "defaults": {"body": "green"}}', tokenizer()),
       predict.create_model('pairs', model('tokens'), '{"features": ["question", "answer"]}', tokenizer());
SELECT p.* FROM predictions((SELECT predict_batch('bodies', b) FROM (VALUES (1, 'red'), (2, NULL), (3, 'blue')) AS b(id, body))) AS p(id int, total real);
SELECT p.* FROM predictions((SELECT predict_batch('pairs', b) FROM (VALUES (1, 'red', 'blue'), (2, 'red', NULL)) AS b(id, question, answer))) AS p(id int, total real);
SELECT predict('states/total', 'red', 'blue blue'), predict('pairs/total', 'red', 'green');
SELECT p.* FROM predictions((SELECT predict_batch('states', b) FROM (VALUES (1, 'red', 'blue')) AS b(id, text, text_pair))) AS p(id int, total real);

-- A model of four tokens and two texts, no more and no fewer: longer texts are cut, shorter ones padded, and nobody sees it.
SELECT predict.create_model('fixed', model('tokens_fixed'), '{}', tokenizer()), predict.create_model('fixed_mean', model('tokens_fixed'), '{"pooling": "mean"}', tokenizer()),
       predict.create_model('fixed_last', model('tokens_fixed'), '{"pooling": "last"}', tokenizer());
SELECT name, row_shape FROM predict.model_outputs WHERE model IN ('fixed', 'fixed_mean') ORDER BY model, position;
SELECT p.* FROM predictions((SELECT predict_batch('fixed', t) FROM (VALUES (1, 'red'), (2, 'green blue'), (3, 'blue blue blue blue blue blue')) t(id, text))) AS p(id int, states real[], total real);
SELECT embed('fixed_mean', 'red'), embed('fixed_mean', 'red green'), embed('fixed_last', 'red green'), embed('fixed_last', 'red red red green blue');

-- What goes wrong.
SELECT * FROM attempt($$SELECT predict_batch('states', b) FROM (VALUES (1, 'red')) AS b(id, body)$$);
SELECT * FROM attempt($$SELECT predict('states/total', 'a', 'b', 'c')$$);
SELECT * FROM attempt($$SELECT predict('states/total', 3)$$);
SELECT * FROM attempt($$SELECT embed('states', 'red')$$);
SELECT * FROM attempt($$SELECT embed('states/total', 'red')$$);
SELECT o, a FROM unnest(ARRAY['{"pooling": "max"}', '{"max_length": 0}', '{"features": []}', '{"features": ["a", "b", "c"]}', '{"batch": "none"}', '{"constants": {"input_ids": 1}}', '{"pad": {"input_ids": 0}}', '{"normalize": 1}']) WITH ORDINALITY u(o, n),
  attempt(format('SELECT predict.create_model(''no'', test.model(''tokens''), %L, test.tokenizer())', o)) a ORDER BY n;
SELECT o, a FROM unnest(ARRAY['{"pooling": "mean"}', '{"max_length": 3}']) WITH ORDINALITY u(o, n),
  attempt(format('SELECT predict.create_model(''no'', test.model(''linear''), %L)', o)) a ORDER BY n;
SELECT * FROM attempt($$SELECT predict.create_model('no', test.model('linear'), '{}', test.tokenizer())$$);
SELECT left(a, 60) FROM attempt($$SELECT predict.create_model('no', test.model('tokens'), '{}', '{"model": {"type": "Unheard"}}')$$) a;
SELECT left(a, 60) FROM attempt($$SELECT predict.create_model('no', test.model('tokens'), '{}', '[]')$$) a;

-- Versions that differ in how they treat text have sessions of their own; what they share is stored once and goes with the last.
SELECT predict_json('short', 'red green blue') <> predict_json('states', 'red green blue') AS differ;
SELECT (SELECT count(*) FROM predict.content), (SELECT count(DISTINCT sha256) FROM predict.models);
SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models) m;
SELECT (SELECT count(*) FROM predict.content), (SELECT count(*) FROM predict.chunk);
