"""Makes the model `two_tower`: will a user like a film? A vector for each of the two, and how well they agree.

The tower of users looks a vector up by id; the tower of films makes one from genres and year, so that a film nobody has
rated yet has one too. Trained on MovieLens as recommender.py loads it (the ratings may not be passed on, nor a model of
them), the same way each time, in some seconds. It writes to target/models (or to the folder named on the command line):

  two_tower.onnx    user_id int64 [n], genres bool [n,19], year int32 [n]
                    -> like float [n], user_embedding float [n,24], item_embedding float [n,24]
  genres.csv        genre: the names of the 19, in their order

A user that the model has not seen has the mean of all users' vectors. What is there already is left as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from recommender import BATCH, HELD_OUT, Ratings, load, replace

LIKED = 4
HIDDEN, WIDTH = 48, 24
PASSES = 10


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def films(folder: Path, ratings: Ratings) -> tuple[list[str], np.ndarray]:
    """The names of the genres, and the features of every film: genres as 0 and 1, and the year in steps of 20."""
    items = pd.read_csv(folder / "items.csv").set_index("item_id").loc[ratings.item_ids]
    lists = items.genres.fillna("").str.split("|")
    names = sorted({genre for row in lists for genre in row if genre and not genre.startswith("(")})
    flags = np.array([[name in row for name in names] for row in lists], np.float32)
    year = (items.year.fillna(1995).to_numpy(np.float32) - 1990) / 20
    return names, np.concatenate([flags, year[:, None]], axis=1)


def train(ratings: Ratings, rows: np.ndarray, features: np.ndarray) -> dict[str, np.ndarray]:
    """Gradient descent on the likelihood of the likes."""
    random = np.random.default_rng(0)
    liked = (ratings.score >= LIKED).astype(np.float32)

    def start(*shape: int) -> np.ndarray:
        return random.normal(0, 0.2, shape).astype(np.float32)

    w1, w2, users = start(features.shape[1], HIDDEN), start(HIDDEN, WIDTH), start(len(ratings.user_ids), WIDTH)
    b1, bias = np.zeros(HIDDEN, np.float32), np.zeros(len(users), np.float32)
    rows = rows.copy()
    for _ in range(PASSES):
        random.shuffle(rows)
        for batch in np.array_split(rows, max(1, len(rows) // BATCH)):
            u, x = ratings.user[batch], features[ratings.item[batch]]
            hidden = np.maximum(x @ w1 + b1, 0)
            items = hidden @ w2
            error = (liked[batch] - sigmoid((users[u] * items).sum(1) + bias[u]))[:, None]
            toward_items = error * users[u]
            toward_hidden = (toward_items @ w2.T) * (hidden > 0)
            np.add.at(users, u, 0.05 * (error * items - 0.01 * users[u]))
            np.add.at(bias, u, 0.05 * error[:, 0])
            w2 += 0.00125 * hidden.T @ toward_items
            w1 += 0.00125 * x.T @ toward_hidden
            b1 += 0.00125 * toward_hidden.sum(0)
    return {"w1": w1, "b1": b1, "w2": w2, "users": users, "bias": bias}


def score(ratings: Ratings, rows: np.ndarray, features: np.ndarray, towers: dict[str, np.ndarray]) -> np.ndarray:
    items = np.maximum(features[ratings.item[rows]] @ towers["w1"] + towers["b1"], 0) @ towers["w2"]
    users = ratings.user[rows]
    return sigmoid((towers["users"][users] * items).sum(1) + towers["bias"][users])


def to_onnx(ratings: Ratings, names: list[str], towers: dict[str, np.ndarray]) -> onnx.ModelProto:
    constants = dict(towers)
    for key in ("users", "bias"):
        constants[key] = np.concatenate([towers[key], towers[key].mean(0, keepdims=True)])
    constants |= {"start": np.array(1990, np.float32), "step": np.array(20, np.float32), "last_axis": np.array([1], np.int64)}
    nodes = [
        helper.make_node(
            "LabelEncoder", ["user_id"], ["user"], domain="ai.onnx.ml",
            keys_int64s=ratings.user_ids.tolist(), values_int64s=list(range(len(ratings.user_ids))), default_int64=len(ratings.user_ids),
        ),
        helper.make_node("Gather", ["users", "user"], ["user_embedding"]),
        helper.make_node("Gather", ["bias", "user"], ["user_bias"]),
        helper.make_node("Cast", ["genres"], ["flags"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["year"], ["year_float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["year_float", "start"], ["year_since"]),
        helper.make_node("Div", ["year_since", "step"], ["year_scaled"]),
        helper.make_node("Unsqueeze", ["year_scaled", "last_axis"], ["year_column"]),
        helper.make_node("Concat", ["flags", "year_column"], ["film"], axis=1),
        helper.make_node("Gemm", ["film", "w1", "b1"], ["raw"]),
        helper.make_node("Relu", ["raw"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["item_embedding"]),
        helper.make_node("Mul", ["user_embedding", "item_embedding"], ["products"]),
        helper.make_node("ReduceSum", ["products", "last_axis"], ["match"], keepdims=0),
        helper.make_node("Add", ["match", "user_bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["like"]),
    ]  # fmt: skip
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "two_tower",
        [value("user_id", TensorProto.INT64, ["n"]), value("genres", TensorProto.BOOL, ["n", len(names)]), value("year", TensorProto.INT32, ["n"])],
        [value("like", TensorProto.FLOAT, ["n"]), value("user_embedding", TensorProto.FLOAT, ["n", WIDTH]), value("item_embedding", TensorProto.FLOAT, ["n", WIDTH])],
        [numpy_helper.from_array(values, key) for key, values in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)], ir_version=8)
    helper.set_model_props(made, {"genres": "|".join(names)})
    onnx.checker.check_model(made)
    return made


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "target" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    if all((folder / name).exists() for name in ("two_tower.onnx", "genres.csv", "ratings.csv", "items.csv")):
        return
    ratings = load(folder)
    names, features = films(folder, ratings)
    order = np.random.default_rng(0).permutation(len(ratings.score))
    held_out, rows = order[:HELD_OUT], order[HELD_OUT:]
    towers = train(ratings, rows, features)
    replace(folder / "two_tower.onnx", to_onnx(ratings, names, towers).SerializeToString(deterministic=True))
    replace(folder / "genres.csv", ("genre\n" + "\n".join(names) + "\n").encode())
    given, liked = score(ratings, held_out, features, towers), ratings.score[held_out] >= LIKED
    ranks = np.empty(len(given))
    ranks[np.argsort(given)] = np.arange(len(given))
    likes = liked.sum()
    area = (ranks[liked].sum() - likes * (likes - 1) / 2) / (likes * (~liked).sum())
    print(f"two_tower.onnx: ranks a liked film above another in {area:.0%} of {HELD_OUT} held-out ratings", flush=True)


if __name__ == "__main__":
    main()
