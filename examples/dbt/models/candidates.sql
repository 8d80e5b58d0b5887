-- Every film that a user has not rated yet.
{{ config(materialized='view') }}
SELECT u.user_id, f.item_id, f.genres, f.year, u.rated_at
  FROM (SELECT user_id, max(rated_at) AS rated_at FROM {{ source('shop', 'ratings') }} GROUP BY user_id) u
  CROSS JOIN {{ source('shop', 'film_features') }} f
 WHERE NOT EXISTS (SELECT FROM {{ source('shop', 'ratings') }} r WHERE r.user_id = u.user_id AND r.item_id = f.item_id)
