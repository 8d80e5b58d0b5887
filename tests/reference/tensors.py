"""Models that take texts, images and whole files: their predictions against Python's ONNX Runtime, through every form.

  tensors.py     score.sh calls it, with the tables loaded, in a server reachable through libpq's environment variables

One line of TAP for each promise. Texts are tokenised by Python's `tokenizers`, alone and without padding, so nothing of how
pg_predict batches them is taken for granted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psycopg
from onnx import helper, numpy_helper
from psycopg.types.json import Jsonb
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MINILM = ROOT / "target" / "packages" / "minilm"
IMAGES = ROOT / "target" / "packages" / "rapidocr" / "cls.onnx"
GENERATED = ROOT / "target" / "models"
SIZES = (1, 7, 1024, 0)
TWEETS = 200
MAX_LENGTH = 128
COSINE = 0.9999
TOLERANCE = 1e-4

connection = psycopg.connect(autocommit=True)
number = failed = 0


def promise(title: str, kept: bool, note: str = "") -> None:
    """One line of TAP."""
    global number, failed
    number += 1
    failed += not kept
    print(f"{'ok' if kept else 'not ok'} {number} - {title}" + (f", {note}" if note else ""), flush=True)


def ask(query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return connection.execute(query, parameters).fetchall()


def create(name: str, path: Path, options: dict[str, Any], tokenizer: Path | None = None, external: Path | None = None) -> None:
    """As a client does it: the bytes travel."""
    ask(
        "SELECT predict.create_model(%s, %s, %s, %s::jsonb, %s)",
        name, path.read_bytes(), Jsonb(options), tokenizer and tokenizer.read_text(), external and external.read_bytes(),
    )  # fmt: skip


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def at_sizes(check: Callable[[str], None]) -> None:
    """Every batch size, and a plan with workers."""
    for size in SIZES:
        ask("SELECT set_config('pg_predict.batch_size', %s, false)", str(size))
        check(f"batch_size {size}")
    ask("SELECT set_config('pg_predict.batch_size', '0', false)")
    parallel = {"parallel_setup_cost": "0", "parallel_tuple_cost": "0", "min_parallel_table_scan_size": "0", "max_parallel_workers_per_gather": "2"}
    for name, value in parallel.items():
        ask("SELECT set_config(%s, %s, false)", name, value)
    check("parallel plan")
    for name in parallel:
        connection.execute(f"RESET {name}")


def cosines(got: dict[int, list[float]], wanted: np.ndarray) -> float:
    """The least cosine between the vectors of one key, -1 where keys are missing."""
    if sorted(got) != list(range(1, len(wanted) + 1)):
        return -1.0
    ours = np.array([got[key] for key in sorted(got)], np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((ours * wanted).sum(1) / lengths).min())


def embeddings() -> None:
    """MiniLM's vectors of the reference tweets."""
    wanted = np.load(HERE / "answers" / f"minilm_tweets{TWEETS}.npz")["embedding"].astype(np.float64)
    create("minilm", MINILM / "model.onnx", {"pooling": "mean", "normalize": True, "max_length": MAX_LENGTH}, MINILM / "tokenizer.json")
    connection.execute(f"CREATE TABLE some_tweets AS SELECT * FROM tweets WHERE id <= {TWEETS} ORDER BY id")

    def rows(how: str) -> None:
        got = dict(ask("SELECT p.id, p.last_hidden_state FROM predictions((SELECT predict_batch('minilm', t) FROM some_tweets t)) AS p(id integer, last_hidden_state real[])"))
        least = cosines(got, wanted)
        promise(f"minilm, whole row, predict_batch, {how}", least > COSINE, f"least cosine {least:.7f}")

    def cast(how: str) -> None:
        [[vectors]] = ask("SELECT predict_batch('minilm', t.text ORDER BY t.id)::real[] FROM some_tweets t")
        least = cosines(dict(enumerate(vectors, 1)), wanted)
        promise(f"minilm, text, predict_batch cast to real[], {how}", least > COSINE, f"least cosine {least:.7f}")

    at_sizes(rows)
    at_sizes(cast)
    for verb in ("embed('minilm', t.text)", "predict_array('minilm', t)"):
        least = cosines(dict(ask(f"SELECT t.id, {verb} FROM some_tweets t")), wanted)
        promise(f"minilm, {verb}", least > COSINE, f"least cosine {least:.7f}")
    [[lengths]] = ask("SELECT max(abs(1 - sqrt((SELECT sum(x::float8 * x) FROM unnest(embed('minilm', t.text)) x)))) FROM some_tweets t WHERE t.id <= 20")
    promise("minilm, vectors have a length of 1", lengths < 1e-5, f"off by {lengths:.1e}")


