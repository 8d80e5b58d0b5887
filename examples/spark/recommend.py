"""Spark reads predictions through partitioned JDBC, and writes rows back that PostgreSQL then scores.

  python recommend.py JDBC_URL USER JAR
"""

from __future__ import annotations

import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

PARTITIONS = 4


def main(url: str, user: str, jar: str) -> None:
    spark = SparkSession.builder.master("local[2]").appName("pg_predict").config("spark.jars", jar).config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    place = {"url": url, "user": user, "driver": "org.postgresql.Driver"}
    bounds = spark.read.format("jdbc").options(**place).option("query", "SELECT min(id) AS low, max(id) AS high FROM example_spark.flights").load().first()

    # Each partition is a query of its own: its rows are scored there, in batches, and only scores travel.
    scored = spark.read.format("jdbc").options(**place).options(
        dbtable="(SELECT id, carrier, month, predict('example_spark/probabilities[2]', f) AS late FROM example_spark.flights f) scored",
        partitionColumn="id",
        lowerBound=str(bounds["low"]),
        upperBound=str(bounds["high"] + 1),
        numPartitions=str(PARTITIONS),
        fetchsize="10000",
    ).load()
    assert scored.rdd.getNumPartitions() == PARTITIONS
    worst = scored.groupBy("carrier").agg(F.count("*").alias("flights"), F.avg("late").alias("late")).orderBy(F.desc("late"))
    worst.show(3)
    rows, total = scored.count(), scored.agg(F.sum("late")).first()[0]
    print(f"{rows} predictions read in {PARTITIONS} partitions, sum {total:.3f}")

    # What Spark makes goes back as rows; PostgreSQL scores them when they are asked for.
    candidates = spark.read.format("jdbc").options(**place).option("dbtable", "example_spark.flights").load().where("month = 12 AND hour < 20")
    for column, later in (("hour", 2.0), ("sched_dep_time", 200.0), ("sched_arr_time", 200.0)):
        candidates = candidates.withColumn(column, (F.col(column) + F.lit(later)).cast("float"))
    candidates.write.format("jdbc").options(**place, dbtable="example_spark.candidates", batchsize="10000").mode("append").save()
    print(f"{candidates.count()} candidates written back")
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:4])
