"""Small models whose rows influence each other in a batch, and close relatives whose rows do not.

  dependence.py [PATTERN]     run.sh calls it, with a server reachable through libpq's environment variables

The first must run row by row, and creation must say so; the others must be batched. In both, each of seven very unequal rows must get in
every batch what it gets alone. Several of the first show no influence for ordinary values: only their operators tell.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
CHANCE = np.random.default_rng(5)


def info(name: str, shape: list[Any], element: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, element, shape)


def model(
    nodes: list[NodeProto], shape: list[Any], out: list[Any], constants: dict[str, Any] | None = None, opset: int = 18, element: int = FLOAT,
    functions: list[Any] | None = None, domains: tuple[str, ...] = (), made: int = FLOAT,
) -> ModelProto:  # fmt: skip
    """A model of x to y; the first dimension is the batch."""
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", [info("x", ["N", *shape], element)], [info("y", ["N", *out], made)], weights)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=9)


def gated(nodes: list[NodeProto], constants: dict[str, Any]) -> ModelProto:
    """A model that adds 1 where `most`, computed from the whole batch, is above a limit that trial rows do not reach."""
    nodes = [*nodes, node("Greater", ["most", "limit"], ["above"]), node("Cast", ["above"], ["one"], to=FLOAT), node("Add", ["x", "one"], ["y"])]
    return model(nodes, [3], [3], {"limit": np.float32(1e9), **constants})


def weights(*shape: int) -> np.ndarray:
    return CHANCE.normal(size=shape).astype(np.float32)


def body(nodes: list[NodeProto], inputs: list[Any], outputs: list[Any], constants: dict[str, Any] | None = None) -> Any:
    return helper.make_graph(nodes, "body", inputs, outputs, [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()])


def mixing() -> Iterator[tuple[str, ModelProto]]:
    axis = {"axis": np.array([0], np.int64)}
    yield "running sum", model([node("CumSum", ["x", "axis"], ["y"])], [3], [3], {"axis": np.int64(0)})
    yield "running sum, negative axis", model([node("CumSum", ["x", "axis"], ["y"])], [3], [3], {"axis": np.int64(-2)})
    yield "softmax of the batch", model([node("Softmax", ["x"], ["y"], axis=0)], [3], [3])
    yield "softmax of a transposed batch", model([node("Transpose", ["x"], ["t"]), node("Softmax", ["t"], ["s"]), node("Transpose", ["s"], ["y"])], [3], [3])
    yield "softmax before opset 13", model([node("Softmax", ["x"], ["y"], axis=0)], [3], [3], opset=11)
    yield "softmax of one row of all", model([node("Reshape", ["x", "one"], ["r"]), node("Softmax", ["r"], ["s"]), node("Reshape", ["s", "back"], ["y"])], [3], [3], {"one": np.array([1, -1]), "back": np.array([-1, 3])})
    yield "mean of the batch", model([node("ReduceMean", ["x", "axis"], ["m"]), node("Sub", ["x", "m"], ["y"])], [3], [3], axis)
    yield "mean of everything", model([node("ReduceMean", ["x"], ["m"]), node("Sub", ["x", "m"], ["y"])], [3], [3])
    yield "limit on the largest", gated([node("ReduceMax", ["x"], ["most"], keepdims=0)], {})
    yield "limit on the largest of each column", gated([node("ReduceMax", ["x", "axis"], ["most"])], axis)
    yield "limit on the first row", gated([node("Gather", ["x", "zero"], ["most"], axis=0)], {"zero": np.int64(0)})
    yield "limit on the sum by a product", gated([node("Transpose", ["x"], ["t"]), node("MatMul", ["t", "x"], ["p"]), node("ReduceMax", ["p"], ["most"], keepdims=0)], {})
    yield "place of the largest", gated([node("ArgMax", ["x"], ["a"], axis=0), node("Cast", ["a"], ["most"], to=FLOAT)], {})
    yield "largest by sorting", gated([node("TopK", ["x", "k"], ["most", "places"], axis=0)], {"k": np.array([1], np.int64)})
    yield "sorted", model([node("Shape", ["x"], ["s"], start=0, end=1), node("TopK", ["x", "s"], ["y", "places"], axis=0)], [3], [3])
    yield "distinct values", gated([node("Unique", ["x"], ["u"]), node("ReduceMax", ["u"], ["most"], keepdims=0)], {})
    yield "values that are not zero", gated([node("NonZero", ["x"], ["z"]), node("Shape", ["z"], ["n"], start=1), node("Cast", ["n"], ["most"], to=FLOAT)], {})
    quantised = [node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]), node("DequantizeLinear", ["q", "scale", "zero"], ["y"])]
    yield "dynamically quantised", model(quantised, [3], [3])
    w, r = weights(1, 6, 3), weights(1, 6, 2)
    steps = [node("Unsqueeze", ["x", "one"], ["u"]), node("GRU", ["u", "w", "r"], ["s"], hidden_size=2), node("Squeeze", ["s", "middle"], ["y"])]
    yield "recurrence over rows", model(steps, [3], [2], {"one": np.array([1]), "middle": np.array([1, 2]), "w": w, "r": r})
    yield "mean and variance", model([node("MeanVarianceNormalization", ["x"], ["y"], axes=[0])], [3], [3])
    yield "norm of the batch", model([node("LpNormalization", ["x"], ["y"], axis=0)], [3], [3])
    yield "layer norm from the first axis", model([node("Transpose", ["x"], ["t"]), node("LayerNormalization", ["t", "one"], ["l"]), node("Transpose", ["l"], ["y"])], [3], [3], {"one": np.float32(1)})
    yield "rows in reverse", model([node("Slice", ["x", "from", "to", "axes", "step"], ["y"])], [3], [3], {"from": np.array([-1]), "to": np.array([-(2**62)]), "axes": np.array([0]), "step": np.array([-1])})
    yield "the row before", model([node("Slice", ["x", "a", "b"], ["h"]), node("Slice", ["x", "b", "c"], ["t"]), node("Concat", ["t", "h"], ["s"], axis=0), node("Add", ["x", "s"], ["y"])], [3], [3], {"a": np.array([0]), "b": np.array([1]), "c": np.array([2**62])})
    yield "each row with every other", model([node("Transpose", ["x"], ["t"]), node("MatMul", ["x", "t"], ["m"]), node("ReduceMax", ["m", "one"], ["y"])], [3], [1], {"one": np.array([1])})
    yield "its number in the batch", model([node("Shape", ["x"], ["s"], start=0, end=1), node("Squeeze", ["s"], ["n"]), node("Range", ["zero", "n", "one"], ["r"]), node("Cast", ["r"], ["f"], to=FLOAT), node("Unsqueeze", ["f", "at"], ["c"]), node("Add", ["x", "c"], ["y"])], [3], [3], {"zero": np.int64(0), "one": np.int64(1), "at": np.array([1])})
    large, small = body([node("Constant", [], ["a"], value_float=1.0)], [], [info("a", [])]), body([node("Constant", [], ["b"], value_float=0.0)], [], [info("b", [])])
    yield "condition on the largest", model([node("ReduceMax", ["x"], ["most"], keepdims=0), node("Greater", ["most", "limit"], ["c"]), node("If", ["c"], ["o"], then_branch=large, else_branch=small), node("Add", ["x", "o"], ["y"])], [3], [3], {"limit": np.float32(1e9)})
    inside = body([node("ReduceMax", ["x"], ["most"], keepdims=0), node("Max", ["most", "limit"], ["a"])], [], [info("a", [])])
    yield "largest inside a branch", model([node("If", ["yes"], ["o"], then_branch=inside, else_branch=small), node("Add", ["x", "o"], ["y"])], [3], [3], {"limit": np.float32(1e9), "yes": np.array(True)})
    turn = body([node("Identity", ["go"], ["on"]), node("Add", ["state", "state"], ["next"])], [info("i", [], INT64), info("go", [], BOOL), info("state", [])], [info("on", [], BOOL), info("next", [])])
    yield "as often as the largest says", model([node("ReduceMax", ["x"], ["m"], keepdims=0), node("Clip", ["m", "zero", "ten"], ["n"]), node("Cast", ["n"], ["t"], to=INT64), node("Loop", ["t", "", "zero"], ["o"], body=turn), node("Add", ["x", "o"], ["y"])], [3], [3], {"zero": np.float32(0), "ten": np.float32(10)})
    add = body([node("Add", ["state", "row"], ["next"]), node("Identity", ["next"], ["out"])], [info("state", [3]), info("row", [3])], [info("next", [3]), info("out", [3])])
    yield "scan of rows with a state", model([node("Scan", ["start", "x"], ["end", "y"], body=add, num_scan_inputs=1)], [3], [3], {"start": np.zeros(3, np.float32)})
    function = helper.make_function("own", "Most", ["a"], ["b"], [node("ReduceMax", ["a"], ["m"], keepdims=0), node("Max", ["m", "a"], ["x"]), node("Min", ["x", "a"], ["b"])], [helper.make_opsetid("", 18)])
    yield "largest inside a function", model([node("Most", ["x"], ["y"], domain="own")], [3], [3], functions=[function], domains=("own",))


def independent() -> Iterator[tuple[str, ModelProto]]:
    one = {"one": np.array([1])}
    yield "softmax of a row", model([node("Softmax", ["x"], ["y"])], [3], [3])
    yield "softmax of a row before opset 13", model([node("Softmax", ["x"], ["y"])], [3], [3], opset=11)
    yield "running sum of a row", model([node("CumSum", ["x", "axis"], ["y"])], [3], [3], {"axis": np.int64(1)})
    yield "mean of a row", model([node("ReduceMean", ["x", "one"], ["m"]), node("Sub", ["x", "m"], ["y"])], [3], [3], one)
    yield "largest of a row", model([node("TopK", ["x", "k"], ["y", "places"])], [3], [2], {"k": np.array([2])})
    yield "place of the largest of a row", model([node("ArgMax", ["x"], ["y"], axis=-1)], [3], [1], made=INT64)
    yield "layer norm", model([node("LayerNormalization", ["x", "s", "b"], ["y"])], [3], [3], {"s": weights(3), "b": weights(3)})
    yield "trained statistics", model([node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])], [3], [3], {k: np.ones(3, np.float32) for k in "sbmv"}, opset=15)
    yield "shape of the input", model([node("Shape", ["x"], ["s"]), node("Expand", ["two", "s"], ["e"]), node("Mul", ["x", "e"], ["y"])], [3], [3], {"two": np.float32(2)})
    yield "flattened image", model([node("Conv", ["x", "w"], ["c"]), node("GlobalAveragePool", ["c"], ["p"]), node("Flatten", ["p"], ["y"])], [2, 5, 5], [4], {"w": weights(4, 2, 3, 3)})
    w, r = weights(1, 6, 3), weights(1, 6, 2)
    steps = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("GRU", ["t", "w", "r"], ["s", "last"], hidden_size=2), node("Squeeze", ["last", "zero"], ["y"])]
    yield "recurrence over steps", model(steps, [4, 3], [2], {"zero": np.array([0]), "w": w, "r": r})
    attention = [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["m"]), node("Softmax", ["m"], ["a"]), node("MatMul", ["a", "x"], ["y"])]
    yield "attention inside a row", model(attention, [4, 3], [4, 3])
    yield "heads in one dimension with rows", model([node("Reshape", ["x", "all"], ["r"]), node("Softmax", ["r"], ["s"]), node("Reshape", ["s", "back"], ["y"])], [4, 3], [4, 3], {"all": np.array([-1, 3]), "back": np.array([-1, 4, 3])})
    yield "embedding of ids", model([node("Gather", ["table", "x"], ["e"]), node("ReduceMean", ["e", "one"], ["y"], keepdims=0)], [4], [3], {"table": weights(10, 3), **one}, element=INT64)
    yield "mask that is constant", model([node("NonZero", ["mask"], ["z"]), node("Squeeze", ["z", "zero"], ["i"]), node("Gather", ["x", "i"], ["y"], axis=1)], [3], [2], {"mask": np.array([1, 0, 1]), "zero": np.array([0])})
    double = body([node("Mul", ["row", "row"], ["out"])], [info("row", [3])], [info("out", [3])])
    yield "scan that maps rows", model([node("Scan", ["x"], ["y"], body=double, num_scan_inputs=1)], [3], [3])
    near = body([node("Identity", ["state"], ["next"]), node("Sub", ["state", "row"], ["d"]), node("ReduceSumSquare", ["d"], ["out"], axes=[1], keepdims=0)], [info("state", [5, 3]), info("row", [3])], [info("next", [5, 3]), info("out", [5])])
    distances = [node("Scan", ["known", "x"], ["same", "d"], body=near, num_scan_inputs=1), node("TopK", ["d", "k"], ["y", "places"], largest=0)]
    yield "nearest neighbours", model(distances, [3], [2], {"known": weights(5, 3), "k": np.array([2])}, opset=17)
    function = helper.make_function("own", "Soft", ["a"], ["b"], [node("Softmax", ["a"], ["b"])], [helper.make_opsetid("", 18)])
    yield "softmax inside a function", model([node("Soft", ["x"], ["y"], domain="own")], [3], [3], functions=[function], domains=("own",))
    yield "squeezed", model([node("MatMul", ["x", "w"], ["m"]), node("Squeeze", ["m", "one"], ["y"])], [3], [], {"w": weights(3, 1), **one})
    yield "padded by reflection", model([node("Pad", ["x", "pads"], ["y"], mode="reflect")], [4], [8], {"pads": np.array([0, 2, 0, 2])})


ORDERS = ([0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [3, 3, 0, 5, 1, 6, 2])
MAGNITUDES = (1.0, 1e-6, 1e3, -30.0, 2e9, 0.0, 1e-3)


def numbers(value: Any) -> list[float]:
    if isinstance(value, list):
        return [n for item in value for n in numbers(item)]
    return [float(value)]


def check(connection: psycopg.Connection[Any], name: str, proto: ModelProto, mixes: bool) -> str | None:
    """What is wrong with a model; none where nothing is."""
    said: list[str] = []
    handler = lambda d: said.append(f"{d.message_primary} {d.message_detail}")  # noqa: E731
    connection.execute("SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'm') m")
    connection.add_notice_handler(handler)
    try:
        connection.execute("SELECT predict.create_model('m', %s)", (proto.SerializeToString(),))
    except psycopg.Error as e:
        return f"is not created: {e.diag.message_primary} {e.diag.message_detail}"
    finally:
        connection.remove_notice_handler(handler)
    together = connection.execute("SELECT batch_size > 1 FROM predict.models WHERE name = 'm'").fetchone()[0]
    if mixes and (together or not said):
        return "is batched" if together else "creation says nothing"
    if not mixes and not together:
        return f"runs row by row: {said}"
    x = proto.graph.input[0].type.tensor_type
    shape = [d.dim_value for d in x.shape.dim[1:]]
    if x.elem_type == INT64:
        rows = [np.random.default_rng(i).integers(0, 10, shape) for i in range(7)]
        kind = "bigint[]"
    else:
        rows = [(m * np.random.default_rng(i).uniform(-1, 1, shape)).astype(np.float32) for i, m in enumerate(MAGNITUDES)]
        kind = "real[]"

    def ask(order: list[int] | tuple[int, ...]) -> list[list[float]]:
        values = ", ".join(f"({k}, %s::{kind})" for k in range(len(order)))
        given = [json.dumps(rows[i].tolist()).replace("[", "{").replace("]", "}") for i in order]
        query = f"SELECT predict_batch('m', a ORDER BY k)::jsonb FROM (VALUES {values}) r(k, a)"
        return [numbers(list(row.values())) for row in connection.execute(query, given).fetchone()[0]]

    try:
        alone = [ask([i])[0] for i in range(7)]
        for order in ORDERS:
            for got, i in zip(ask(order), order, strict=True):
                largest = float(np.abs(rows[i]).max(initial=1))
                if len(got) != len(alone[i]) or not np.allclose(got, alone[i], rtol=1e-3, atol=1e-5 + 1e-6 * largest, equal_nan=True):
                    return f"row {i} of {order} gets {got[:4]}, and alone {alone[i][:4]}"
    except psycopg.Error as e:
        return f"fails: {e.diag.message_primary} {e.diag.message_detail}"
    return None


def main() -> None:
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    count = wrong = 0
    with psycopg.connect(autocommit=True) as connection:
        for mixes, models in ((True, mixing()), (False, independent())):
            for name, proto in models:
                if not re.search(pattern, name):
                    continue
                count += 1
                if reason := check(connection, name, proto, mixes):
                    wrong += 1
                    print(f"not ok - {name}: {reason}")
        connection.execute("SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'm') m")
    print(f"# dependence: {count} models, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
