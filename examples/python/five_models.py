"""Models of four libraries become versions in PostgreSQL, one call each, and score a table where it is.

  python five_models.py        against the database that PGHOST, PGDATABASE and so on name; needs the table `diamonds` of models/sql/load.sql
"""

from __future__ import annotations

import lightgbm
import numpy as np
import pandas as pd
import pg_predict
import psycopg
import torch
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import IsolationForest, RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

MEASURES = ["carat", "depth", "table_width", "x", "y", "z"]
GRADES = ["cut", "color", "clarity"]


def main() -> None:
    with psycopg.connect() as conn:
        cursor = conn.execute("SELECT * FROM diamonds ORDER BY id")
        table = pd.DataFrame(cursor.fetchall(), columns=[c.name for c in cursor.description or []])
        x, price = table[MEASURES].astype(np.float32), table["price"].astype(np.float32)
        mixed = pd.concat([x, table[GRADES]], axis=1)

        columns = ColumnTransformer([("grades", OrdinalEncoder(), GRADES)], remainder="passthrough")
        pipeline = make_pipeline(columns, RandomForestRegressor(20, max_depth=12, n_jobs=2, random_state=0)).fit(mixed, price)
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.BatchNorm1d(len(MEASURES)), torch.nn.Linear(len(MEASURES), 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
        rows, wanted = torch.from_numpy(x.to_numpy()), torch.log(torch.from_numpy(price.to_numpy()))[:, None]
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(150):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(network(rows), wanted).backward()
            optimizer.step()
        models = {
            "example_sklearn": (pipeline, mixed),
            "example_lightgbm": (lightgbm.LGBMRegressor(n_estimators=80, verbose=-1).fit(x, price), x),
            "example_xgboost": (xgboost.XGBRegressor(n_estimators=80).fit(x, price), x),
            "example_torch": (network, x),
            "example_outliers": (IsolationForest(n_estimators=30, random_state=0).fit(x), x),
        }
        conn.execute("SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models) m WHERE name = ANY (%s)", (list(models),))
        for name, (model, sample) in models.items():
            done = pg_predict.register(conn, name, model, sample)
            print(f"{done.reference}: {done.compared_rows} rows answer as the library does, {done.golden_rows} golden rows, baseline of {done.baseline_rows} rows")
            assert done.compared_rows == 1000 and done.baseline_rows == len(table)
        frame = pg_predict.predict(conn, "example_sklearn", "SELECT * FROM diamonds", columns=["id", "price"])
        error = float(np.abs(frame["variable"] - frame["price"]).median())
        print(f"{len(frame)} diamonds scored where they are; half of the prices are within {error:.0f} of the truth")
        assert len(frame) == len(table) and error < 200
        drifted = conn.execute("SELECT name FROM predict.drift('example_lightgbm', 'SELECT * FROM diamonds WHERE carat > 1') WHERE verdict = 'drift' ORDER BY 1").fetchall()
        assert ("carat",) in drifted, drifted


if __name__ == "__main__":
    main()
