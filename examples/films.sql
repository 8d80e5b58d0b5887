-- Films, their genres and their ratings, and the model of who likes what: made anew under the name :name.
\setenv PG_PREDICT_ROOT :root
CREATE TABLE genres (place integer GENERATED ALWAYS AS IDENTITY, genre text PRIMARY KEY);
\copy genres (genre) FROM PROGRAM 'cat "$PG_PREDICT_ROOT"/target/models/genres.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE films (item_id bigint PRIMARY KEY, title text, year integer, genres text);
\copy films FROM PROGRAM 'cat "$PG_PREDICT_ROOT"/target/models/items.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE ratings (user_id bigint, item_id bigint, rating real, rated_at timestamptz);
\copy ratings FROM PROGRAM 'cat "$PG_PREDICT_ROOT"/target/models/ratings.csv' WITH (FORMAT csv, HEADER)
ANALYZE;
SELECT count(predict.drop_model(name)) AS dropped FROM (SELECT DISTINCT name FROM predict.models WHERE name = :'name') m \gset
\set model `base64 < "$PG_PREDICT_ROOT"/target/models/two_tower.onnx | tr -d '\n'`
SELECT predict.create_model(:'name', decode(:'model', 'base64'), '{"defaults": {"year": 1995}}') AS version;

-- What the model takes of a film: a boolean for each genre, in the model's order.
CREATE TABLE film_features AS
SELECT f.item_id, f.year, array_agg(g.genre = ANY (string_to_array(f.genres, '|')) ORDER BY g.place) AS genres
  FROM films f, genres g GROUP BY f.item_id;
