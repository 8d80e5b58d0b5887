"""The model `late`: will a flight arrive more than 15 minutes late? LightGBM over six numbers and three names, as one pipeline."""

from __future__ import annotations

import lightgbm
import numpy as np
import pandas as pd
from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
from skl2onnx import convert_sklearn, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
from sklearn.compose import ColumnTransformer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from generate import onnx_file, tables

NUMBERS = ["month", "day", "sched_dep_time", "sched_arr_time", "distance", "hour"]
NAMES = ["carrier", "origin", "dest"]
LATE_MINUTES = 15


def features(flights: pd.DataFrame) -> pd.DataFrame:
    """The columns that the model takes: known before departure, never missing."""
    columns = flights[NUMBERS + NAMES].copy()
    columns[NUMBERS] = columns[NUMBERS].astype(np.float32)
    columns[NAMES] = columns[NAMES].astype(object)
    return columns


def main() -> None:
    update_registered_converter(
        lightgbm.LGBMClassifier,
        "LightGbmLGBMClassifier",
        calculate_linear_classifier_output_shapes,
        convert_lightgbm,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )
    flights = tables.read("flights").dropna(subset=["arr_delay"])  # a cancelled flight has no answer to learn from
    x, y = features(flights), (flights.arr_delay > LATE_MINUTES).astype(int).values
    train, held_out = train_test_split(np.arange(len(x)), test_size=0.3, random_state=0)
    encode = ColumnTransformer([("n", "passthrough", NUMBERS), ("c", OneHotEncoder(handle_unknown="ignore"), NAMES)])
    trees = lightgbm.LGBMClassifier(n_estimators=100, num_leaves=31, verbose=-1, n_jobs=1, deterministic=True, force_row_wise=True)
    pipeline = Pipeline([("pre", encode), ("g", trees)]).fit(x.iloc[train], y[train])
    model = convert_sklearn(
        pipeline,
        initial_types=[(name, FloatTensorType([None, 1])) for name in NUMBERS] + [(name, StringTensorType([None, 1])) for name in NAMES],
        options={id(pipeline): {"zipmap": False}},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    path = onnx_file.MODELS / "late.onnx"
    onnx_file.save(model, path, "late")
    inputs = {name: x[[name]].values.astype(np.float32) if name in NUMBERS else x[[name]].values for name in x.columns}
    answer, trained = onnx_file.run(path, inputs)[1][:, 1], pipeline.predict_proba(x)[:, 1]
    onnx_file.report(path, f"AUC {roc_auc_score(y[held_out], answer[held_out]):.3f}", np.abs(answer - trained).max(), 1e-4)


if __name__ == "__main__":
    main()
