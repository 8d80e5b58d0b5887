SELECT r.* FROM {{ ref('recommendations') }} r JOIN {{ source('shop', 'ratings') }} s ON (s.user_id, s.item_id) = (r.user_id, r.item_id)
