"""ONNX's own test cases, as its package holds them: models with inputs and the outputs that they must give."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
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


PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = ("models", "benches/models", "tests/reference/models", "target/models")
"""Where models of this project are; some are made when it is built."""


def find_files() -> list[Case]:
    """The models of this project, and those of the folder that MODELS names, as cases without data."""
    folders = [PROJECT / folder for folder in FOLDERS] + [Path(folder) for folder in (os.environ.get("MODELS"),) if folder]
    files = [path for folder in folders for path in sorted(folder.glob("*.onnx"))]
    return [Case("model", os.path.relpath(path.with_suffix(""), PROJECT), path, ()) for path in files]


MAGNITUDES = (1.0, 1e-6, 1e3, -30.0, 1e6, 0.0, 1e-3)
NUMBERS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
WORDS = np.array(["a", "", "UA", "it was not what we had hoped for", "0", "\u00e9\u4e2d", "good"], dtype=object)


def relaxed_inputs(case: Case) -> tuple[onnx.ModelProto, list[str], list[np.ndarray]] | None:
    """A model of this project, the names of its inputs, and three rows for each; none if rows cannot be made up."""
    import onnxruntime

    model = onnx.load(case.model)
    names, rows = [], []
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for taken in session.get_inputs():
        shape = [3, *(d if isinstance(d, int) else 3 for d in taken.shape[1:])]
        count = int(np.prod(shape))
        if not taken.shape or isinstance(taken.shape[0], int):
            return None
        if taken.type == "tensor(string)":
            values = WORDS[np.arange(count) % len(WORDS)].reshape(shape)
        elif taken.type in NUMBERS:
            values = (np.arange(count).reshape(shape) % 2).astype(NUMBERS[taken.type])
        else:
            return None
        names.append(taken.name)
        rows.append(values)
    return model, names, rows


def unequal_rows(names: list[str], many: list[np.ndarray], accepts: Callable[[dict[str, np.ndarray]], Any]) -> list[dict[str, np.ndarray]]:
    """Seven rows of very different magnitudes; a row that the model does not accept is one of the given rows instead."""
    chance = np.random.default_rng(7)
    rows = []
    for i, magnitude in enumerate(MAGNITUDES):
        row = {}
        for name, values in zip(names, many, strict=True):
            own = np.asarray(values[i % len(values)], dtype=values.dtype)
            if values.dtype.kind == "f":
                own = np.asarray(magnitude * chance.uniform(-1, 1, own.shape)).astype(values.dtype)
            elif values.dtype.kind in "OUST":
                own = WORDS[(np.arange(own.size) + i) % len(WORDS)].reshape(own.shape)
            row[name] = np.asarray(own)
        try:
            accepts(row)
        except Exception:
            row = {name: values[i % len(values)] for name, values in zip(names, many, strict=True)}
        rows.append(row)
    return rows


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
