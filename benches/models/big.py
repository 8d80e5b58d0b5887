"""Writes an MLP 10-5000-5000-1 with random weights, 100 MB in float32: what a large model costs to load and to hold.

    python benches/models/big.py FILE
"""

import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZES = (10, 5000, 5000, 1)
SEED = 20260101


def main(file):
    """Writes the model, which takes x float [N, 10] and gives y float [N, 1]."""
    random = numpy.random.default_rng(SEED)
    nodes, weights, at = [], [], "x"
    for number, (rows, columns) in enumerate(zip(SIZES, SIZES[1:])):
        # So that sums neither vanish nor grow from layer to layer.
        matrix = random.standard_normal((rows, columns), dtype=numpy.float32) * numpy.float32(rows**-0.5)
        weights.append(numpy_helper.from_array(matrix, f"w{number}"))
        weights.append(numpy_helper.from_array(numpy.zeros(columns, numpy.float32), f"b{number}"))
        last = number == len(SIZES) - 2
        into = "y" if last else f"h{number}"
        nodes.append(helper.make_node("Gemm", [at, f"w{number}", f"b{number}"], [into]))
        if not last:
            nodes.append(helper.make_node("Relu", [into], [f"r{number}"]))
            at = f"r{number}"
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", SIZES[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", SIZES[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="pg_predict benches")
    # Old enough that every ONNX Runtime since 1.15 reads it.
    model.ir_version = 8
    onnx.save(model, file)


if __name__ == "__main__":
    main(sys.argv[1])
