"""Compares the tables of crates/engine/src/onnx/schema.rs with the ONNX schema of the onnx package: every message and field, both ways."""

import pathlib
import re
import sys

from onnx import onnx_ml_pb2
from google.protobuf.descriptor import FieldDescriptor as F

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "crates/engine/src/onnx/schema.rs"


def ours():
    """{message: {field number: kind}} as the Rust tables have it."""
    text = SOURCE.read_text()
    names = dict(re.findall(r'Self::(\w+) => "([\w.]+)"', text))
    tables = {name: {} for name in names.values()}
    body = text[text.index("fn field("):]
    body = body[:body.index("_ => return None")]
    for left, right in re.findall(r"\(((?:Self::\w+(?: \| )?)+, [^)]*)\) => (Of\(Self::\w+\)|\w+),", body):
        messages, numbers = left.rsplit(", ", 1)
        kind = names[right[len("Of(Self::"):-1]] if right.startswith("Of") else right
        for message in re.findall(r"Self::(\w+)", messages):
            for part in numbers.split(" | "):
                first, _, last = part.partition("..=")
                for number in range(int(first), int(last or first) + 1):
                    tables[names[message]][number] = kind
    # The type of a sparse tensor has the fields of a tensor's.
    tables["TypeProto.SparseTensor"] = tables["TypeProto.Tensor"]
    return tables


def theirs():
    """The same as the package has it."""
    tables, wait = {}, [onnx_ml_pb2.ModelProto.DESCRIPTOR]
    scalars = {F.TYPE_FLOAT: "Float", F.TYPE_DOUBLE: "Double", F.TYPE_STRING: "Bytes", F.TYPE_BYTES: "Bytes"}
    while wait:
        message = wait.pop()
        name = message.full_name.removeprefix("onnx.")
        if name in tables:
            continue
        tables[name] = {}
        for field in message.fields:
            if field.message_type:
                wait.append(field.message_type)
                kind = field.message_type.full_name.removeprefix("onnx.")
            else:
                kind = scalars.get(field.type, "Integer")
                if field.is_repeated and kind != "Bytes":
                    kind += "s"
            tables[name][field.number] = kind
    return tables


def main():
    ours_, theirs_ = ours(), theirs()
    # The walk reads a sparse tensor's type by the table of a tensor's.
    theirs_["TypeProto"][8] = "TypeProto.Tensor"
    wrong = []
    for message in sorted(ours_.keys() | theirs_.keys()):
        a, b = ours_.get(message, {}), theirs_.get(message, {})
        wrong += [f"{message} field {n}: {a.get(n)} here, {b.get(n)} in onnx" for n in sorted(a.keys() | b.keys()) if a.get(n) != b.get(n)]
    for line in wrong:
        print(line)
    fields = sum(map(len, theirs_.values()))
    print(f"{len(theirs_)} messages with {fields} fields of the ONNX schema: {len(wrong)} differ")
    sys.exit(bool(wrong) or fields < 100)


main()
