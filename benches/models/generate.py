"""Makes the three models that the benchmark runs: linear.onnx, mlp.onnx and lgbm.onnx, beside this file.

All three are trained on the same synthetic data: Friedman's first regression problem (ten features in [0, 1), of which
five matter), drawn with a fixed seed and fitted on one thread, so that a second run on the same kind of machine makes
the same files. The generator checks what it wrote against the library that trained it before it replaces a file.

    python -m venv /tmp/v && /tmp/v/bin/pip install -r benches/models/requirements.txt
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 /tmp/v/bin/python benches/models/generate.py
"""

import pathlib
import sys

import lightgbm
import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import make_friedman1
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor

HERE = pathlib.Path(__file__).resolve().parent
FEATURES = 10
ROWS = 50_000
SEED = 20260101
HIDDEN = (64, 64)
TREES = 200
LEAVES = 31
OPSET = 17
# The newest that the LightGBM converter writes.
TREE_OPSET = 15
# Old enough that every ONNX Runtime since 1.15 reads it.
IR_VERSION = 8
# float32 against the trainer's float64, relative to answers of about 0 to 30.
TOLERANCE = 1e-4


def dense(layers):
    """An ONNX graph of Gemm layers with Relu between them: x float [N, 10] -> y float [N, 1]."""
    nodes, weights, at = [], [], "x"
    for number, (matrix, bias) in enumerate(layers):
        last = number == len(layers) - 1
        weights.append(numpy_helper.from_array(matrix.astype(numpy.float32), f"w{number}"))
        weights.append(numpy_helper.from_array(bias.astype(numpy.float32), f"b{number}"))
        into = "y" if last else f"h{number}"
        nodes.append(helper.make_node("Gemm", [at, f"w{number}", f"b{number}"], [into]))
        if not last:
            nodes.append(helper.make_node("Relu", [into], [f"r{number}"]))
            at = f"r{number}"
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="pg_predict benches")
    model.ir_version = IR_VERSION
    return model


def subnormals(layers):
    """How many weights are subnormal in float32: those would make a timing depend on the mode of the processor."""
    tiny = numpy.finfo(numpy.float32).tiny
    arrays = [array.astype(numpy.float32) for layer in layers for array in layer]
    return sum(int(((array != 0) & (numpy.abs(array) < tiny)).sum()) for array in arrays)


def save(name, model, output, x, expected):
    """Checks the model against the trainer's own answers and writes it."""
    onnx.checker.check_model(model)
    data = model.SerializeToString(deterministic=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    answers = session.run([output], {"x": x})[0]
    if answers.shape != (len(x), 1):
        sys.exit(f"{name}: output {output} has the shape {answers.shape}, not {(len(x), 1)}")
    error = numpy.max(numpy.abs(answers[:, 0] - expected) / numpy.maximum(numpy.abs(expected), 1.0))
    if error > TOLERANCE:
        sys.exit(f"{name}: differs from the trainer by {error:.2e}")
    (HERE / f"{name}.onnx").write_bytes(data)
    print(f"{name}.onnx: {len(data)} bytes, largest relative difference from the trainer {error:.1e}")


def main():
    x, y = make_friedman1(n_samples=ROWS, n_features=FEATURES, noise=1.0, random_state=SEED)
    x = x.astype(numpy.float32)
    fit, test = slice(0, ROWS - 5_000), slice(ROWS - 5_000, ROWS)

    linear = LinearRegression().fit(x[fit].astype(numpy.float64), y[fit])
    layers = [(linear.coef_.reshape(FEATURES, 1), numpy.array([linear.intercept_]))]
    print(f"linear: R2 {linear.score(x[test], y[test]):.3f}")
    save("linear", dense(layers), "y", x[test], linear.predict(x[test].astype(numpy.float64)))

    # No weight decay: it drives the weights of idle units into the subnormal range, where a processor is slow.
    mlp = MLPRegressor(hidden_layer_sizes=HIDDEN, alpha=0.0, max_iter=30, tol=0.0, n_iter_no_change=30, random_state=SEED)
    mlp.fit(x[fit].astype(numpy.float64), y[fit])
    layers = list(zip(mlp.coefs_, mlp.intercepts_))
    if subnormals(layers):
        sys.exit(f"mlp: {subnormals(layers)} subnormal weights")
    print(f"mlp: R2 {mlp.score(x[test], y[test]):.3f}, weights {[matrix.shape for matrix, _ in layers]}")
    save("mlp", dense(layers), "y", x[test], mlp.predict(x[test].astype(numpy.float64)))

    trees = lightgbm.LGBMRegressor(
        n_estimators=TREES, num_leaves=LEAVES, learning_rate=0.05, random_state=SEED, n_jobs=1,
        deterministic=True, force_row_wise=True, verbose=-1,
    )
    trees.fit(x[fit], y[fit])
    leaves = [tree["num_leaves"] for tree in trees.booster_.dump_model()["tree_info"]]
    if leaves != [LEAVES] * TREES:
        sys.exit(f"lgbm: wanted {TREES} trees of {LEAVES} leaves, trained {len(leaves)} of {sorted(set(leaves))}")
    print(f"lgbm: R2 {trees.score(x[test], y[test]):.3f}, {len(leaves)} trees of {LEAVES} leaves")
    # The converter names the graph at random where it is not told a name.
    model = convert_lightgbm(
        trees, name="bench", initial_types=[("x", FloatTensorType([None, FEATURES]))],
        target_opset=TREE_OPSET, zipmap=False,
    )
    model.ir_version = IR_VERSION
    save("lgbm", model, "variable", x[test], trees.predict(x[test]))


if __name__ == "__main__":
    main()
