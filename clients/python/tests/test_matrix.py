"""Each kind of estimator is uploaded, and SQL gives the library's own predictions on 1,000 rows with extremes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightgbm
import numpy as np
import pandas
import psycopg
import pytest
import scipy.sparse
import torch
import xgboost
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, RobustScaler
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import pg_predict

ROWS = 1000
NAMES = ["plain", "two words", "in [brackets]", "comma, too", "größe", "last"]


def table(missing: bool = False) -> pandas.DataFrame:
    """Rows of magnitudes from 1e-6 to 1e6, negative ones, zeros, and missing ones where asked for."""
    chance = np.random.default_rng(3)
    x = chance.normal(size=(ROWS, len(NAMES)))
    x[::10] *= 10.0 ** chance.integers(-6, 7, size=(ROWS // 10, 1))
    x[5::50] = 0
    x[7, 0], x[8, 1], x[9, 2] = 1e6, -1e6, 1e-6
    if missing:
        x[3::11, 2] = np.nan
        x[4, 0] = np.nan
    return pandas.DataFrame(x.astype(np.float32).astype(np.float64), columns=NAMES)


X = table()
CALM = np.clip(X.to_numpy(), -3, 3)
NUMBER = CALM @ [2.0, -1.0, 0.5, 0.0, 1.5, -0.5]
BINARY = (NUMBER > 0).astype(int)
CLASSES = np.where(NUMBER > 1, "high", np.where(NUMBER > -1, "middle", "low"))
LABELS = np.stack([BINARY, (CALM[:, 2] > 0.3).astype(int)], axis=1)
scaled = lambda model: make_pipeline(RobustScaler(), MinMaxScaler(clip=True), model)  # noqa: E731
BOOSTED = {"n_estimators": 20, "max_depth": 4, "random_state": 0}

# Name: a model to be trained, and what it learns.
SKLEARN: dict[str, tuple[Callable[[], Any], Any]] = {
    "LinearRegression": (LinearRegression, NUMBER),
    "LinearRegression, two targets": (LinearRegression, np.stack([NUMBER, -NUMBER], axis=1)),
    "Ridge": (Ridge, NUMBER),
    "ElasticNet": (ElasticNet, NUMBER),
    "LogisticRegression": (lambda: scaled(LogisticRegression()), BINARY),
    "LogisticRegression, classes of text": (lambda: scaled(LogisticRegression()), CLASSES),
    "SGDClassifier": (lambda: scaled(SGDClassifier(loss="log_loss", random_state=0)), BINARY),
    "LinearSVC": (lambda: scaled(LinearSVC()), BINARY),
    "LinearSVC, three classes": (lambda: scaled(LinearSVC()), CLASSES),
    "SVC": (lambda: scaled(SVC(probability=True, random_state=0)), BINARY),
    "SVR": (lambda: scaled(SVR()), NUMBER),
    "DecisionTreeClassifier": (lambda: DecisionTreeClassifier(max_depth=6, random_state=0), CLASSES),
    "DecisionTreeRegressor": (lambda: DecisionTreeRegressor(max_depth=6, random_state=0), NUMBER),
    "RandomForestClassifier": (lambda: RandomForestClassifier(20, random_state=0), BINARY),
    "RandomForestClassifier, two targets": (lambda: RandomForestClassifier(10, random_state=0), LABELS),
    "RandomForestRegressor": (lambda: RandomForestRegressor(20, random_state=0), NUMBER),
    "ExtraTreesClassifier": (lambda: ExtraTreesClassifier(20, random_state=0), CLASSES),
    "GradientBoostingClassifier": (lambda: GradientBoostingClassifier(n_estimators=20, random_state=0), BINARY),
    "GradientBoostingRegressor": (lambda: GradientBoostingRegressor(n_estimators=20, random_state=0), NUMBER),
    "HistGradientBoostingClassifier": (lambda: HistGradientBoostingClassifier(max_iter=20), BINARY),
    "HistGradientBoostingClassifier, three classes": (lambda: HistGradientBoostingClassifier(max_iter=10), CLASSES),
    "HistGradientBoostingRegressor": (lambda: HistGradientBoostingRegressor(max_iter=20), NUMBER),
    "AdaBoostClassifier": (lambda: AdaBoostClassifier(n_estimators=10, random_state=0), BINARY),
    "BaggingClassifier": (lambda: BaggingClassifier(n_estimators=5, random_state=0), BINARY),
    "VotingClassifier": (
        lambda: VotingClassifier(
            [("t", DecisionTreeClassifier(max_depth=4, random_state=0)), ("l", scaled(LogisticRegression()))], voting="soft", flatten_transform=False
        ),
        BINARY,
    ),
    "StackingClassifier": (lambda: StackingClassifier([("t", DecisionTreeClassifier(max_depth=4, random_state=0)), ("l", scaled(LogisticRegression()))]), BINARY),
    "GaussianNB": (lambda: scaled(GaussianNB()), BINARY),
    "BernoulliNB": (BernoulliNB, BINARY),
    "MLPClassifier": (lambda: scaled(MLPClassifier(hidden_layer_sizes=(16,), max_iter=50, random_state=0)), BINARY),
    "MLPRegressor": (lambda: scaled(MLPRegressor(hidden_layer_sizes=(16,), max_iter=50, random_state=0)), NUMBER),
    "MultiOutputClassifier": (lambda: scaled(MultiOutputClassifier(LogisticRegression())), LABELS),
    "MultiOutputRegressor": (lambda: MultiOutputRegressor(Ridge()), np.stack([NUMBER, -NUMBER], axis=1)),
    "KMeans": (lambda: KMeans(3, n_init=2, random_state=0), None),
    "MiniBatchKMeans": (lambda: MiniBatchKMeans(3, n_init=2, random_state=0), None),
    "IsolationForest": (lambda: IsolationForest(n_estimators=10, random_state=0), None),
    "PCA": (lambda: scaled(PCA(2)), None),
    "LGBMClassifier": (lambda: lightgbm.LGBMClassifier(verbose=-1, **BOOSTED), BINARY),
    "LGBMClassifier, three classes": (lambda: lightgbm.LGBMClassifier(verbose=-1, **BOOSTED), CLASSES),
    "LGBMRegressor": (lambda: lightgbm.LGBMRegressor(verbose=-1, **BOOSTED), NUMBER),
    "XGBClassifier": (lambda: xgboost.XGBClassifier(**BOOSTED), BINARY),
    "XGBRegressor": (lambda: xgboost.XGBRegressor(**BOOSTED), NUMBER),
}
# LightGBM and XGBoost themselves reject brackets and commas.
ACCEPTED = {"in [brackets]": "in brackets", "comma, too": "no comma"}
# Those that take missing numbers.
MISSING = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor", "LGBMClassifier", "LGBMRegressor", "XGBClassifier", "XGBRegressor")


@pytest.fixture(scope="module")
def connection() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(autocommit=True) as connection:
        yield connection


def numbers(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple, np.ndarray)):
        return [n for item in value for n in numbers(item)]
    return [value]


def check(connection: psycopg.Connection[Any], model: Any, x: pandas.DataFrame, expected: list[Any], tolerance: float = 1e-4) -> None:
    """Registers a model, and compares all that SQL gives for its first outputs with what the library gave."""
    connection.execute("SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'matrix') m")
    done = pg_predict.register(connection, "matrix", model, x, tolerance=tolerance)
    assert done.compared_rows == len(x)
    answers = pg_predict.predict(connection, "matrix", x, columns=[])
    assert len(answers) == len(x)
    for output, wanted in zip(done.outputs, expected, strict=False):
        column = answers[output.name].tolist()
        for row, (got, want) in enumerate(zip(column, wanted, strict=True)):
            got, want = numbers(got), numbers(want)
            assert len(got) == len(want), f"row {row}"
            for a, b in zip(got, want, strict=True):
                if isinstance(b, str):
                    assert a == b, f"row {row} of {output.name}"
                else:
                    close = abs(float(a) - float(b)) <= tolerance * max(1.0, abs(float(b)))
                    assert close, f"row {row} of {output.name}: {a} instead of {b}"


def single(x: pandas.DataFrame) -> pandas.DataFrame:
    return x.astype(np.float32)


@pytest.mark.parametrize("name", SKLEARN)
def test_sql_gives_what_the_library_gives(connection: psycopg.Connection[Any], name: str) -> None:
    make, target = SKLEARN[name]
    x = table(missing=True) if name in MISSING else X
    if name.startswith(("LGBM", "XGB")):
        x = x.rename(columns=ACCEPTED)
    model = make().fit(x, target) if target is not None else make().fit(x)
    given = single(x) if "KMeans" not in name else single(x).astype(np.float64)
    expected = [model.predict(given)] if hasattr(model, "predict") else [model.transform(given)]
    check(connection, model, x, expected)


def test_a_pipeline_of_columns_with_texts_and_missing_numbers(connection: psycopg.Connection[Any]) -> None:
    x = table(missing=True)
    x["colour"] = np.array(["red", "green", "blue"], object)[np.arange(ROWS) % 3]
    for handle in ("error", "ignore"):
        columns = ColumnTransformer(
            [("n", make_pipeline(SimpleImputer(), RobustScaler(), MinMaxScaler(clip=True)), NAMES), ("c", OneHotEncoder(handle_unknown=handle), ["colour"])]
        )
        model = make_pipeline(columns, LogisticRegression()).fit(x, BINARY)
        given = x.astype(dict.fromkeys(NAMES, np.float32))
        check(connection, model, x, [model.predict(given), model.predict_proba(given)])


def test_an_imputer_of_a_matrix_takes_missing_numbers(connection: psycopg.Connection[Any]) -> None:
    x = table(missing=True)
    model = make_pipeline(SimpleImputer(strategy="median"), RandomForestClassifier(10, random_state=0)).fit(x, BINARY)
    check(connection, model, x, [model.predict(single(x))])


def test_sparse_and_unnamed_input(connection: psycopg.Connection[Any]) -> None:
    x = scipy.sparse.csr_matrix(np.where(CALM > 1, CALM, 0).astype(np.float32))
    model = LogisticRegression().fit(x, BINARY)
    connection.execute("SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'matrix') m")
    assert pg_predict.register(connection, "matrix", model, x).compared_rows == ROWS


def test_boosters_of_their_own_libraries(connection: psycopg.Connection[Any]) -> None:
    x = table(missing=True)
    plain = x.rename(columns=ACCEPTED)
    booster = lightgbm.train({"objective": "regression", "verbose": -1}, lightgbm.Dataset(plain, NUMBER), 10)
    check(connection, booster, plain, [booster.predict(single(plain))])
    trees = xgboost.train({"objective": "reg:squarederror"}, xgboost.DMatrix(plain, NUMBER), 10)
    check(connection, trees, plain, [trees.predict(xgboost.DMatrix(single(plain)))])


@pytest.mark.parametrize("make", [KNeighborsClassifier, KNeighborsRegressor])
def test_a_conversion_that_answers_otherwise_is_refused(connection: psycopg.Connection[Any], make: Any) -> None:
    # Distances in float32 choose other neighbours among rows that are equally near.
    model = scaled(make(3)).fit(X, BINARY)
    with pytest.raises(pg_predict.ModelError, match="differs from the model itself"):
        pg_predict.register(connection, "matrix", model, X)


def test_columns_of_categories_are_refused_by_name(connection: psycopg.Connection[Any]) -> None:
    x = X.rename(columns=ACCEPTED)
    x["colour"] = pandas.Categorical(np.array(["red", "green", "blue"])[np.arange(ROWS) % 3])
    model = lightgbm.LGBMClassifier(verbose=-1, n_estimators=5).fit(x, BINARY)
    with pytest.raises(pg_predict.PgPredictError, match="categories"):
        pg_predict.register(connection, "matrix", model, x)


@pytest.mark.parametrize("outputs", [1, 3])
def test_modules_of_pytorch(connection: psycopg.Connection[Any], outputs: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(len(NAMES)), torch.nn.Linear(len(NAMES), 16), torch.nn.ReLU(), torch.nn.Linear(16, outputs)).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(single(X).to_numpy())).numpy()
    check(connection, model, X, [expected])
