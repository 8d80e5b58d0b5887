"""Makes the model `text_line`: is a line of print upside down? A published classifier with its preparation inside the graph.

The classifier (scripts/packages.sh rapidocr) takes colour images as float32 between -1 and 1. What comes before it is put
into the graph, so that SQL hands over pixels as they are stored, and what it gives is named:

  text_line.onnx    pixels uint8 [n,48,192], gray -> upright float [n], turned float [n]

It goes to target/models (or to the folder named on the command line); what is there already is left as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "target" / "packages" / "rapidocr" / "cls.onnx"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "target" / "models"
    path = folder / "text_line.onnx"
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = onnx.load(PACKAGE)
    graph = model.graph
    [image], [answer] = list(graph.input), list(graph.output)
    del graph.input[:], graph.output[:]
    constants = {"prepare_half": np.array(127.5, np.float32), "first": np.array([0], np.int64), "second": np.array([1], np.int64)}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    before = [
        helper.make_node("Cast", ["pixels"], ["prepare_float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["prepare_float", "prepare_half"], ["prepare_centred"]),
        helper.make_node("Div", ["prepare_centred", "prepare_half"], ["prepare_scaled"]),
        helper.make_node("Unsqueeze", ["prepare_scaled"], ["prepare_gray"], axes=[1]),
        helper.make_node("Concat", ["prepare_gray"] * 3, [image.name], axis=1),
    ]
    after = [helper.make_node("Gather", [answer.name, place], [f"{name}_column"], axis=1) for place, name in (("first", "upright"), ("second", "turned"))]
    after += [helper.make_node("Squeeze", [f"{name}_column"], [name], axes=[1]) for name in ("upright", "turned")]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 48, 192]))
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("upright", "turned"))
    onnx.checker.check_model(model)
    part = path.with_suffix(".part")
    part.write_bytes(model.SerializeToString(deterministic=True))
    part.rename(path)


if __name__ == "__main__":
    main()
