"""The model `diamonds`: the price of a cut diamond. XGBoost over one wide input of nine floats; the three grades go in as codes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xgboost
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

from generate import onnx_file, tables

GRADES = ["cut", "color", "clarity"]


def features(diamonds: pd.DataFrame) -> np.ndarray:
    """The nine features in the order of the table; a grade's code is its place, from 0, in the sorted list of names."""
    columns = diamonds.drop(columns="price")
    for grade in GRADES:
        columns[grade] = pd.Categorical(columns[grade], sorted(columns[grade].unique())).codes
    return columns.values.astype(np.float32)


def main() -> None:
    diamonds = tables.read("diamonds")
    x, y = features(diamonds), diamonds.price.values.astype(np.float32)
    train, held_out = train_test_split(np.arange(len(x)), test_size=0.2, random_state=0)
    trees = xgboost.XGBRegressor(n_estimators=200, max_depth=6, learning_rate=0.1, n_jobs=1).fit(x[train], y[train])
    model = convert_xgboost(trees, initial_types=[("x", FloatTensorType([None, x.shape[1]]))], target_opset=15)
    path = onnx_file.MODELS / "diamonds.onnx"
    onnx_file.save(model, path, "diamonds")
    answer, trained = onnx_file.run(path, {"x": x})[0].ravel(), trees.predict(x)
    onnx_file.report(path, f"R2 {r2_score(y[held_out], answer[held_out]):.3f}", np.abs(answer / trained - 1).max(), 1e-4)


if __name__ == "__main__":
    main()
