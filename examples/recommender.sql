-- A two-tower recommender: ten films for each of some users, kept in a table that every run brings up to date.
--
--   psql -v root=REPOSITORY -f examples/recommender.sql
--
-- Needs target/models/two_tower.onnx, genres.csv, items.csv and ratings.csv: make examples makes them.
\set schema example_recommender
\ir start.sql
\setenv PG_PREDICT_ROOT :root

CREATE TABLE genres (place integer GENERATED ALWAYS AS IDENTITY, genre text PRIMARY KEY);
\copy genres (genre) FROM PROGRAM 'cat "$PG_PREDICT_ROOT"/target/models/genres.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE films (item_id bigint PRIMARY KEY, title text, year integer, genres text);
\copy films FROM PROGRAM 'cat "$PG_PREDICT_ROOT"/target/models/items.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE ratings (user_id bigint, item_id bigint, rating real, rated_at timestamptz);
\copy ratings FROM PROGRAM 'cat "$PG_PREDICT_ROOT"/target/models/ratings.csv' WITH (FORMAT csv, HEADER)
ANALYZE;

SELECT count(predict.drop_model(name)) AS dropped FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'example_two_tower') m \gset
\set model `base64 < "$PG_PREDICT_ROOT"/target/models/two_tower.onnx | tr -d '\n'`
SELECT predict.create_model('example_two_tower', decode(:'model', 'base64'), '{"defaults": {"year": 1995}}') AS version;

-- What the model takes of a film: a boolean for each genre, in the model's order.
CREATE TABLE film_features AS
SELECT f.item_id, f.year, array_agg(g.genre = ANY (string_to_array(f.genres, '|')) ORDER BY g.place) AS genres
  FROM films f, genres g GROUP BY f.item_id;

CREATE TABLE recommendations (user_id bigint, item_id bigint, like_odds real, place integer, made_at timestamptz, PRIMARY KEY (user_id, item_id));

-- Every film that they have not rated yet, for fifty users.
CREATE VIEW candidates AS
SELECT u.user_id, f.item_id, f.genres, f.year
  FROM (SELECT DISTINCT user_id FROM ratings WHERE user_id <= 50) u CROSS JOIN film_features f
 WHERE NOT EXISTS (SELECT FROM ratings r WHERE (r.user_id, r.item_id) = (u.user_id, f.item_id));
SELECT count(*) AS candidates FROM candidates;

\timing on
INSERT INTO recommendations
SELECT user_id, item_id, "like", place, now()
  FROM (SELECT p.*, row_number() OVER (PARTITION BY p.user_id ORDER BY p."like" DESC, p.item_id) AS place
          FROM predictions((SELECT predict_batch('example_two_tower', c) FROM candidates c)) AS p(user_id bigint, item_id bigint, "like" real)) ranked
 WHERE place <= 10
    ON CONFLICT (user_id, item_id) DO UPDATE SET like_odds = excluded.like_odds, place = excluded.place, made_at = excluded.made_at;
\timing off

SELECT r.place, f.title, f.genres, round(r.like_odds::numeric, 3) AS like_odds FROM recommendations r JOIN films f USING (item_id) WHERE r.user_id = 15 ORDER BY r.place LIMIT 5;

-- The vector of a film nobody has rated: its tower needs genres and year alone.
SELECT predict_array('example_two_tower/item_embedding', 0::bigint, (SELECT array_agg(genre IN ('Comedy', 'Sci-Fi') ORDER BY place) FROM genres), 2026) AS "a comedy of 2026";

DO $$
BEGIN
    ASSERT (SELECT count(*) = 50 AND bool_and(films = 10) FROM (SELECT count(*) AS films FROM recommendations GROUP BY user_id) u), 'each of fifty users has ten films';
    ASSERT (SELECT bool_and(like_odds BETWEEN 0 AND 1) FROM recommendations), 'odds are odds';
    ASSERT NOT EXISTS (SELECT FROM recommendations JOIN ratings USING (user_id, item_id)), 'nothing is recommended that was rated';
END $$;
