"""The models that only the tests use, in tests/reference/models: each has something that `late`, `credit` and `diamonds` lack.

They learn from models/data and from the reviews and tweets of tests/reference/data.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType as LightGbmFloats
from skl2onnx import convert_sklearn, to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.ensemble import IsolationForest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from generate import diamonds, onnx_file, tables

TEXTS = onnx_file.FIXTURES.parent / "data"
WORDS = r"[a-zA-Z]+"


def credit_matrix(credit: pd.DataFrame) -> pd.DataFrame:
    """The 26 features of the wide credit models: nine numbers, then a 0/1 column for each value of the five names; a missing
    number becomes the median of its column, a missing name has 0 in all its columns."""
    columns = pd.get_dummies(credit.drop(columns="Status"))
    return columns.fillna(columns.median()).astype(np.float32)


def tweet_label(mean_sentiment: pd.Series) -> np.ndarray:
    """The class of a tweet, from the mean of its human ratings (-4 to 4)."""
    return np.where(mean_sentiment > 0.5, "positive", np.where(mean_sentiment < -0.5, "negative", "neutral")).astype(object)


def wide_credit(folder: Path) -> None:
    """Four models over one wide input: LightGBM (its label says [1] and gives [N]), with and without ZipMap; an MLP; an
    isolation forest, whose two outputs are both [N,1]."""
    credit = tables.read("credit")
    x, y = credit_matrix(credit).values, (credit.Status == "bad").astype(int).values
    train, held_out = train_test_split(np.arange(len(x)), test_size=0.3, random_state=0, stratify=y)
    trees = lightgbm.LGBMClassifier(n_estimators=200, num_leaves=15, learning_rate=0.05, verbose=-1, n_jobs=1).fit(x[train], y[train])
    trained = trees.predict_proba(x)[:, 1]
    for name, zipmap in (("credit_lgbm", False), ("credit_lgbm_zipmap", True)):
        model = convert_lightgbm(trees, initial_types=[("x", LightGbmFloats([None, x.shape[1]]))], zipmap=zipmap, target_opset=15)
        path = folder / f"{name}.onnx"
        onnx_file.save(model, path, name)
        output = onnx_file.run(path, {"x": x})[1]
        answer = np.array([row[1] for row in output]) if zipmap else output[:, 1]
        onnx_file.report(path, f"AUC {roc_auc_score(y[held_out], answer[held_out]):.3f}", np.abs(answer - trained).max(), 1e-4)

    known = 3000
    network = make_pipeline(StandardScaler(), MLPClassifier(hidden_layer_sizes=(64, 32), max_iter=60, random_state=0)).fit(x[:known], y[:known])
    path = folder / "credit_mlp.onnx"
    onnx_file.save(to_onnx(network, x[:1], options={"zipmap": False}, target_opset={"": 18, "ai.onnx.ml": 3}), path, "credit_mlp")
    answer = onnx_file.run(path, {"X": x})[1][:, 1]
    quality = f"AUC {roc_auc_score(y[known:], answer[known:]):.3f}"
    onnx_file.report(path, quality, np.abs(answer - network.predict_proba(x)[:, 1]).max(), 1e-4)

    forest = IsolationForest(n_estimators=50, random_state=0).fit(x[:known])
    path = folder / "credit_isoforest.onnx"
    onnx_file.save(to_onnx(forest, x[:1], target_opset={"": 15, "ai.onnx.ml": 3}), path, "credit_isoforest")
    answer = onnx_file.run(path, {"X": x})[1].ravel()
    onnx_file.report(path, "outlier scores", np.abs(answer - forest.decision_function(x)).max(), 1e-4)


def wide_diamonds(folder: Path) -> None:
    """An MLP with a batch of any size, and the same with the batch fixed at 1 and at 8."""
    table = tables.read("diamonds")
    x, y = diamonds.features(table), table.price.values.astype(np.float32)
    train, held_out = train_test_split(np.arange(len(x)), test_size=0.2, random_state=0)
    network = make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(64, 32), max_iter=8, random_state=0)).fit(x[train], y[train])
    model = to_onnx(network, x[:1], target_opset={"": 18, "ai.onnx.ml": 3})
    path = folder / "diamonds_mlp.onnx"
    onnx_file.save(model, path, "diamonds_mlp")
    answer, trained = onnx_file.run(path, {"X": x})[0].ravel(), network.predict(x)
    onnx_file.report(path, f"R2 {network.score(x[held_out], y[held_out]):.3f}", (np.abs(answer - trained) / y.mean()).max(), 1e-4)
    for rows in (1, 8):
        fixed = copy.deepcopy(model)
        for value in (*fixed.graph.input, *fixed.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = rows
        onnx_file.save(fixed, folder / f"diamonds_mlp_batch{rows}.onnx", f"diamonds_mlp_batch{rows}")


def texts(folder: Path) -> None:
    """Two text classifiers with string labels: reviews (case folding inside the graph, which needs the locale en_US.UTF-8; a map
    from label to probability) and tweets (lower-cased before they go in; three classes)."""
    reviews = pd.read_csv(TEXTS / "reviews.csv.gz", keep_default_na=False)
    learn, check = reviews[reviews.split == "train"], reviews[reviews.split == "test"]
    classifier = make_pipeline(TfidfVectorizer(max_features=2000, token_pattern=WORDS), LogisticRegression(C=4, max_iter=300))
    classifier.fit(learn.review.values, learn.score.values)
    model = convert_sklearn(classifier, initial_types=[("review", StringTensorType([None, 1]))], target_opset={"": 19, "ai.onnx.ml": 3})
    onnx_file.save(model, folder / "review_tfidf_strlabel_zipmap.onnx", "review_tfidf_strlabel_zipmap")
    print(f"review_tfidf_strlabel_zipmap.onnx: accuracy {classifier.score(check.review.values, check.score.values):.3f} on held-out rows")

    tweets = pd.read_csv(TEXTS / "tweets.csv.gz", keep_default_na=False)
    x, y = tweets.text.str.lower().values, tweet_label(tweets.mean_sentiment)
    train, held_out = train_test_split(np.arange(len(x)), test_size=0.25, random_state=0)
    vectors = TfidfVectorizer(lowercase=False, token_pattern=WORDS, max_features=6000, ngram_range=(1, 2))
    classifier = make_pipeline(vectors, LogisticRegression(C=6, max_iter=1000, class_weight="balanced")).fit(x[train], y[train])
    model = convert_sklearn(
        classifier,
        initial_types=[("text", StringTensorType([None, 1]))],
        options={id(classifier): {"zipmap": False}},
        target_opset={"": 18, "ai.onnx.ml": 3},
    )
    path = folder / "tweet_tfidf_lr_nolower.onnx"
    onnx_file.save(model, path, "tweet_tfidf_lr_nolower")
    label = onnx_file.run(path, {"text": x.astype(object).reshape(-1, 1)})[0]
    # ONNX Runtime's tokenizer cuts a few tweets in other places than scikit-learn does: compare labels, not probabilities.
    other = (label != classifier.predict(x)).mean()
    onnx_file.report(path, f"accuracy {(label[held_out] == y[held_out]).mean():.3f}", other, 0.01, "share of labels that are other")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else onnx_file.FIXTURES
    wide_credit(folder)
    wide_diamonds(folder)
    texts(folder)


if __name__ == "__main__":
    main()
