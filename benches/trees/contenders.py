"""The programs that score the ensembles of the benchmark of trees, each in its fastest form on one thread.

A contender takes a matrix of floats and returns one score for each row. A contender that cannot take a model raises
`Unable` with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import joblib
import lightgbm
import lleaves
import numpy as np
import tl2cgen
import treelite
import xgboost
import ydf
from models import Model, session

# The most nodes whose C code is compiled: gcc takes tens of seconds for them.
MOST_COMPILED_NODES = 300_000

Predict = Callable[[np.ndarray], np.ndarray]


class Unable(Exception):
    """A contender cannot take a model."""


def onnx_runtime(model: Model, folder: Path) -> Predict:
    opened = session(model.onnx(folder))
    return lambda x: opened.run([model.output], {"x": x})[0][:, model.element]


def lightgbm_itself(model: Model, folder: Path) -> Predict:
    if model.library != "lightgbm":
        raise Unable("takes its own models only")
    booster = lightgbm.Booster(model_file=str(model.own(folder)))
    return lambda x: booster.predict(x, num_threads=1)


def xgboost_itself(model: Model, folder: Path) -> Predict:
    if model.library != "xgboost":
        raise Unable("takes its own models only")
    booster = xgboost.Booster({"nthread": 1}, model_file=model.own(folder))
    if model.output == "probabilities":
        return lambda x: booster.inplace_predict(x)[:, model.element]
    return booster.inplace_predict


def sklearn_itself(model: Model, folder: Path) -> Predict:
    if model.library != "sklearn":
        raise Unable("takes its own models only")
    trees = joblib.load(model.own(folder))
    return trees.decision_function if model.name == "isolation" else trees.predict


def lleaves_compiled(model: Model, folder: Path) -> Predict:
    if model.library != "lightgbm":
        raise Unable("takes LightGBM models only")
    compiled = lleaves.Model(model_file=str(model.own(folder)))
    compiled.compile(cache=folder / f"{model.name}.lleaves", use_fp64=False)
    return lambda x: compiled.predict(x, n_jobs=1)


def imported(model: Model, folder: Path) -> treelite.Model:
    """The model as treelite reads it."""
    match model.library:
        case "lightgbm":
            return treelite.frontend.load_lightgbm_model(str(model.own(folder)))
        case "xgboost":
            return treelite.frontend.load_xgboost_model(str(model.own(folder)), format_choice="ubjson")
    return treelite.sklearn.import_model(joblib.load(model.own(folder)))


def scored(model: Model, answers: np.ndarray) -> np.ndarray:
    """The scores among what treelite returns, which has more dimensions."""
    answers = answers.reshape(len(answers), -1)
    # The score of Liu, Ting and Zhou, of which scikit-learn's decision function is the distance from a half.
    return 0.5 - answers[:, 0] if model.name == "isolation" else answers[:, model.element]


def treelite_compiled(model: Model, folder: Path) -> Predict:
    trees = imported(model, folder)
    if (nodes := count(trees)) > MOST_COMPILED_NODES:
        raise Unable(f"{nodes:,} nodes are more than the {MOST_COMPILED_NODES:,} that are compiled as C code here")
    library = folder / f"{model.name}.so"
    if not library.exists():
        tl2cgen.export_lib(trees, toolchain="gcc", libpath=library, params={"quantize": 1}, options=["-march=native"])
    predictor = tl2cgen.Predictor(library, nthread=1)
    return lambda x: scored(model, predictor.predict(tl2cgen.DMatrix(x, dtype="float32")))


def treelite_interpreted(model: Model, folder: Path) -> Predict:
    trees = imported(model, folder)
    if count(trees) <= MOST_COMPILED_NODES:
        raise Unable("is measured only if the compiled form is not")
    return lambda x: scored(model, treelite.gtil.predict(trees, x, nthread=1))


def count(trees: treelite.Model) -> int:
    accessor = trees.get_tree_accessor
    return sum(int(accessor(i).get_field("num_nodes")[0]) for i in range(trees.num_tree))


def ydf_engine(model: Model, folder: Path) -> Predict:
    if model.library == "sklearn":
        try:
            trees = ydf.from_sklearn(joblib.load(model.own(folder)))
        except Exception as error:  # of any type: YDF's importer raises what it meets
            raise Unable(f"does not import it: {str(error).splitlines()[0]}") from None
        # One feature of several values, whose parts are called features.0_of_10 and so on.
        name = trees.input_feature_names()[0].split(".")[0]
        columns = lambda x: {name: x}  # noqa: E731
    else:
        trees = ydf_of(model, imported(model, folder))
        columns = lambda x: {f"f{i}": column for i, column in enumerate(x.T)}  # noqa: E731

    def predict(x: np.ndarray) -> np.ndarray:
        answers = trees.predict(columns(x), num_threads=1)
        answers = answers.reshape(len(answers), -1)
        return 0.5 - answers[:, 0] if model.name == "isolation" else answers[:, min(model.element, answers.shape[1] - 1)]

    return predict


def ydf_of(model: Model, trees: treelite.Model) -> ydf.GradientBoostedTreesModel:
    """Puts the trees of another library into a model of YDF, which is trained only to have the columns."""
    dump = json.loads(trees.dump_as_json())
    width = dump["num_feature"]
    is_classifier = model.output == "probabilities"
    rng = np.random.default_rng(1)
    data = {f"f{i}": rng.random(1000).astype(np.float32) for i in range(width)}
    data["label"] = rng.integers(0, 5, 1000) if is_classifier else rng.random(1000)
    learner = ydf.GradientBoostedTreesLearner(
        label="label", task=ydf.Task.CLASSIFICATION if is_classifier else ydf.Task.REGRESSION, num_trees=1, validation_ratio=0.0
    )
    target = learner.train(data, verbose=0)
    columns = {target.data_spec().columns[i].name: i for i in range(width + 1)}

    def node(tree: dict, at: int) -> ydf.tree.AbstractNode:
        values = tree["nodes"][at]
        if "leaf_value" in values:
            value = values["leaf_value"]
            return ydf.tree.Leaf(value=ydf.tree.RegressionValue(num_examples=1.0, value=value[0] if isinstance(value, list) else value))
        # YDF tests for at least a threshold: the smallest float that takes the other way.
        threshold = np.float32(values["threshold"])
        if values["comparison_op"] == "<=":
            if float(threshold) > values["threshold"]:
                threshold = np.nextafter(threshold, np.float32(-np.inf))
            threshold = np.nextafter(threshold, np.float32(np.inf))
        elif values["comparison_op"] != "<":
            raise Unable(f"has no comparison {values['comparison_op']}")
        condition = ydf.tree.NumericalHigherThanCondition(
            missing=bool(not values["default_left"]), score=0.0, attribute=columns[f"f{values['split_feature_id']}"], threshold=float(threshold)
        )
        return ydf.tree.NonLeaf(condition=condition, pos_child=node(tree, values["right_child"]), neg_child=node(tree, values["left_child"]))

    for tree in dump["trees"]:
        target.add_tree(ydf.tree.Tree(root=node(tree, tree.get("root_id", 0))))
    for _ in range(5 if is_classifier else 1):
        target.remove_tree(0)
    target.set_initial_predictions(np.resize(np.asarray(dump["base_scores"], np.float32), 5 if is_classifier else 1))
    return target


CONTENDERS: dict[str, Callable[[Model, Path], Predict]] = {
    "ONNX Runtime": onnx_runtime,
    "LightGBM": lightgbm_itself,
    "XGBoost": xgboost_itself,
    "scikit-learn": sklearn_itself,
    "lleaves": lleaves_compiled,
    "Treelite (tl2cgen)": treelite_compiled,
    "Treelite (GTIL)": treelite_interpreted,
    "YDF": ydf_engine,
}
