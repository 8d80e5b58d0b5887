"""Models of five libraries, registered in one call each, answer in PostgreSQL what they answer themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import psycopg
import pytest

import pg_predict

MODELS = Path(__file__).resolve().parents[3] / "models"
ROWS = 400


@pytest.fixture
def conn() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect() as connection:
        yield connection
        connection.rollback()


@pytest.fixture(scope="module")
def loans() -> pd.DataFrame:
    frame = pd.read_csv(MODELS / "data" / "loans.csv.gz")
    return frame.dropna().reset_index(drop=True)


@pytest.fixture(scope="module")
def diamonds() -> pd.DataFrame:
    return pd.read_csv(MODELS / "data" / "diamonds.csv.gz").sample(4000, random_state=0).reset_index(drop=True)


def numbers(frame: pd.DataFrame, target: str) -> tuple[pd.DataFrame, pd.Series]:
    x = frame.drop(columns=target).select_dtypes("number").astype(np.float32)
    return x, frame[target]


def answers(conn: psycopg.Connection[Any], done: pg_predict.Registered, x: Any, output: str) -> Any:
    table = pg_predict.predict(conn, done.reference, x, columns=[])
    return np.stack(table[output].tolist()) if table[output].dtype == object and not isinstance(table[output][0], str) else table[output].to_numpy()


def near(got: Any, wanted: Any) -> None:
    np.testing.assert_array_less(np.abs(got - wanted) / np.maximum(1, np.abs(wanted)), 1e-4)


def sklearn_pipeline(loans: pd.DataFrame) -> tuple[Any, pd.DataFrame]:
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    x = loans[["funded_amnt", "int_rate", "annual_inc", "term", "sub_grade", "addr_state", "delinq_2yrs"]]
    texts = [c for c in x if not pd.api.types.is_numeric_dtype(x[c])]
    columns = ColumnTransformer([("n", StandardScaler(), [c for c in x if c not in texts]), ("c", OneHotEncoder(handle_unknown="error"), texts)])
    return Pipeline([("columns", columns), ("model", LogisticRegression(max_iter=500))]).fit(x, loans["Class"]), x


def test_scikit_learn_pipeline_with_columns(conn: psycopg.Connection[Any], loans: pd.DataFrame) -> None:
    model, x = sklearn_pipeline(loans)
    done = pg_predict.register(conn, "loans", model, x)
    assert done.version == 1 and done.aliases == ["default"] and done.inputs == list(x.columns)
    assert (done.compared_rows, done.golden_rows, done.baseline_rows) == (1000, 100, len(x))
    near(answers(conn, done, x[:ROWS], "probabilities"), model.predict_proba(x[:ROWS]))
    assert list(answers(conn, done, x[:ROWS], "label")) == list(model.predict(x[:ROWS]))
    kept = conn.execute("SELECT count(*) FROM predict.baselines WHERE model = 'loans' AND kind = 'feature'").fetchone()
    assert kept == (len(x.columns),)
    assert conn.execute("SELECT passed FROM predict.check('loans')").fetchall() == [(True,)]


def test_scikit_learn_forest_of_named_numbers(conn: psycopg.Connection[Any], diamonds: pd.DataFrame) -> None:
    from sklearn.ensemble import RandomForestRegressor

    x, y = numbers(diamonds, "price")
    model = RandomForestRegressor(20, max_depth=8, random_state=0).fit(x, y)
    # In another order, as Polars: columns are found by their names.
    done = pg_predict.register(conn, "forest", model, pl.from_pandas(x[x.columns[::-1]]))
    assert done.inputs == list(x.columns)
    near(answers(conn, done, x[:ROWS], "variable").ravel(), model.predict(x[:ROWS]))


def test_scikit_learn_isolation_forest_of_an_array(conn: psycopg.Connection[Any], diamonds: pd.DataFrame) -> None:
    from sklearn.ensemble import IsolationForest

    x = numbers(diamonds, "price")[0].to_numpy()
    model = IsolationForest(n_estimators=30, random_state=0).fit(x)
    done = pg_predict.register(conn, "outliers", model, x)
    assert list(answers(conn, done, x[:ROWS], "label").ravel()) == list(model.predict(x[:ROWS]))


def test_lightgbm_classifier_with_missing_values(conn: psycopg.Connection[Any], loans: pd.DataFrame) -> None:
    import lightgbm

    x, y = numbers(loans, "Class")
    x = x.mask(np.random.default_rng(0).random(x.shape) < 0.05)
    model = lightgbm.LGBMClassifier(n_estimators=50, verbose=-1, n_jobs=1).fit(x, (y == "bad").astype(int))
    done = pg_predict.register(conn, "lgbm", model, x)
    near(answers(conn, done, x[:ROWS], "probabilities"), model.predict_proba(x[:ROWS]))
    # A NULL is a missing value.
    columns = ", ".join(f"NULL::real AS {c}" for c in x.columns)
    got = pg_predict.predict(conn, "lgbm", f"SELECT {columns}")["probabilities"][0]
    near(got, model.predict_proba(pd.DataFrame([[np.nan] * x.shape[1]], columns=x.columns))[0])


def test_lightgbm_booster(conn: psycopg.Connection[Any], diamonds: pd.DataFrame) -> None:
    import lightgbm

    x, y = numbers(diamonds, "price")
    booster = lightgbm.train({"objective": "regression", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, y), 60)
    done = pg_predict.register(conn, "booster", booster, x)
    near(answers(conn, done, x[:ROWS], done.outputs[0].name).ravel(), booster.predict(x[:ROWS]))


def test_xgboost_regressor(conn: psycopg.Connection[Any], diamonds: pd.DataFrame) -> None:
    import xgboost

    x, y = numbers(diamonds, "price")
    model = xgboost.XGBRegressor(n_estimators=80, max_depth=5, n_jobs=1).fit(x, y)
    done = pg_predict.register(conn, "xgb", model, x)
    near(answers(conn, done, x[:ROWS], "variable").ravel(), model.predict(x[:ROWS]))
    assert model.get_booster().feature_names == list(x.columns), "the caller's model is as it was"


def test_xgboost_booster_of_classes(conn: psycopg.Connection[Any], loans: pd.DataFrame) -> None:
    import xgboost

    x, y = numbers(loans, "Class")
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(x, y == "bad"), 40)
    done = pg_predict.register(conn, "xgb_booster", booster, x)
    near(answers(conn, done, x[:ROWS], "probabilities")[:, 1], booster.predict(xgboost.DMatrix(x[:ROWS])))


def test_pytorch_module_of_a_row_of_numbers(conn: psycopg.Connection[Any], diamonds: pd.DataFrame) -> None:
    import torch

    x, _ = numbers(diamonds, "price")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(x.shape[1]), torch.nn.Linear(x.shape[1], 16), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    with torch.no_grad():
        model(torch.from_numpy(x.to_numpy()))  # moves the averages of the first layer
    done = pg_predict.register(conn, "mlp", model, x)
    assert model.training, "the caller's model is as it was"
    model.eval()
    near(answers(conn, done, x[:ROWS], done.outputs[0].name), model(torch.from_numpy(x[:ROWS].to_numpy())).detach().numpy())


def test_pytorch_module_of_several_inputs(conn: psycopg.Connection[Any]) -> None:
    import torch

    class Recommender(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = torch.nn.Embedding(100, 8), torch.nn.Embedding(200, 8)

        def forward(self, user: Any, item: Any) -> Any:
            return (self.users(user) * self.items(item)).sum(1)

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model, x = Recommender(), {"user": random.integers(0, 100, 500), "item": random.integers(0, 200, 500)}
    done = pg_predict.register(conn, "recommender", model, x)
    wanted = model(torch.from_numpy(x["user"]), torch.from_numpy(x["item"])).detach().numpy()
    near(answers(conn, done, x, done.outputs[0].name), wanted)


def test_onnx_file_of_named_inputs(conn: psycopg.Connection[Any], loans: pd.DataFrame) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(MODELS / "credit.onnx")
    names = [i.name for i in session.get_inputs()]
    x = loans[names][:ROWS]
    done = pg_predict.register(conn, "credit", MODELS / "credit.onnx", x)
    feeds = {n: x[[n]].to_numpy(np.float32 if i.type == "tensor(float)" else object) for n, i in zip(names, session.get_inputs(), strict=True)}
    near(answers(conn, done, x, "probabilities"), session.run(["probabilities"], feeds)[0])
    assert pg_predict.register(conn, "credit", (MODELS / "credit.onnx").read_bytes()).version == 2


def test_onnx_with_a_hugging_face_tokenizer(conn: psycopg.Connection[Any], transformer: Path) -> None:
    import onnxruntime
    import tokenizers

    texts = ["a good film", "not what I hoped for, at all", "delivery was late"] * 5
    tokenizer = tokenizers.Tokenizer.from_file(str(transformer / "tokenizer.json"))
    done = pg_predict.register(conn, "minilm", transformer / "model.onnx", texts, tokenizer=tokenizer, options={"batch": "force", "pooling": "mean", "normalize": True})
    session = onnxruntime.InferenceSession(transformer / "model.onnx")
    tokenizer.no_padding()
    for i in range(3):
        ids = tokenizer.encode(texts[i])
        feeds = {"input_ids": ids.ids, "attention_mask": ids.attention_mask, "token_type_ids": ids.type_ids}
        states = session.run(None, {k: np.array([v], np.int64) for k, v in feeds.items()})[0][0]
        vector = states.mean(0)
        got = answers(conn, done, texts[i : i + 1], done.outputs[0].name)[0]
        near(got, vector / np.linalg.norm(vector))


@pytest.fixture(scope="module")
def transformer() -> Path:
    folder = Path(__file__).resolve().parents[3] / "target" / "packages" / "minilm"
    assert (folder / "model.onnx").is_file(), "scripts/packages.sh minilm fetches it"
    return folder


def wrong(x: pd.DataFrame, **change: Callable[[pd.Series], Any]) -> pd.DataFrame:
    return x.assign(**{name: make(x[name]) for name, make in change.items()})


def put(row: int, value: Any) -> Callable[[pd.Series], Any]:
    def make(column: pd.Series) -> Any:
        values = column.astype(object).tolist()
        values[row] = value
        return pd.Series(values, dtype=object)

    return make


def test_a_wrong_sample_is_told_of_by_its_column(conn: psycopg.Connection[Any], loans: pd.DataFrame, diamonds: pd.DataFrame) -> None:
    import lightgbm
    from sklearn.linear_model import LinearRegression

    pipeline, x = sklearn_pipeline(loans)
    numeric, price = numbers(diamonds, "price")
    linear = LinearRegression().fit(numeric, price)
    trees = lightgbm.LGBMRegressor(n_estimators=3, verbose=-1).fit(numeric, price)
    cases: list[tuple[Any, pd.DataFrame, str, str]] = [
        (pipeline, x.drop(columns="int_rate"), "int_rate", "lacks"),
        (pipeline, x.assign(id=1), "id", "not trained with"),
        (pipeline, wrong(x, annual_inc=put(3, np.nan)), "annual_inc", "row 3"),
        (pipeline, wrong(x, sub_grade=put(7, None)), "sub_grade", "missing a text in row 7"),
        (pipeline, wrong(x, sub_grade=put(7, 5)), "sub_grade", "row 7"),
        (pipeline, wrong(x, sub_grade=put(2, "Z9")), "sub_grade", "'Z9' in row 2"),
        (pipeline, wrong(x, annual_inc=lambda c: c.astype(str)), "annual_inc", "holds text"),
        (linear, wrong(numeric, carat=put(5, np.nan)), "carat", "row 5"),
        (linear, wrong(numeric, carat=lambda c: c.astype(str)), "carat", "takes numbers"),
        (linear, wrong(numeric, carat=put(1, [1, 2])), "carat", "row 1"),
        (linear, wrong(numeric, carat=lambda c: c.astype(float) * 1e300), "carat", "float32"),
        (trees, numeric.drop(columns="depth"), "depth", "lacks"),
        (trees, wrong(numeric, depth=lambda c: c.astype(str)), "depth", "takes numbers"),
    ]
    for model, sample, column, words in cases:
        with pytest.raises(pg_predict.SampleError) as caught:
            pg_predict.register(conn, "wrong", model, sample)
        assert (caught.value.column, f'"{column}"' in str(caught.value), words in str(caught.value)) == (column, True, True), str(caught.value)
    assert conn.execute("SELECT count(*) FROM predict.models WHERE name = 'wrong'").fetchone() == (0,)


def test_a_version_that_answers_otherwise_is_not_kept(conn: psycopg.Connection[Any], diamonds: pd.DataFrame) -> None:
    from sklearn.linear_model import LinearRegression

    x, y = numbers(diamonds, "price")

    class Rounded(LinearRegression):  # type: ignore[misc]
        """What it says of itself is not what its coefficients say."""

        def predict(self, X: Any) -> Any:
            return super().predict(X) + 1

    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes
    from skl2onnx.operator_converters.linear_regressor import convert_sklearn_linear_regressor

    update_registered_converter(Rounded, "Rounded", calculate_linear_regressor_output_shapes, convert_sklearn_linear_regressor)
    with pytest.raises(pg_predict.ModelError, match=r'output "variable" differs .* in \d+ of 1000 rows, most in row \d+: .* pass a larger tolerance'):
        pg_predict.register(conn, "rounded", Rounded().fit(x, y), x)
    assert conn.execute("SELECT count(*) FROM predict.models WHERE name = 'rounded'").fetchone() == (0,)
