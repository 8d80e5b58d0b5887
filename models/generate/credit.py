"""The model `credit`: will a loan go bad? A scikit-learn pipeline (impute, scale, one-hot, logistic regression) over 17 numbers
and five names. Written twice: with the probabilities as a tensor, and as ZipMap's map of class to probability."""

from __future__ import annotations

import numpy as np
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from generate import onnx_file, tables


def main() -> None:
    loans = tables.read("loans")
    y = (loans["Class"] == "bad").astype(int).values
    x = loans.drop(columns="Class")
    numbers = [name for name in x.columns if x[name].dtype.kind in "if"]
    names = [name for name in x.columns if name not in numbers]
    x = x[numbers + names].copy()
    x[numbers] = x[numbers].astype(np.float32)
    x[names] = x[names].astype(str).astype(object)
    train, held_out = train_test_split(np.arange(len(x)), test_size=0.3, random_state=0, stratify=y)
    encode = ColumnTransformer([
        ("n", Pipeline([("i", SimpleImputer()), ("s", StandardScaler())]), numbers),
        ("c", OneHotEncoder(handle_unknown="ignore"), names),
    ])
    pipeline = Pipeline([("pre", encode), ("lr", LogisticRegression(max_iter=500, class_weight="balanced"))])
    pipeline.fit(x.iloc[train], y[train])
    trained = pipeline.predict_proba(x)[:, 1]
    inputs = {name: x[[name]].values.astype(np.float32 if name in numbers else object) for name in x.columns}
    for file, zipmap in (("credit.onnx", False), ("credit_zipmap.onnx", True)):
        model = convert_sklearn(
            pipeline,
            initial_types=[(name, FloatTensorType([None, 1])) for name in numbers] + [(name, StringTensorType([None, 1])) for name in names],
            options={"zipmap": zipmap},
            target_opset={"": 19, "ai.onnx.ml": 3},
        )
        path = onnx_file.MODELS / file
        onnx_file.save(model, path, path.stem)
        output = onnx_file.run(path, inputs)[1]
        answer = np.array([row[1] for row in output]) if zipmap else output[:, 1]
        onnx_file.report(path, f"AUC {roc_auc_score(y[held_out], answer[held_out]):.3f}", np.abs(answer - trained).max(), 1e-4)


if __name__ == "__main__":
    main()
