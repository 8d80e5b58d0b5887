"""Every night: run the job of pg_predict, check what it did and what it wrote, and ask for drift. Inference happens in PostgreSQL.

The connection `pg_predict` says where the database is; the job `example airflow` and its target are made by job.sql.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.sql.operators.sql import SQLCheckOperator, SQLColumnCheckOperator, SQLExecuteQueryOperator
from airflow.sdk import DAG

with DAG(
    "nightly_scores",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"conn_id": "pg_predict", "retries": 2, "retry_delay": timedelta(minutes=5), "execution_timeout": timedelta(hours=4)},
) as dag:
    # The job commits each chunk, so it must not be in a transaction. A retry goes on where it was cut off.
    score = SQLExecuteQueryOperator(task_id="score", sql="CALL predict.run_job('example airflow')", autocommit=True)
    run_is_clean = SQLCheckOperator(
        task_id="run_is_clean",
        sql="SELECT status = 'succeeded' AND failed = 0 FROM predict.job_runs WHERE job = 'example airflow' ORDER BY run DESC LIMIT 1",
        retries=0,
    )
    scores_are_odds = SQLColumnCheckOperator(
        task_id="scores_are_odds",
        table="example_airflow.scores",
        column_mapping={"risk": {"null_check": {"equal_to": 0}, "min": {"geq_to": 0}, "max": {"leq_to": 1}}},
        retries=0,
    )
    no_drift = SQLCheckOperator(
        task_id="no_drift",
        sql="SELECT count(*) = 0 FROM predict.drift('example_airflow', 'SELECT * FROM example_airflow.applications') WHERE verdict = 'drift'",
        retries=0,
    )
    score >> [run_is_clean, scores_are_odds] >> no_drift
