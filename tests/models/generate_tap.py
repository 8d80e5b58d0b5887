"""Makes the tap_*.onnx beside this file: small models that the server tests in tests/tap play with.

Each does one thing that is easy to check from SQL, is slow in a known way, or is malicious. None holds more than a few
kilobytes of weights: what must be big grows while it is loaded or run, or gets its weights appended by the test.

    python -m venv /tmp/v && /tmp/v/bin/pip install numpy==2.4.6 onnx==1.23.2
    /tmp/v/bin/python tests/models/generate_tap.py
"""

from __future__ import annotations

import pathlib

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).resolve().parent
OPSET = 17
ML_OPSET = 3
# Old enough that every ONNX Runtime since 1.15 reads it.
IR_VERSION = 8

# Sides of the pictures and kernels that make a run slow: a row of one_node is about half a billion multiplications.
PICTURE = 256
KERNEL = 128
SMALL_PICTURE = 64
SMALL_KERNEL = 33
CHAIN = 100
# The side of the square matrix of 205 MB that tests append to large_head.
LARGE = 7168
# Elements of one row of wide's output: 40 KB.
WIDE = 10_000


def row_of(name: str, element: int, width: int = 1) -> onnx.ValueInfoProto:
    """An input or output of `width` elements a row."""
    return helper.make_tensor_value_info(name, element, ["rows", width])


def constant(name: str, values: object, dtype: type) -> onnx.TensorProto:
    """An initializer."""
    return numpy_helper.from_array(numpy.array(values, dtype=dtype), name)


def filled(name: str, shape: list[int], value: float) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A constant tensor that is only made while the model is loaded."""
    node = helper.make_node(
        "ConstantOfShape", [f"{name}_shape"], [name], value=helper.make_tensor("value", TensorProto.FLOAT, [1], [value])
    )
    return [node], [constant(f"{name}_shape", shape, numpy.int64)]


def save(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto] | None = None,
    *,
    whole: bool = True,
) -> None:
    """Writes a model; `whole`: it has all its weights, so that the checker can pass it."""
    graph = helper.make_graph(nodes, name, inputs, outputs, constants or [])
    operator_sets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=operator_sets, ir_version=IR_VERSION, producer_name="pg_predict tests")
    if whole:
        onnx.checker.check_model(model)
    path = HERE / f"tap_{name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{path.name}: {path.stat().st_size} bytes")


def number(name: str) -> onnx.ValueInfoProto:
    """A float32 a row."""
    return row_of(name, TensorProto.FLOAT)


def times(name: str, factor: float) -> None:
    """y = factor * x"""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    save(name, nodes, [number("x")], [number("y")], [constant("factor", [factor], numpy.float32)])


def one_node() -> None:
    """y = x, after one node that takes some milliseconds a row: a mean over a large window of a picture painted with x."""
    kernel, kernel_shape = filled("kernel", [1, 1, KERNEL, KERNEL], 1 / KERNEL**2)
    nodes = [
        *kernel,
        helper.make_node("Reshape", ["x", "dot"], ["dots"]),
        helper.make_node("Expand", ["dots", "size"], ["picture"]),
        helper.make_node("Conv", ["picture", "kernel"], ["means"]),
        helper.make_node("GlobalMaxPool", ["means"], ["largest"]),
        helper.make_node("Reshape", ["largest", "row"], ["y"]),
    ]
    constants = [
        *kernel_shape,
        constant("dot", [-1, 1, 1, 1], numpy.int64),
        constant("size", [1, 1, PICTURE, PICTURE], numpy.int64),
        constant("row", [-1, 1], numpy.int64),
    ]
    save("one_node", nodes, [number("x")], [number("y")], constants)


def many_nodes() -> None:
    """y = x, after a hundred nodes that each copy a picture painted with x the long way."""
    copy = numpy.zeros((1, 1, SMALL_KERNEL, SMALL_KERNEL), dtype=numpy.float32)
    copy[0, 0, SMALL_KERNEL // 2, SMALL_KERNEL // 2] = 1
    nodes = [
        helper.make_node("Reshape", ["x", "dot"], ["dots"]),
        helper.make_node("Expand", ["dots", "size"], ["picture0"]),
    ]
    nodes += [
        helper.make_node("Conv", [f"picture{i}", "copy"], [f"picture{i + 1}"], pads=[SMALL_KERNEL // 2] * 4)
        for i in range(CHAIN)
    ]
    nodes += [
        helper.make_node("GlobalAveragePool", [f"picture{CHAIN}"], ["mean"]),
        helper.make_node("Reshape", ["mean", "row"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(copy, "copy"),
        constant("dot", [-1, 1, 1, 1], numpy.int64),
        constant("size", [1, 1, SMALL_PICTURE, SMALL_PICTURE], numpy.int64),
        constant("row", [-1, 1], numpy.int64),
    ]
    save("many_nodes", nodes, [number("x")], [number("y")], constants)


def large_head() -> None:
    """y = x + the sum of a row of zeros: a model whose weights, 205 MB of zeros named "weights", are still to come."""
    spread, spread_shape = filled("spread", [1, LARGE], 1.0)
    nodes = [
        *spread,
        helper.make_node("MatMul", ["x", "spread"], ["wide"]),
        helper.make_node("MatMul", ["wide", "weights"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], axes=[1]),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    save("large_head", nodes, [number("x")], [number("y")], spread_shape, whole=False)


def loop(name: str, trips: int) -> None:
    """y = x + 0, added in a loop of so many trips."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going_on"], ["go_on"]),
            helper.make_node("Add", ["sum", "zero"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            number("sum"),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), number("sum_out")],
    )
    nodes = [helper.make_node("Loop", ["trips", "true", "x"], ["y"], body=body)]
    constants = [
        constant("trips", trips, numpy.int64),
        constant("true", True, numpy.bool_),
        constant("zero", [0.0], numpy.float32),
    ]
    save(name, nodes, [number("x")], [number("y")], constants)


