-- Recommendations for every user, overnight: ten films for each, out of all that they have not rated; the next night only those
-- whose ratings have changed.
--
--   psql -v root=REPOSITORY -f examples/recommendations/recommendations.sql
--
-- Needs target/models/two_tower.onnx, genres.csv, items.csv and ratings.csv: make examples makes them.
\set schema example_recommender
\ir ../start.sql
\set name example_two_tower
\ir ../films.sql

CREATE TABLE recommendations (user_id bigint, item_id bigint, like_odds real, place integer, made_at timestamptz, PRIMARY KEY (user_id, item_id));

-- Every film that a user has not rated yet: nine thousand for each.
CREATE VIEW candidates AS
SELECT u.user_id, f.item_id, f.genres, f.year
  FROM (SELECT DISTINCT user_id FROM ratings) u CROSS JOIN film_features f
 WHERE NOT EXISTS (SELECT FROM ratings r WHERE (r.user_id, r.item_id) = (u.user_id, f.item_id));

-- When each user's films were last made. A night does those who have rated since, a hundred users a transaction, so that one which
-- is cut off goes on where it was.
CREATE TABLE made (user_id bigint PRIMARY KEY, of timestamptz NOT NULL);
CREATE PROCEDURE recommend_all(INOUT users bigint DEFAULT 0) LANGUAGE plpgsql AS $$
DECLARE
    batch bigint[];
BEGIN
    LOOP
        batch := ARRAY(SELECT user_id FROM ratings r LEFT JOIN made m USING (user_id) GROUP BY user_id, m.of
                        HAVING m.of IS NULL OR max(r.rated_at) > m.of ORDER BY user_id LIMIT 100);
        EXIT WHEN batch = '{}';
        DELETE FROM recommendations WHERE user_id = ANY (batch);
        INSERT INTO recommendations
        SELECT user_id, item_id, "like", place, now()
          FROM (SELECT p.*, row_number() OVER (PARTITION BY p.user_id ORDER BY p."like" DESC, p.item_id) AS place
                  FROM predictions((SELECT predict_batch('example_two_tower', c) FROM candidates c WHERE c.user_id = ANY (batch)))
                    AS p(user_id bigint, item_id bigint, "like" real)) ranked
         WHERE place <= 10;
        INSERT INTO made SELECT u, (SELECT max(rated_at) FROM ratings WHERE user_id = u) FROM unnest(batch) u
            ON CONFLICT (user_id) DO UPDATE SET of = excluded.of;
        users := users + cardinality(batch);
        COMMIT;
    END LOOP;
END $$;
\timing on
CALL recommend_all();
-- The next night: three people have rated something.
INSERT INTO ratings SELECT user_id, (SELECT min(item_id) FROM recommendations r WHERE r.user_id = u.user_id), 5, now() FROM unnest('{15, 20, 25}'::bigint[]) u(user_id);
CALL recommend_all();
\timing off
-- In pg_cron: SELECT cron.schedule('recommend', '0 3 * * *', 'CALL recommend_all()');

SELECT r.place, f.title, f.genres, round(r.like_odds::numeric, 3) AS like_odds FROM recommendations r JOIN films f USING (item_id) WHERE r.user_id = 15 ORDER BY r.place LIMIT 5;

-- The vector of a film nobody has rated: its tower needs genres and year alone.
SELECT (predict_array('example_two_tower/item_embedding', 0::bigint, (SELECT array_agg(genre IN ('Comedy', 'Sci-Fi') ORDER BY place) FROM genres), 2026))[1:4] AS "a comedy of 2026";

DO $$
DECLARE
    people bigint := (SELECT count(DISTINCT user_id) FROM ratings);
BEGIN
    ASSERT people > 600 AND (SELECT count(*) = people AND bool_and(films = 10) FROM (SELECT count(*) AS films FROM recommendations GROUP BY user_id) u), 'every user has ten films';
    ASSERT (SELECT bool_and(like_odds BETWEEN 0 AND 1) FROM recommendations), 'odds are odds';
    ASSERT NOT EXISTS (SELECT FROM recommendations JOIN ratings USING (user_id, item_id)), 'nothing is recommended that was rated';
    ASSERT (SELECT array_agg(DISTINCT user_id) = '{15,20,25}' FROM recommendations WHERE made_at = (SELECT max(made_at) FROM recommendations)), 'the second night did those who had rated';
END $$;
