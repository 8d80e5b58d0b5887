-- Sentiment of 4,200 tweets, with a transformer, in one statement; and how often it agrees with the people who rated them.
--
--   psql -v root=REPOSITORY -f examples/sentiment/sentiment.sql
--
-- Needs target/models/tweet_sentiment.onnx and target/packages/minilm/tokenizer.json: make examples makes them. The files
-- are read by psql, so this runs against a server elsewhere too.
\set schema example_sentiment
\ir ../start.sql
\setenv PG_PREDICT_ROOT :root

CREATE TABLE tweets (id integer PRIMARY KEY, mean_sentiment float8, text text);
\copy tweets FROM PROGRAM 'gzip -dc "$PG_PREDICT_ROOT"/tests/reference/data/tweets.csv.gz' WITH (FORMAT csv, HEADER)

-- A model of texts is a graph and its tokenizer.
SELECT count(predict.drop_model(name)) AS dropped FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'example_sentiment') m \gset
\set model `base64 < "$PG_PREDICT_ROOT"/target/models/tweet_sentiment.onnx | tr -d '\n'`
\set tokenizer `cat "$PG_PREDICT_ROOT"/target/packages/minilm/tokenizer.json`
SELECT predict.create_model('example_sentiment', decode(:'model', 'base64'), '{"max_length": 64}', :'tokenizer') AS version;

-- One text, as a plain call.
SELECT text, predict_text('example_sentiment', text) AS label
  FROM (VALUES ('what a lovely morning'), ('my train is late again, typical'), ('the meeting is at nine')) AS t(text);

-- The whole table: texts of like length run together, rows come back with their keys.
CREATE TABLE scored AS
SELECT p.* FROM predictions((SELECT predict_batch('example_sentiment', t) FROM tweets t))
  AS p(id integer, mean_sentiment float8, label text, probabilities real[]);

SELECT label, count(*) AS tweets, round(avg(mean_sentiment)::numeric, 2) AS "people's mean rating (-4 to 4)",
       round(avg((SELECT max(x) FROM unnest(probabilities) x))::numeric, 2) AS "mean confidence"
  FROM scored GROUP BY label ORDER BY 3;

-- The most confident judgements.
SELECT DISTINCT ON (label) label, left(text, 90) AS text
  FROM scored JOIN tweets USING (id) ORDER BY label, (SELECT max(x) FROM unnest(probabilities) x) DESC;

-- How often people and model agree, where people were clear.
SELECT count(*) AS clear, round(100 * avg((label = CASE WHEN mean_sentiment > 0 THEN 'positive' ELSE 'negative' END)::int)) AS "agree, %"
  FROM scored WHERE abs(mean_sentiment) > 1 AND label <> 'neutral';

DO $$
BEGIN
    ASSERT (SELECT count(*) = 4200 AND count(label) = 4200 FROM scored), 'every tweet has a label';
    ASSERT (SELECT avg((label = CASE WHEN mean_sentiment > 0 THEN 'positive' ELSE 'negative' END)::int) > 0.8
              FROM scored WHERE abs(mean_sentiment) > 1 AND label <> 'neutral'), 'the model agrees with people';
END $$;
