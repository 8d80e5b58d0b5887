-- What sqlsmith plays with: models, tables that they score, stored results, and a role without privileges.
\getenv tests PG_ABS_SRCDIR
CREATE EXTENSION pg_predict;
CREATE TEMP TABLE fixture (name text PRIMARY KEY, bytes bytea NOT NULL);
\copy fixture from program 'cd "$PG_ABS_SRCDIR/models" && for f in named.onnx shapes.onnx text.onnx zipmap_text.onnx; do printf "%s\t\\\\\\\\x" "${f%.onnx}"; od -An -v -tx1 "$f" | tr -d " \n"; echo; done'
SELECT predict.create_model(name, bytes) FROM fixture;
CREATE ROLE stranger LOGIN;
SELECT predict.grant_usage(name, 'stranger') FROM fixture WHERE name <> 'text';
CREATE SCHEMA play;
GRANT USAGE, CREATE ON SCHEMA play TO stranger;
SET search_path = play, public;
ALTER ROLE stranger SET search_path = play, public, predict;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE rows AS SELECT g AS id, (g % 7)::real AS a, (g % 11)::float8 AS b, CASE WHEN g % 13 <> 0 THEN g % 5 END AS c, 'row ' || g AS note,
    (ARRAY['sad', 'happy'])[1 + g % 2]::mood AS mood, now() + g * interval '1 day' AS at, ARRAY[g, NULL] AS list, (g / 3.0)::numeric(8, 2) AS price FROM generate_series(1, 50) g;
CREATE TABLE stored AS SELECT id % 3 AS grp, predict_batch('named', r) AS batch FROM rows r GROUP BY 1;
INSERT INTO stored SELECT 3, predict_batch('shapes', ARRAY[a, b]::real[]) FROM rows;
INSERT INTO stored SELECT 4, predict_batch('zipmap_text', ARRAY[a, b]::real[]) FROM rows;
INSERT INTO stored SELECT 5, predict_batch('text', note) FROM rows;
CREATE VIEW scored AS SELECT s.grp, p.* FROM stored s, predictions(s.batch) p(id int, note text, mood mood, y real) WHERE grp < 3;
CREATE VIEW calls AS SELECT id, predict('named', a, b, c) AS y, predict_json('shapes', ARRAY[a, b]::real[]) AS j FROM rows;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA play TO stranger;
-- sqlsmith makes values of types that it knows from columns and functions.
CREATE FUNCTION a_batch(n int) RETURNS prediction_batch STABLE LANGUAGE sql AS 'SELECT batch FROM play.stored WHERE grp = n % 6 LIMIT 1';
CREATE FUNCTION a_model(n int) RETURNS text STABLE LANGUAGE sql AS $$ SELECT (ARRAY['named', 'shapes', 'zipmap_text', 'text', 'nobody', 'shapes/pair[1]'])[1 + abs(n % 6)] $$;