def sentiment(name: str, table: str, column: str, rows: int) -> None:
    """Labels of a text classifier, against each text run alone."""
    tokenizer = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.no_padding()
    path = GENERATED / f"{name}.onnx"
    model = session(path)
    wanted: dict[int, tuple[str, list[float]]] = {}
    for key, text in ask(f"SELECT id, {column} FROM {table} WHERE id <= {rows}"):
        tokens = tokenizer.encode(text)
        label, odds = model.run(["label", "probabilities"], {
            "input_ids": np.array([tokens.ids], np.int64),
            "attention_mask": np.array([tokens.attention_mask], np.int64),
            "token_type_ids": np.array([tokens.type_ids], np.int64),
        })
        wanted[key] = (label[0], odds[0].tolist())
    create(name, path, {"features": [column], "max_length": MAX_LENGTH}, MINILM / "tokenizer.json")
    connection.execute(f"CREATE TABLE some_{table} AS SELECT * FROM {table} WHERE id <= {rows}") if f"some_{table}" != "some_tweets" else None
    source = f"(SELECT * FROM some_{table} WHERE id <= {rows}) t"

    def judge(title: str, got: list[tuple[int, str, list[float]]]) -> None:
        wrong = [key for key, label, odds in got if label != wanted[key][0] or not np.allclose(odds, wanted[key][1], atol=1e-3)]
        promise(f"{name}, {title}", sorted(k for k, _, _ in got) == sorted(wanted) and not wrong, f"{len(got)} rows, {len(wrong)} wrong")

    def rows_of(how: str) -> None:
        judge(f"whole row, predict_batch, {how}", ask(f"SELECT p.* FROM predictions((SELECT predict_batch('{name}', t) FROM {source})) AS p(id integer, label text, probabilities real[])"))

    at_sizes(rows_of)
    got = ask(f"SELECT t.id, predict_text('{name}', t.{column}) FROM {source}")
    promise(f"{name}, predict_text", len(got) == len(wanted) and all(wanted[key][0] == label for key, label in got), f"{len(got)} rows")


def images() -> None:
    """A classifier of images, out of bytes and out of arrays."""
    made = np.random.default_rng(5).normal(size=(8, 3, 48, 192)).astype(np.float32)
    model = session(IMAGES)
    output = model.get_outputs()[0].name
    [wanted] = model.run(None, {model.get_inputs()[0].name: made})
    # The file leaves height and width open.
    create("cls", IMAGES, {"shapes": {model.get_inputs()[0].name: list(made.shape[1:])}})
    connection.execute("CREATE TABLE image (id integer PRIMARY KEY, content bytea, flat real[], nested real[])")
    for key, image in enumerate(made, 1):
        connection.execute("INSERT INTO image VALUES (%s, %s, %s, %s)", (key, image.astype("<f4").tobytes(), image.ravel().tolist(), image.tolist()))

    for column in ("content", "flat", "nested"):

        def rows(how: str, column: str = column) -> None:
            [[answers]] = ask(f"SELECT predict_batch('cls', i.{column} ORDER BY i.id)::real[] FROM image i")
            off = float(np.abs(np.array(answers) - wanted).max())
            promise(f"cls, {column}, predict_batch, {how}", off < TOLERANCE, f"largest difference {off:.1e}")

        at_sizes(rows)
        answers = dict(ask(f"SELECT i.id, predict_array('cls', i.{column}) FROM image i"))
        off = max(float(np.abs(np.array(answers[key]) - wanted[key - 1]).max()) for key in range(1, 9))
        promise(f"cls, {column}, predict_array", off < TOLERANCE, f"largest difference {off:.1e}")
    [[same]] = ask(f"SELECT count(*) FROM predictions((SELECT predict_batch('cls', i) FROM (SELECT id, content AS x FROM image) i)) AS p(id integer, \"{output}\" real[])")
    promise("cls, whole row with a bytea, predict_batch", same == 8)


