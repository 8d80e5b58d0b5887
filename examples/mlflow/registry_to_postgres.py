"""A model of an MLflow registry becomes a version in PostgreSQL, is checked there, and is promoted when the registry's alias says so.

  python registry_to_postgres.py        registry: a SQLite file in a temporary folder; database: as PGHOST and so on say
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import mlflow
import mlflow.onnx
import numpy as np
import onnx
import pandas as pd
import pg_predict
import psycopg
from mlflow import MlflowClient
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression

NAME = "example_mlflow"


def train(frame: pd.DataFrame, column: str) -> onnx.ModelProto:
    """What a training job leaves in the registry: here a line, as ONNX."""
    x = frame[["carat", "depth"]].to_numpy(np.float32)
    return to_onnx(LinearRegression().fit(x, frame[column]), x[:1], target_opset=17)


def take_over(conn: psycopg.Connection, client: MlflowClient, alias: str, sample: pd.DataFrame) -> pg_predict.Registered:
    """The registry's version with this alias, as a version of pg_predict with the same alias; its number in the registry is kept in the file."""
    entry = client.get_model_version_by_alias(NAME, alias)
    model = mlflow.onnx.load_model(f"models:/{NAME}@{alias}")
    onnx.helper.set_model_props(model, {"mlflow_version": str(entry.version), "mlflow_run": str(entry.run_id)})
    return pg_predict.register(conn, NAME, model, sample, alias="default" if alias == "production" else alias)


def main() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    with tempfile.TemporaryDirectory() as folder, psycopg.connect() as conn:
        os.chdir(folder)
        mlflow.set_tracking_uri(f"sqlite:///{Path(folder, 'registry.db')}")
        client = MlflowClient()
        cursor = conn.execute("SELECT carat::real, depth::real, price::real FROM diamonds ORDER BY id LIMIT 5000")
        frame = pd.DataFrame(cursor.fetchall(), columns=["carat", "depth", "price"])
        sample = frame[["carat", "depth"]]
        conn.execute("SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models WHERE name = %s) m", (NAME,))

        with mlflow.start_run():
            first = mlflow.onnx.log_model(train(frame, "price"), name="model", registered_model_name=NAME)
        client.set_registered_model_alias(NAME, "production", first.registered_model_version)
        done = take_over(conn, client, "production", sample)
        print(f"registry version {first.registered_model_version} is {done.reference} {done.aliases}, held by {done.golden_rows} golden rows")

        # A second model, trained on the wrong column: its registry alias is moved, and the golden rows refuse it here.
        with mlflow.start_run():
            wrong = mlflow.onnx.log_model(train(frame.assign(price=frame.price * 2), "price"), name="model", registered_model_name=NAME)
        client.set_registered_model_alias(NAME, "staging", wrong.registered_model_version)
        try:
            take_over(conn, client, "staging", sample)
            raise AssertionError("a model that answers otherwise must be refused")
        except pg_predict.ServerError as error:
            assert error.sqlstate == "23514", error
            print(f"registry version {wrong.registered_model_version} is refused: {str(error).splitlines()[0]}")

        # The same model again, retrained on the same rows: it agrees, and is promoted.
        with mlflow.start_run():
            third = mlflow.onnx.log_model(train(frame, "price"), name="model", registered_model_name=NAME)
        client.set_registered_model_alias(NAME, "staging", third.registered_model_version)
        again = take_over(conn, client, "staging", sample)
        pg_predict.promote(conn, NAME, again.version)
        versions = {v.version: v.aliases for v in pg_predict.models(conn) if v.name == NAME}
        print(f"registry version {third.registered_model_version} is {again.reference}, and promoted: {versions}")
        assert sorted(versions[again.version]) == ["default", "staging"] and versions[done.version] == []
        kept = conn.execute("SELECT metadata->'properties'->>'mlflow_version' FROM predict.models WHERE name = %s AND version = %s", (NAME, again.version)).fetchone()
        assert kept == (str(third.registered_model_version),), kept
        conn.commit()


if __name__ == "__main__":
    main()
