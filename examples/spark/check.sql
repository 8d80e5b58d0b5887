\set ON_ERROR_STOP on
SELECT count(*) AS candidates, round(avg(predict('example_spark/probabilities[2]', c))::numeric, 3) AS "late, two hours later",
       (SELECT round(avg(predict('example_spark/probabilities[2]', f))::numeric, 3) FROM example_spark.flights f WHERE month = 12 AND hour < 20) AS "as they are"
  FROM example_spark.candidates c;
DO $$
BEGIN
    ASSERT (SELECT count(*) FROM example_spark.candidates) = (SELECT count(*) FROM example_spark.flights WHERE month = 12 AND hour < 20), 'every candidate came back';
    ASSERT (SELECT count(predict('example_spark', c)) FROM example_spark.candidates c) = (SELECT count(*) FROM example_spark.candidates), 'each can be scored';
END $$;
