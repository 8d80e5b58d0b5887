"""Trains the ensembles of the benchmark of trees, and stores each one as its library's own model and as ONNX.

    models.py FOLDER [MODEL..]     makes the models that FOLDER does not have

All are trained with fixed seeds. The data are Friedman's first regression problem, as in benches/models/generate.py,
and the diamonds of models/. A model that the repository has (lgbm, diamonds) must answer the same as its file there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import joblib
import lightgbm
import numpy as np
import onnx
import onnxruntime
import xgboost
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from skl2onnx.common import data_types
from sklearn.datasets import make_friedman1
from sklearn.ensemble import IsolationForest, RandomForestRegressor
from sklearn.model_selection import train_test_split

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models"))

from generate import diamonds, tables  # noqa: E402

SEED = 20260101
TRAINED_ROWS = 50_000
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Model:
    """An ensemble of the benchmark."""

    name: str
    title: str
    # The library that trained it, and the ending of its own file.
    library: str
    ending: str
    # The output that is scored, and the element of it.
    output: str
    element: int
    # The rows that are scored.
    rows: int
    train: Callable[[], tuple[object, onnx.ModelProto]]
    # The file of the repository with the same ensemble.
    same_as: str | None = None

    def own(self, folder: Path) -> Path:
        return folder / f"{self.name}.{self.ending}"

    def onnx(self, folder: Path) -> Path:
        return folder / f"{self.name}.onnx"

    def features(self) -> np.ndarray:
        """The rows that are scored."""
        if self.name == "diamonds":
            x = diamonds.features(tables.read("diamonds"))
            return np.ascontiguousarray(np.tile(x, (-(-self.rows // len(x)), 1))[: self.rows])
        return np.random.default_rng(SEED).random((self.rows, 10), np.float32)


def friedman() -> tuple[np.ndarray, np.ndarray]:
    """The rows and answers that models are fitted to, as in benches/models/generate.py."""
    x, y = make_friedman1(n_samples=TRAINED_ROWS, n_features=10, noise=1.0, random_state=SEED)
    return x.astype(np.float32)[:-5000], y[:-5000]


SKLEARN_INPUT = [("x", data_types.FloatTensorType([None, 10]))]


def input_of(width: int) -> list:
    return [("x", FloatTensorType([None, width]))]


def lgbm() -> tuple[object, onnx.ModelProto]:
    trees = lightgbm.LGBMRegressor(
        n_estimators=200, num_leaves=31, learning_rate=0.05, random_state=SEED, n_jobs=1, deterministic=True, force_row_wise=True, verbose=-1
    )
    trees.fit(*friedman())
    return trees, convert_lightgbm(trees, name="bench", initial_types=input_of(10), target_opset=15, zipmap=False)


def xgboost_of_diamonds() -> tuple[object, onnx.ModelProto]:
    data = tables.read("diamonds")
    x, y = diamonds.features(data), data.price.values.astype(np.float32)
    train, _ = train_test_split(np.arange(len(x)), test_size=0.2, random_state=0)
    trees = xgboost.XGBRegressor(n_estimators=200, max_depth=6, learning_rate=0.1, n_jobs=1).fit(x[train], y[train])
    return trees, convert_xgboost(trees, initial_types=input_of(x.shape[1]), target_opset=15)


def classes() -> tuple[object, onnx.ModelProto]:
    x, y = friedman()
    y = np.digitize(y, np.quantile(y, [0.2, 0.4, 0.6, 0.8]))
    trees = xgboost.XGBClassifier(n_estimators=100, max_depth=5, learning_rate=0.1, n_jobs=1, random_state=SEED).fit(x, y)
    return trees, convert_xgboost(trees, initial_types=input_of(10), target_opset=15)


def isolation() -> tuple[object, onnx.ModelProto]:
    x, _ = friedman()
    trees = IsolationForest(n_estimators=100, max_samples=256, random_state=SEED, n_jobs=1).fit(x)
    return trees, to_onnx(trees, initial_types=SKLEARN_INPUT, target_opset={"": 17, "ai.onnx.ml": 3})


def forest() -> tuple[object, onnx.ModelProto]:
    x, y = friedman()
    trees = RandomForestRegressor(n_estimators=300, min_samples_leaf=5, random_state=SEED, n_jobs=2).fit(x, y)
    trees.n_jobs = 1
    return trees, to_onnx(trees, initial_types=SKLEARN_INPUT, target_opset={"": 17, "ai.onnx.ml": 3})


MODELS = [
    Model("lgbm", "LightGBM, 200 trees of 31 leaves", "lightgbm", "txt", "variable", 0, 500_000, lgbm, "benches/models/lgbm.onnx"),
    Model("diamonds", "XGBoost (diamonds), 200 trees of depth 6", "xgboost", "ubj", "variable", 0, 400_000, xgboost_of_diamonds, "models/diamonds.onnx"),
    Model("classes", "XGBoost, 5 classes, 500 trees of depth 5", "xgboost", "ubj", "probabilities", 4, 100_000, classes),
    Model("isolation", "isolation forest, 100 trees of 256 rows", "sklearn", "joblib", "scores", 0, 200_000, isolation),
    Model("forest", "random forest, 300 deep trees", "sklearn", "joblib", "variable", 0, 20_000, forest),
]


def session(file: Path) -> onnxruntime.InferenceSession:
    """A session with the options of the extension."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def make(model: Model, folder: Path) -> None:
    trees, converted = model.train()
    # Old enough that every ONNX Runtime since 1.15 reads it.
    converted.ir_version = 8
    onnx.save(converted, model.onnx(folder))
    if model.same_as:
        x = model.features()[:20_000]
        answers = [session(file).run([model.output], {"x": x})[0] for file in (model.onnx(folder), ROOT / model.same_as)]
        difference = np.abs(answers[0] / answers[1] - 1).max()
        if difference > TOLERANCE:
            sys.exit(f"{model.name} differs from {model.same_as} by {difference:.1e}")
    match model.library:
        case "lightgbm":
            trees.booster_.save_model(model.own(folder))
        case "xgboost":
            trees.save_model(model.own(folder))
        case "sklearn":
            joblib.dump(trees, model.own(folder))


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    for model in MODELS:
        # The library's own file is written last.
        if not model.own(folder).exists() and (not names or model.name in names):
            print(f"training {model.name}: {model.title}", file=sys.stderr, flush=True)
            make(model, folder)


if __name__ == "__main__":
    main()