def compare(name: str, path: Path, form: str) -> None:
    """A model of one wide float input against Python's ONNX Runtime, for 500 made-up rows."""
    model = session(path)
    taken = model.get_inputs()[0]
    rows = np.random.default_rng(7).uniform(0, 5, (500, taken.shape[1])).astype(np.float32)
    wanted = model.run(None, {taken.name: rows})[-1].reshape(len(rows), -1)
    output = model.get_outputs()[-1].name
    query = f"SELECT predict_batch('{name}/{output}', r::real[] ORDER BY n)::real[] FROM unnest(%s::text[]) WITH ORDINALITY u(r, n)"
    literals = ["{" + ",".join(map(repr, map(float, row))) + "}" for row in rows]
    for size in (1, 7, 0):
        ask("SELECT set_config('pg_predict.batch_size', %s, false)", str(size))
        [[got]] = ask(query, literals)
        off = float((np.abs(np.array(got).reshape(len(rows), -1) - wanted) / (1 + np.abs(wanted))).max())
        promise(f"{name}, {form}, batch_size {size}", off < TOLERANCE, f"largest difference {off:.1e}")
    ask("SELECT set_config('pg_predict.batch_size', '0', false)")


def external_data() -> None:
    """Weights beside the model: as bytes, and as a sibling file."""
    path = HERE / "models" / "torch_mlp.onnx"
    create("torch", path, {}, external=path.with_name("torch_mlp.onnx.data"))
    compare("torch", path, "external_data")
    # The server reads as its own user: the folder must be one that it can read.
    [[folder]] = ask("SELECT current_setting('data_directory')")
    readable = Path(folder).parent / "torch"
    readable.mkdir(mode=0o755, exist_ok=True)
    for file in (path, path.with_name("torch_mlp.onnx.data")):
        (readable / file.name).write_bytes(file.read_bytes())
    ask("SELECT predict.create_model_from_file('torch_file', %s)", str(readable / path.name))
    compare("torch_file", path, "sibling file")


def fixed_batches() -> None:
    """Models that fix their batch give the answers of the one that does not."""
    for rows in (1, 8):
        name = f"diamonds_mlp_batch{rows}"
        create(name, HERE / "models" / f"{name}.onnx", {})
        compare(name, HERE / "models" / "diamonds_mlp.onnx", "fixed batch")


def opsets() -> None:
    """A real network in the oldest opset that exporters still write, and in a new one."""
    folder = ROOT / "target" / "reference"
    source = onnx.load(HERE / "models" / "diamonds_mlp.onnx")
    weights = {t.name: numpy_helper.to_array(t) for t in source.graph.initializer}
    pairs = [(w, b) for w in weights.values() if w.ndim == 2 for b in weights.values() if b.ndim <= 2 and b.size == w.shape[1] and b is not w]
    layers, width = [], 9
    while True:
        found = next(((w, b) for w, b in pairs if w.shape[0] == width and not any(w is l for l, _ in layers)), None)
        if found is None:
            break
        layers.append(found)
        width = found[0].shape[1]
    for opset, ir in ((9, 4), (21, 10)):
        nodes, constants, value = [], [], "X"
        for i, (w, b) in enumerate(layers):
            constants += [numpy_helper.from_array(w.astype(np.float32), f"w{i}"), numpy_helper.from_array(b.reshape(-1).astype(np.float32), f"b{i}")]
            last = i == len(layers) - 1
            nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], ["y" if last else f"g{i}"]))
            if not last:
                nodes.append(helper.make_node("Relu", [f"g{i}"], [f"r{i}"]))
                value = f"r{i}"
        graph = helper.make_graph(
            nodes, "mlp", [helper.make_tensor_value_info("X", 1, ["N", 9])], [helper.make_tensor_value_info("y", 1, ["N", width])], constants,
        )  # fmt: skip
        model = helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)])
        onnx.checker.check_model(model)
        path = folder / f"opset{opset}.onnx"
        path.write_bytes(model.SerializeToString())
        create(f"opset{opset}", path, {})
        promise(f"opset{opset} is a network of {len(layers)} layers", len(layers) >= 2)
        compare(f"opset{opset}", path, "one wide input")


def main() -> None:
    started = time.monotonic()
    embeddings()
    sentiment("tweet_sentiment", "tweets", "text", TWEETS)
    sentiment("review_sentiment", "reviews", "review", 100)
    images()
    external_data()
    fixed_batches()
    opsets()
    print(f"1..{number}")
    print(f"# {time.monotonic() - started:.0f} seconds")
    print(f"{number - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
