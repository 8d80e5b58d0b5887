"""What goes into SQL and what comes out: values as parameters, JSON as values; and the rules of what SQL cannot hold."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from onnx import TensorProto, TypeProto

from cases import Value

TYPES = {
    "float32": "real", "float64": "float8", "float16": "real", "bfloat16": "real",
    "int8": "smallint", "int16": "smallint", "int32": "integer", "int64": "bigint",
    "uint8": "smallint", "uint16": "integer", "uint32": "bigint", "uint64": "numeric", "bool": "boolean",
}  # fmt: skip
"""The SQL type that holds every value of an element type; texts are apart."""

HELD = {
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32,
    TensorProto.INT64, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64, TensorProto.BOOL, TensorProto.STRING,
}  # fmt: skip

AS_BYTES = 10_000
"""Tensors of more elements go as bytea."""
MOST_DIMENSIONS = 6
"""Of an array in PostgreSQL."""


def element_reason(kind: TypeProto, what: str) -> str | None:
    """Why SQL cannot hold a value of this declared type, by its elements."""
    match kind.WhichOneof("value"):
        case "tensor_type":
            element = kind.tensor_type.elem_type
            return None if element in HELD else f"{what} has elements of type {TensorProto.DataType.Name(element).lower()}"
        case "sequence_type":
            return element_reason(kind.sequence_type.elem_type, what)
        case "optional_type":
            return element_reason(kind.optional_type.elem_type, what)
        case "map_type":
            return element_reason(kind.map_type.value_type, what)
        case other:
            return f"{what} is of type {other}"


def held(given: dict[str, Value], expected: list[Value], inputs: dict[str, TypeProto], outputs: list[TypeProto]) -> str | None:
    """The rule by which SQL cannot hold a case; none where it can."""
    for kind in inputs.values():
        if reason := element_reason(kind, "an input"):
            return reason
    for kind in outputs:
        if reason := element_reason(kind, "an output"):
            return reason
    for name, value in given.items():
        kind = inputs[name]
        inner = kind.optional_type.elem_type if kind.WhichOneof("value") == "optional_type" else kind
        if inner.WhichOneof("value") != "tensor_type":
            return f"an input is a {inner.WhichOneof('value').removesuffix('_type')}: SQL has no values that are lists of tensors"
        if value is None:
            return "an optional input is absent: NULL stands for a row without prediction"
        if np.asarray(value).dtype.kind in "OUST" and any("\0" in str(text) for text in np.asarray(value).flat):
            return "a text holds a NUL character"
    return None


def number(value: Any) -> str:
    """A number or truth as SQL reads it."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    # NaN and infinities are as Python writes them.
    return repr(float(value))


def literal(value: np.ndarray) -> str:
    """An array as PostgreSQL reads it; one without elements has no dimensions."""
    if value.size == 0:
        return "{}"
    if value.ndim > 1:
        return "{" + ",".join(literal(part) for part in value) + "}"
    if value.dtype.kind in "OUST":
        return "{" + ",".join('"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"' for text in value) + "}"
    return "{" + ",".join(map(number, value)) + "}"


def parameter(value: np.ndarray) -> tuple[str, Any]:
    """A tensor as an argument: the expression with its place, and the parameter."""
    value = np.asarray(value)
    if value.dtype.kind in "OUST":
        return ("%s::text", str(value)) if value.ndim == 0 else ("%s::text[]", literal(value))
    name = TYPES[value.dtype.name]
    if value.ndim == 0:
        return f"%s::{name}", number(value[()])
    if value.size > AS_BYTES:
        return "%s::bytea", np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<")).tobytes()
    return f"%s::{name}[]", literal(value if value.ndim <= MOST_DIMENSIONS else value.reshape(-1))


def differs(got: Any, expected: Value) -> str | None:
    """How JSON differs from the expected value; none where it does not."""
    if expected is None:
        return None if got is None else f"{shown(got)} instead of null"
    if isinstance(expected, list):
        if not isinstance(got, list) or len(got) != len(expected):
            return f"{shown(got)} instead of a sequence of {len(expected)}"
        return next((d for g, e in zip(got, expected, strict=True) if (d := differs(g, e))), None)
    expected = np.asarray(expected)
    if shape(got) != nested_shape(expected.shape):
        return f"shape {shape(got)} instead of {nested_shape(expected.shape)}"
    return flat_differs(list(flat(got)), expected)


def flat_differs(got: list[Any], expected: np.ndarray) -> str | None:
    """How the values of JSON, in order, differ from those of a tensor."""
    wanted = expected.reshape(-1)
    if len(got) != wanted.size:
        return f"{len(got)} values instead of {wanted.size}"
    if wanted.dtype.kind in "OUST":
        same = got == [str(text) for text in wanted]
    elif wanted.dtype.kind in "biu":
        # Truths are not numbers in JSON.
        kind = bool if wanted.dtype.kind == "b" else int
        same = all(type(g) is kind and g == e for g, e in zip(got, wanted.tolist(), strict=True))
    else:
        narrow = wanted.dtype.itemsize < 4
        bound = {"rtol": 1e-2, "atol": 1e-2} if narrow else {"rtol": 1e-3, "atol": 1e-5}
        numbers = np.array([float(g) for g in got], dtype=np.float64)
        same = bool(np.allclose(numbers, wanted.astype(np.float64), equal_nan=True, **bound))
    return None if same else f"{shown(got)} instead of {shown(wanted.tolist())}"


def shape(value: Any) -> list[int]:
    """The shape of nested arrays, as far as JSON tells it."""
    dims = []
    while isinstance(value, list):
        dims.append(len(value))
        if not value:
            break
        value = value[0]
    return dims


def nested_shape(dims: tuple[int, ...]) -> list[int]:
    """What JSON can tell of a shape: nothing lies behind an empty dimension."""
    told = []
    for n in dims:
        told.append(n)
        if n == 0:
            break
    return told


def flat(value: Any) -> Any:
    if isinstance(value, list):
        for item in value:
            yield from flat(item)
    else:
        yield value


def shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) < 120 else text[:117] + ".."
