-- Ten films for each user. A run scores those who have rated since theirs were made, in one statement, and replaces their films.
{{ config(materialized='incremental', unique_key='user_id', incremental_strategy='delete+insert') }}
SELECT user_id, item_id, "like" AS odds, place, rated_at AS of
  FROM (SELECT p.*, row_number() OVER (PARTITION BY p.user_id ORDER BY p."like" DESC, p.item_id) AS place
          FROM predictions((SELECT predict_batch('example_dbt', c) FROM (
                   SELECT * FROM {{ ref('candidates') }} c
                   {% if is_incremental() %}
                   WHERE c.rated_at > coalesce((SELECT max(of) FROM {{ this }} t WHERE t.user_id = c.user_id), '-infinity')
                   {% endif %}
               ) c)) AS p(user_id bigint, item_id bigint, "like" real, rated_at timestamptz)) ranked
 WHERE place <= 10