def eats(name: str, shape: list[int], *, at_load: bool) -> None:
    """y = x plus a zero taken from a tensor that is as large as `shape`, made when the model is loaded or when it is run."""
    nodes: list[onnx.NodeProto] = []
    constants = [constant("big_shape", shape, numpy.int64)]
    if at_load:
        nodes.append(helper.make_node("ConstantOfShape", ["big_shape"], ["big"]))
        nodes.append(helper.make_node("Cos", ["big"], ["used"]))
    else:
        nodes.append(helper.make_node("ReduceMin", ["x"], ["one"], keepdims=0))
        nodes.append(helper.make_node("Expand", ["one", "big_shape"], ["big"]))
        nodes.append(helper.make_node("Sin", ["big"], ["used"]))
    nodes.append(helper.make_node("ReduceMax", ["used"], ["most"], keepdims=0))
    nodes.append(helper.make_node("Add", ["x", "most"], ["y"]))
    save(name, nodes, [number("x")], [number("y")], constants)


def crash() -> None:
    """Divides the least integer by -1, which no processor can: SIGFPE."""
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["none"]),
        helper.make_node("Add", ["none", "minus_one"], ["by"]),
        helper.make_node("Div", ["least", "by"], ["y"]),
    ]
    whole = row_of("x", TensorProto.INT64), row_of("y", TensorProto.INT64)
    constants = [
        constant("zero", [0], numpy.int64),
        constant("minus_one", [-1], numpy.int64),
        constant("least", [-(2**63)], numpy.int64),
    ]
    save("crash", nodes, [whole[0]], [whole[1]], constants)


def quotient() -> None:
    """y = a / b, in whole numbers: an honest model, which a row can bring to divide the least integer by -1."""
    whole = [row_of(name, TensorProto.INT64) for name in ("a", "b", "y")]
    save("quotient", [helper.make_node("Div", ["a", "b"], ["y"])], whole[:2], whole[2:])


def words() -> None:
    """Translates a word, and scores it as a map whose keys are words: non-ASCII texts in, out and as keys."""
    keys = ["Größe", "Übermaß", "café", "plain"]
    values = ["taille élevée", "démesure", "Kaffeehaus", "einfach"]
    word = row_of("word", TensorProto.STRING)
    scores = helper.make_tensor_value_info("scores", TensorProto.UNDEFINED, None)
    scores.type.CopyFrom(
        helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        )
    )
    ml = {"domain": "ai.onnx.ml"}
    nodes = [
        helper.make_node(
            "LabelEncoder", ["word"], ["translation"], keys_strings=keys, values_strings=values, default_string="ÿ unbekannt", **ml
        ),
        helper.make_node(
            "LabelEncoder", ["word"], ["place"], keys_strings=keys, values_floats=[0.25, 0.5, 0.75, 1.0], default_float=0.0, **ml
        ),
        helper.make_node("Sub", ["one", "place"], ["rest"]),
        helper.make_node("Concat", ["place", "rest"], ["both"], axis=1),
        helper.make_node("ZipMap", ["both"], ["scores"], classlabels_strings=["très bon", "schön ärgerlich"], **ml),
    ]
    save("words", nodes, [word], [row_of("translation", TensorProto.STRING), scores], [constant("one", [[1.0]], numpy.float32)])


def texts() -> None:
    """Gives a text back: most of a run's time is the copy of the texts."""
    save("texts", [helper.make_node("Identity", ["s"], ["y"])], [row_of("s", TensorProto.STRING)], [row_of("y", TensorProto.STRING)], [])


def wide() -> None:
    """A row of many times x: results that outgrow what one value can hold."""
    nodes = [helper.make_node("Expand", ["x", "size"], ["y"])]
    save("wide", nodes, [number("x")], [row_of("y", TensorProto.FLOAT, WIDE)], [constant("size", [1, WIDE], numpy.int64)])


def main() -> None:
    times("double", 2.0)
    times("triple", 3.0)
    one_node()
    many_nodes()
    large_head()
    loop("hang", 2**62)
    eats("eats_at_load", [64, 1024, 1024, 1024], at_load=True)
    eats("eats_at_run", [1024, 1024, 1024], at_load=False)
    crash()
    quotient()
    words()
    texts()
    wide()


if __name__ == "__main__":
    main()
