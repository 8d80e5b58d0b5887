"""ONNX's own test cases, as its package holds them: models with inputs and the outputs that they must give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import OptionalProto, SequenceProto, TensorProto, TypeProto, numpy_helper

# The large ones come first: what they leave behind does not hide what the many small ones do.
KINDS = ("light", "node", "simple", "pytorch-converted", "pytorch-operator")

Value = Any
"""A tensor is an ndarray, a sequence a list, an optional value that is absent None."""


@dataclass(frozen=True)
class Case:
    kind: str
    name: str
    model: Path
    sets: tuple[Path, ...]
    """Directories of data; none for a light case, whose one input is made up and whose one output is beside the model."""

    @property
    def title(self) -> str:
        return f"{self.kind}/{self.name}"

    def data(self, model: onnx.ModelProto) -> Iterator[tuple[dict[str, Value], list[Value]]]:
        """Inputs by name and outputs in order, for each set of data."""
        constants = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in constants]
        outputs = list(model.graph.output)
        if not self.sets:
            # onnx.backend.test.runner makes up the input of these: rising numbers below 1.
            [taken] = inputs
            shape = [d.dim_value or 1 for d in taken.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            given = (np.arange(count).reshape(shape) / count).astype(np.float32)
            expected = load(self.model.with_name(f"{self.model.stem}_output_0.pb"), outputs[0].type)
            yield {taken.name: given}, [expected]
            return
        for folder in self.sets:
            # A case may leave out the last of its inputs; those are not given.
            given = {v.name: load(folder / f"input_{i}.pb", v.type) for i, v in enumerate(inputs) if (folder / f"input_{i}.pb").exists()}
            yield given, [load(folder / f"output_{i}.pb", v.type) for i, v in enumerate(outputs)]


def load(path: Path, kind: TypeProto) -> Value:
    """One value of a set of data."""
    content = path.read_bytes()
    match kind.WhichOneof("value"):
        case "sequence_type":
            sequence = SequenceProto.FromString(content)
            return numpy_helper.to_list(sequence)
        case "optional_type":
            return numpy_helper.to_optional(OptionalProto.FromString(content))
        case _:
            return numpy_helper.to_array(TensorProto.FromString(content))


def find(root: Path, kinds: tuple[str, ...] = KINDS) -> list[Case]:
    """All cases, kind by kind in the order of their names."""
    cases = []
    for kind in kinds:
        if kind == "light":
            cases += [Case(kind, path.stem, path, ()) for path in sorted((root / kind).glob("*.onnx"))]
        else:
            for path in sorted((root / kind).glob("*/model.onnx")):
                sets = tuple(sorted(path.parent.glob("test_data_set_*")))
                cases.append(Case(kind, path.parent.name, path, sets))
    return cases


def close(got: Value, expected: Value) -> bool:
    """Whether a value is the expected one, within ONNX's own tolerance."""
    if isinstance(expected, list):
        return isinstance(got, list) and len(got) == len(expected) and all(map(close, got, expected))
    if expected is None or got is None:
        return got is expected
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        return False
    if expected.dtype.kind in "OUST":
        return bool((got.astype(object) == expected.astype(object)).all())
    if expected.dtype.kind in "biu":
        return bool((got == expected).all())
    # 16 bits hold two to four digits.
    narrow = expected.dtype.itemsize < 4
    bound = {"rtol": 1e-2, "atol": 1e-2} if narrow else {"rtol": 1e-3, "atol": 1e-5}
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        return bool(np.allclose(got.astype(wide), expected.astype(wide), equal_nan=True, **bound))
