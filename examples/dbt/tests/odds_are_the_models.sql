-- Row by row, what the model says of the film that was kept.
SELECT r.* FROM {{ ref('recommendations') }} r JOIN {{ ref('candidates') }} c ON (c.user_id, c.item_id) = (r.user_id, r.item_id)
 WHERE abs(r.odds - predict('example_dbt', c.user_id, c.genres, c.year)) > 1e-5
