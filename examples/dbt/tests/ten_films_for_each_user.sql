SELECT u.user_id, count(r.item_id) FROM (SELECT DISTINCT user_id FROM {{ source('shop', 'ratings') }}) u
  LEFT JOIN {{ ref('recommendations') }} r ON r.user_id = u.user_id GROUP BY u.user_id HAVING count(r.item_id) <> 10
