"""Writes a model as an ONNX file, and runs it back to see that the file says what the trained model says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

MODELS = Path(__file__).resolve().parent.parent
FIXTURES = MODELS.parent / "tests" / "reference" / "models"


def save(model: onnx.ModelProto, path: Path, graph_name: str) -> None:
    """Writes `model`, its graph under a fixed name and its operator sets sorted: the converters leave both to chance."""
    model.graph.name = graph_name
    operator_sets = sorted(model.opset_import, key=lambda operators: operators.domain)
    del model.opset_import[:]
    model.opset_import.extend(operator_sets)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def run(path: Path, inputs: dict[str, np.ndarray]) -> list:
    """All outputs of the file at `path`, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def report(path: Path, quality: str, difference: float, tolerance: float, of: str = "largest difference") -> None:
    """Prints a line for the model's card; ends the program if the file's answers are not those of the trained model."""
    print(f"{path.name}: {path.stat().st_size} bytes, {quality} on held-out rows, {of} to the trained model {difference:.2g}")
    if not difference <= tolerance:
        raise SystemExit(f"{path.name}: {of} to the trained model is {difference}, more than {tolerance}")
