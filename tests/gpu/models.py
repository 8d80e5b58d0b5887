"""Makes the models that only the check of a GPU needs: `resnet50`, `long_kernel` and `many_weights`.

  models.py FOLDER

resnet50 has the layers and the sizes of ResNet-50 (He et al. 2015, version 1.5) and seeded random weights: it takes as long as
a trained one. Its batch normalisation is folded into the convolutions, as exporters do, and it takes pixels as they are
stored. They are made where they run, because their weights are larger than all else that travels there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 20151210
LENGTH = 1 << 18
"""Elements per row of `long_kernel`."""
WIDTH = 4096
"""`many_weights` has two square matrices of this width: 134 MB."""


class Graph:
    """Nodes and weights as they come; each node has one output, whose name it returns."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def save(self, path: Path, takes: onnx.ValueInfoProto, gives: onnx.ValueInfoProto) -> None:
        graph = helper.make_graph(self.nodes, path.stem, [takes], [gives], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="pg_predict tests")
        onnx.checker.check_model(model)
        onnx.save(model, path)


def resnet50(path: Path) -> None:
    random = np.random.default_rng(SEED)
    g = Graph()

    def convolve(x: str, before: int, after: int, kernel: int, stride: int, scale: float = 1.0) -> str:
        spread = scale * np.sqrt(2.0 / (before * kernel * kernel))
        kernels = (random.standard_normal((after, before, kernel, kernel)) * spread).astype(np.float32)
        bias = (random.standard_normal(after) * 0.01).astype(np.float32)
        edge = kernel // 2
        return g.add(
            "Conv", x, g.weight(kernels), g.weight(bias), kernel_shape=[kernel, kernel], strides=[stride, stride], pads=[edge] * 4
        )

    x = g.add("Cast", "pixels", to=TensorProto.FLOAT)
    x = g.add("Sub", x, g.weight(np.array([123.675, 116.28, 103.53], np.float32).reshape(3, 1, 1)))
    x = g.add("Mul", x, g.weight((1 / np.array([58.395, 57.12, 57.375], np.float32)).reshape(3, 1, 1)))
    x = g.add("Relu", convolve(x, 3, 64, 7, 2))
    x = g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    before = 64
    for blocks, middle, first_stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            y = g.add("Relu", convolve(x, before, middle, 1, 1))
            y = g.add("Relu", convolve(y, middle, middle, 3, stride))
            # A small last convolution keeps the sum with the shortcut from growing with the depth.
            y = convolve(y, middle, 4 * middle, 1, 1, scale=0.3)
            if block == 0:
                x = convolve(x, before, 4 * middle, 1, stride, scale=0.7)
            x = g.add("Relu", g.add("Add", x, y))
            before = 4 * middle
    x = g.add("Flatten", g.add("GlobalAveragePool", x))
    last = (random.standard_normal((1000, before)) / np.sqrt(before)).astype(np.float32)
    g.add("Gemm", x, g.weight(last), g.weight(np.zeros(1000, np.float32)), transB=1, output="scores")
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 3, 224, 224])
    g.save(path, pixels, helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 1000]))


def long_kernel(path: Path) -> None:
    """One node whose kernel takes long: sums up to each element of a long row. The answer is LENGTH times the number."""
    g = Graph()
    rows = g.add("Expand", "x", g.weight(np.array([1, LENGTH], np.int64)))
    sums = g.add("CumSum", rows, g.weight(np.array(1, np.int64)))
    g.add("ReduceMax", sums, axes=[1], keepdims=1, output="y")
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])
    g.save(path, takes, helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1]))


def many_weights(path: Path) -> None:
    random = np.random.default_rng(SEED)
    g = Graph()
    x = g.add("MatMul", "x", g.weight(random.standard_normal((8, WIDTH)).astype(np.float32)))
    for _ in range(2):
        x = g.add("Tanh", g.add("MatMul", x, g.weight((random.standard_normal((WIDTH, WIDTH)) / WIDTH).astype(np.float32))))
    g.add("ReduceMean", x, axes=[1], keepdims=1, output="y")
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])
    g.save(path, takes, helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1]))


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for make in (resnet50, long_kernel, many_weights):
        path = folder / f"{make.__name__}.onnx"
        if not path.exists():
            make(path)


if __name__ == "__main__":
    main()
