"""Makes the models `tweet_sentiment` and `review_sentiment`: MiniLM with a head for sentiment, each as one graph.

Both are a published sentence embedding model (scripts/packages.sh minilm), the mean of its token states, and a logistic
regression on it that is trained here, the same way each time, on texts that people rated. They go to target/models (or to
the folder named on the command line):

  tweet_sentiment.onnx    negative, neutral or positive     tokens -> label string [n], probabilities float [n,3]
  review_sentiment.onnx   great or other                    tokens -> label string [n], probabilities float [n,2]

The inputs are those of the tokenizer: input_ids, attention_mask, token_type_ids int64 [n, tokens]. What is there already is
left as it is.
"""

from __future__ import annotations

import csv
import gzip
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "reference" / "data"
PACKAGE = ROOT / "target" / "packages" / "minilm"
TOKENS = 64
TRAINED_ON = 1_000
"""Of each set of texts: enough for a head, and the rest is there to judge it."""


def rows(name: str) -> list[dict[str, str]]:
    with gzip.open(DATA / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tweet_label(row: dict[str, str]) -> str:
    """What people said, on a scale from -4 to 4."""
    score = float(row["mean_sentiment"])
    return "positive" if score > 0.5 else "negative" if score < -0.5 else "neutral"


def embeddings(texts: list[str]) -> np.ndarray:
    """The mean of the states of each text's tokens, of length 1."""
    tokenizer = Tokenizer.from_file(str(PACKAGE / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(PACKAGE / "model.onnx"), options, providers=["CPUExecutionProvider"])
    made = np.zeros((len(texts), 384), np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    for part in np.array_split(order, max(1, len(texts) // 16)):
        encoded = tokenizer.encode_batch([texts[i] for i in part])
        ids, mask, types = (np.array([getattr(e, field) for e in encoded], np.int64) for field in ("ids", "attention_mask", "type_ids"))
        [states] = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        made[part] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return made


def train(features: np.ndarray, classes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of a logistic regression, by gradient descent with momentum."""
    wanted = np.eye(count)[classes]
    weights, biases = np.zeros((features.shape[1], count)), np.zeros(count)
    speed_w, speed_b = np.zeros_like(weights), np.zeros_like(biases)
    for _ in range(400):
        logits = features @ weights + biases
        odds = np.exp(logits - logits.max(1, keepdims=True))
        error = (odds / odds.sum(1, keepdims=True) - wanted) / len(features)
        speed_w = 0.9 * speed_w - 4 * (features.T @ error + 1e-4 * weights)
        speed_b = 0.9 * speed_b - 4 * error.sum(0)
        weights, biases = weights + speed_w, biases + speed_b
    return weights.astype(np.float32), biases.astype(np.float32)


def save(path: Path, labels: list[str], weights: np.ndarray, biases: np.ndarray) -> None:
    """The whole graph: tokens to label and probabilities."""
    model = onnx.load(PACKAGE / "model.onnx")
    graph = model.graph
    for name, array in (("head_last", np.array([2], np.int64)), ("head_tokens", np.array([1], np.int64)), ("head_weights", weights), ("head_biases", biases)):
        graph.initializer.append(numpy_helper.from_array(array, name))
    graph.initializer.append(helper.make_tensor("head_labels", TensorProto.STRING, [len(labels)], [label.encode() for label in labels]))

    def node(operator: str, inputs: list[str], output: str, **attributes: object) -> None:
        graph.node.append(helper.make_node(operator, inputs, [output], **attributes))

    node("Cast", ["attention_mask"], "head_mask", to=TensorProto.FLOAT)
    node("Unsqueeze", ["head_mask", "head_last"], "head_mask_3")
    node("Mul", ["last_hidden_state", "head_mask_3"], "head_states")
    node("ReduceSum", ["head_states", "head_tokens"], "head_sum", keepdims=0)
    node("ReduceSum", ["head_mask", "head_tokens"], "head_count", keepdims=1)
    node("Div", ["head_sum", "head_count"], "head_mean")
    node("LpNormalization", ["head_mean"], "head_vector", axis=1, p=2)
    node("Gemm", ["head_vector", "head_weights", "head_biases"], "head_logits")
    node("Softmax", ["head_logits"], "probabilities", axis=1)
    node("ArgMax", ["head_logits"], "head_best", axis=1, keepdims=0)
    node("Gather", ["head_labels", "head_best"], "label")
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("label", TensorProto.STRING, ["batch"]))
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(labels)]))
    part = path.with_suffix(".part")
    part.write_bytes(model.SerializeToString(deterministic=True))
    part.rename(path)


def make(path: Path, texts: list[str], answers: list[str]) -> None:
    if path.exists():
        return
    labels = sorted(set(answers))
    classes = np.array([labels.index(answer) for answer in answers])
    # Every so many rows, so that the rest is like them.
    chosen = np.linspace(0, len(texts) - 1, TRAINED_ON).astype(int)
    features = embeddings([texts[i] for i in chosen])
    weights, biases = train(features, classes[chosen], len(labels))
    right = (np.argmax(features @ weights + biases, axis=1) == classes[chosen]).mean()
    save(path, labels, weights, biases)
    print(f"{path.name}: right for {right:.0%} of the {TRAINED_ON} texts that it was trained on", flush=True)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "target" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    tweets, reviews = rows("tweets"), rows("reviews")
    make(folder / "tweet_sentiment.onnx", [row["text"] for row in tweets], [tweet_label(row) for row in tweets])
    make(folder / "review_sentiment.onnx", [row["review"] for row in reviews], [row["score"] for row in reviews])


if __name__ == "__main__":
    main()
