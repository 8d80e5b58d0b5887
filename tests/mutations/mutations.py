"""Mutated models, and calls with mutated arguments, in model processes.

  mutations.py CASES MODELS CALLS [SEED]     run.sh calls it, with a server reachable through libpq's environment variables

The models are those of tests/models and ONNX's own cases of one operator, with a few changes to their structure: attributes,
operators, names, types, shapes, stored tensors, or bytes. A version that validation accepts gets calls with arguments of its
inputs' types whose shapes and values are odd. What must hold: the server never restarts, no connection is lost, no statement
takes longer than its timeout allows, every error is one that the manual lists, and rows in are rows out.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psycopg
from onnx import TensorProto, numpy_helper

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "models"

# The errors of a model or a call that is wrong. 57014: the statement's timeout.
EXPECTED = {
    "0A000", "22003", "22004", "22023", "22P02", "38000", "42611", "42702", "42704", "42804", "53200", "53400", "54000", "55000", "57014",
    # PostgreSQL's own, for a value that is none of its type, or no function for a name.
    "2202E", "22P03", "42883", "42P18",
}  # fmt: skip
TIMEOUT = 5.0
# What a statement may take beyond its timeout: the process is killed within 0.2 s, and the machine may be busy.
LATE = 3.0
# The most elements of an argument.
LARGEST = 2_000

INTEGERS = [0, 1, -1, 2, 3, 7, 63, 64, 65, 127, 128, 255, 4096, 65536, 2**31 - 1, -(2**31), 2**31, 2**40, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-30, 1e30, 3.4e38, float("nan"), float("inf"), float("-inf")]
# Values in SQL for an input, by its element type.
WHOLE = ["0", "1", "-1", "2", "3", "100", "127", "-128", "32767", "2147483647", "-2147483648", "9223372036854775807", "NULL"]
FRACTIONS = ["0", "1", "-1", "0.5", "-0", "1e-45", "3.4e38", "NaN", "Infinity", "-Infinity", "1e10", "NULL"]
TEXTS = ['""', '"a"', '"red green"', '"\u00e9\u4e2d\U0001f600"', '"' + "x" * 300 + '"', "NULL", '"0"', '"1e400"', '"\\\\"']
TYPES = {
    "float32": ("real", FRACTIONS), "float64": ("float8", FRACTIONS), "float16": ("real", FRACTIONS[:6]), "bfloat16": ("real", FRACTIONS[:6]),
    "int8": ("smallint", WHOLE[:8]), "int16": ("smallint", WHOLE[:9]), "int32": ("integer", WHOLE[:11]), "int64": ("bigint", WHOLE),
    "uint8": ("smallint", WHOLE[:7]), "uint16": ("integer", WHOLE[:10]), "uint32": ("bigint", WHOLE), "uint64": ("numeric", WHOLE),
    "bool": ("boolean", ["t", "f", "NULL"]), "string": ("text", TEXTS),
}  # fmt: skip


def seeds(cases: Path) -> list[onnx.ModelProto]:
    """Small models: ours, and ONNX's cases of one operator."""
    files = sorted(MODELS.glob("*.onnx")) + sorted(cases.glob("node/*/model.onnx"))
    # The models that hang, crash or eat memory on purpose are met by tests/tap/probe.pl, and would only take time here.
    named = [f for f in files if not f.stem.startswith("tap_") and f.stat().st_size < 20_000]
    models = []
    for file in named:
        try:
            models.append(onnx.load(str(file), load_external_data=False))
        except Exception:  # noqa: BLE001 - a model of the tests that is broken on purpose is none to begin with
            continue
    return models


class Mutator:
    """Changes models. The operators of all seeds, with their domain, serve as replacements for one another."""

    def __init__(self, rng: random.Random, models: list[onnx.ModelProto]) -> None:
        self.rng = rng
        self.models = models
        self.operators = sorted({(n.domain, n.op_type) for m in models for n in m.graph.node})

    def graphs(self, graph: onnx.GraphProto) -> list[onnx.GraphProto]:
        found = [graph]
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    found += self.graphs(attribute.g)
        return found

    def integer(self, old: int) -> int:
        return self.rng.choice([self.rng.choice(INTEGERS), old + self.rng.choice([-2, -1, 1, 2])]) if self.rng.random() < 0.8 else -old

    def bounded(self, old: int) -> int:
        return max(-(2**63), min(2**63 - 1, self.integer(old)))

    def attribute(self, node: onnx.NodeProto) -> None:
        if not node.attribute:
            return
        a = self.rng.choice(node.attribute)
        chance = self.rng.random()
        if chance < 0.1:
            node.attribute.remove(a)
        elif a.type == onnx.AttributeProto.INT:
            a.i = self.bounded(a.i)
        elif a.type == onnx.AttributeProto.FLOAT:
            a.f = self.rng.choice(FLOATS)
        elif a.type == onnx.AttributeProto.STRING:
            a.s = self.rng.choice([b"", a.s[::-1], a.s + b"x", b"\xff\xfe", b"SAME_UPPER", b"bidirectional", b"reverse", b"SOFTMAX", b"PROBIT", b"BRANCH_EQ"])
        elif a.type == onnx.AttributeProto.INTS:
            self.repeated(a.ints, self.bounded)
        elif a.type == onnx.AttributeProto.FLOATS:
            self.repeated(a.floats, lambda _: self.rng.choice(FLOATS))
        elif a.type == onnx.AttributeProto.STRINGS:
            self.repeated(a.strings, lambda _: self.rng.choice([b"", b"a", b"\xff", b"BRANCH_GT", b"LEAF", b"Tanh", b"Sigmoid"]))
        elif a.type == onnx.AttributeProto.TENSOR:
            self.stored(a.t)

    def repeated(self, values: Any, change: Any) -> None:
        chance = self.rng.random()
        if values and chance < 0.6:
            for _ in range(self.rng.choice([1, 1, 2, 5])):
                n = self.rng.randrange(len(values))
                values[n] = change(values[n])
        elif values and chance < 0.75:
            del values[self.rng.randrange(len(values)) :]
        elif values and chance < 0.9:
            values.extend([values[-1]] * self.rng.choice([1, 1, 3, 100]))
        else:
            del values[:]

    def stored(self, tensor: TensorProto) -> None:
        """A stored tensor with other values, another shape, another type, or bytes that do not fit its shape."""
        chance = self.rng.random()
        try:
            array = numpy_helper.to_array(tensor)
        except Exception:  # noqa: BLE001 - it was changed before, so that it cannot be read
            return
        if chance < 0.4 and array.size and array.dtype.kind in "fiu":
            flat = array.reshape(-1).copy()
            for _ in range(self.rng.choice([1, 1, 3])):
                with np.errstate(all="ignore"):
                    value = self.rng.choice(FLOATS) if array.dtype.kind == "f" else self.rng.choice(INTEGERS[:15])
                    flat[self.rng.randrange(flat.size)] = np.array([value]).astype(array.dtype)[0]
            tensor.CopyFrom(numpy_helper.from_array(flat.reshape(array.shape), tensor.name))
        elif chance < 0.6 and array.size:
            shape = self.rng.choice([(array.size,), (1, *array.shape), (array.size, 1), array.shape[::-1], (0,), ()])
            tensor.CopyFrom(numpy_helper.from_array(np.resize(array, shape), tensor.name))
        elif chance < 0.8:
            tensor.dims.append(self.rng.choice([0, 1, 2, 2**31, 2**62, -1])) if self.rng.random() < 0.5 else tensor.ClearField("dims")
        elif chance < 0.9:
            tensor.data_type = self.rng.randrange(0, 25)
        else:
            tensor.raw_data = tensor.raw_data[: self.rng.randrange(len(tensor.raw_data) + 1)]

    def value_info(self, value: onnx.ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            return
        chance = self.rng.random()
        if chance < 0.3:
            tensor.elem_type = self.rng.randrange(0, 25)
        elif chance < 0.7 and tensor.shape.dim:
            dim = self.rng.choice(tensor.shape.dim)
            if self.rng.random() < 0.4:
                dim.dim_param = self.rng.choice(["N", "M", ""])
            else:
                dim.dim_value = self.rng.choice([0, 1, 2, 3, 5, -1, 2**31, 2**62])
        elif chance < 0.85:
            tensor.shape.dim.add().dim_value = self.rng.choice([1, 2, 0])
        elif tensor.shape.dim:
            del tensor.shape.dim[self.rng.randrange(len(tensor.shape.dim))]

    def node(self, graph: onnx.GraphProto) -> None:
        if not graph.node:
            return
        node = self.rng.choice(graph.node)
        names = [v.name for v in graph.input] + [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output]
        chance = self.rng.random()
        if chance < 0.5:
            self.attribute(node)
        elif chance < 0.65:
            node.domain, node.op_type = self.rng.choice(self.operators)
        elif chance < 0.8 and node.input and names:
            node.input[self.rng.randrange(len(node.input))] = self.rng.choice([*names, ""])
        elif chance < 0.87 and node.input:
            del node.input[-1]
        elif chance < 0.92 and names:
            node.input.append(self.rng.choice(names))
        elif chance < 0.95:
            graph.node.remove(node)
        elif node.output:
            node.output.append("more") if self.rng.random() < 0.5 else node.output.remove(node.output[-1])

    def whole(self, model: onnx.ModelProto) -> None:
        if self.rng.random() < 0.5 and model.opset_import:
            self.rng.choice(model.opset_import).version = self.rng.choice([1, 6, 9, 11, 13, 17, 21, 26, 1000])
            return
        # A node of another model behind this one's.
        other = self.rng.choice(self.rng.choice(self.models).graph.node)
        added = model.graph.node.add()
        added.CopyFrom(other)
        names = [v.name for v in model.graph.input] + [o for n in model.graph.node for o in n.output]
        for n in range(len(added.input)):
            added.input[n] = self.rng.choice(names)
        for n in range(len(added.output)):
            added.output[n] = f"added{n}"
        if model.graph.output and added.output and self.rng.random() < 0.7:
            self.rng.choice(model.graph.output).name = added.output[0]

    def mutated(self) -> bytes:
        model = onnx.ModelProto()
        model.CopyFrom(self.rng.choice(self.models))
        for _ in range(self.rng.choice([0, 1, 1, 1, 1, 2, 2, 4])):
            graph = self.rng.choice(self.graphs(model.graph))
            chance = self.rng.random()
            if chance < 0.5:
                self.node(graph)
            elif chance < 0.7 and graph.initializer:
                self.stored(self.rng.choice(graph.initializer))
            elif chance < 0.9 and (graph.input or graph.output):
                self.value_info(self.rng.choice([*graph.input, *graph.output]))
            else:
                self.whole(model)
        content = bytearray(model.SerializeToString())
        if content and self.rng.random() < 0.1:
            for _ in range(self.rng.choice([1, 2, 8])):
                content[self.rng.randrange(len(content))] = self.rng.randrange(256)
        return bytes(content)


class Caller:
    """Creates versions and calls them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.codes: Counter[str] = Counter()
        self.calls = 0
        self.answered = 0
        self.longest = 0.0
        self.connection = psycopg.connect(autocommit=True)
        self.connection.execute("SET client_min_messages = error")
        self.connection.execute(f"SET statement_timeout = '{TIMEOUT}s'")
        self.connection.execute("SET pg_predict.validation_timeout = '2s'")
        self.connection.execute("SET pg_predict.validation_memory_limit = '2GB'")
        self.connection.execute("SET pg_predict.model_process_memory_limit = '3GB'")
        self.started = self.one("SELECT pg_postmaster_start_time()")

    def one(self, query: str) -> Any:
        row = self.connection.execute(query.encode()).fetchone()
        return row[0] if row else None

    def ask(self, what: str, query: str) -> list[tuple[Any, ...]] | None:
        """The rows of a statement, or none where it fails as it may. What must not be ends the run."""
        began = time.monotonic()
        try:
            rows = self.connection.execute(query.encode("utf-8")).fetchall()
            code = "fine"
        except psycopg.Error as error:
            rows, code = None, error.sqlstate or "lost"
            if self.connection.broken or code not in EXPECTED:
                fault(f"{what}: {code}: {error}", query)
        took = time.monotonic() - began
        self.longest = max(self.longest, took)
        if took > TIMEOUT + LATE:
            fault(f"{what}: a statement took {took:.1f} s", query)
        self.codes[f"{what} {code}"] += 1
        return rows

    def value(self, words: list[str], shape: list[int], is_odd: bool) -> str:
        """An array as PostgreSQL writes it: of this shape, or of an odd one."""
        chance = self.rng.random()
        if is_odd and chance < 0.1:
            return "{}"
        if is_odd and chance < 0.4:
            shape = [max(1, size + self.rng.choice([-1, 0, 1, 2])) for size in shape]
        elif is_odd and chance < 0.5:
            shape = self.rng.choice([[*shape, 1], [1, *shape], shape[1:] or [5000], shape[::-1]])
        plain = self.rng.random() < 0.5

        def level(sizes: list[int]) -> str:
            if not sizes:
                return words[1 % len(words)] if plain else self.rng.choice(words)
            return "{" + ",".join(level(sizes[1:]) for _ in range(sizes[0])) + "}"

        text = level(shape)
        return f"[-3:{shape[0] - 4}]={text}" if is_odd and chance > 0.95 and len(shape) == 1 else text

    def call(self, name: str, inputs: list[tuple[str, list[int | None] | None]], count: int) -> None:
        """`count` rows in one statement: as plain calls, or through the aggregate."""
        columns, shapes = [], []
        for element, shape in inputs:
            sql, words = TYPES[element]
            sizes = [size if size and size > 0 else self.rng.choice([1, 2, 3]) for size in shape or []]
            is_scalar = not sizes and self.rng.random() < 0.9
            columns.append((sql, words, is_scalar))
            shapes.append((sizes or [1]) if np.prod(sizes or [1]) <= LARGEST else [LARGEST])
        rows = []
        # A NULL or a wrong shape is an error of the whole statement, unless the version's options say otherwise.
        nulls, is_odd = self.rng.random() < 0.2, self.rng.random() < 0.4
        for _ in range(count):
            row = []
            for (_, words, is_scalar), shape in zip(columns, shapes, strict=True):
                words = words if nulls else [word for word in words if word != "NULL"]
                value = self.rng.choice(words).strip('"') if is_scalar else self.value(words, shape, is_odd)
                null = is_scalar and value == "NULL" or nulls and self.rng.random() < 0.03
                row.append("NULL" if null else "'" + value.replace("'", "''") + "'")
            rows.append(f"({','.join(row)})")
        names = [f"c{n}" for n in range(len(columns))]
        casts = ", ".join(f"{n}::{sql}{'' if is_scalar else '[]'}" for n, (sql, _, is_scalar) in zip(names, columns, strict=True))
        source = f"(VALUES {','.join(rows)}) v({', '.join(names)})"
        self.calls += count
        if self.rng.random() < 0.5:
            got = self.ask("call", f"SELECT count(*), count(predict_json('{name}', {casts})) FROM {source}")
        else:
            got = self.ask("call", f"SELECT jsonb_array_length((predict_batch('{name}', {casts}))::jsonb), 0 FROM {source}")
        if got is not None:
            self.answered += count
            if got[0][0] != count:
                fault(f"{count} rows in, {got[0][0]} out", name)

    def create(self, name: str, content: bytes) -> list[tuple[str, list[int | None] | None]] | None:
        """Creates a version, and returns its inputs if SQL's values can be their elements."""
        CONTENTS[name] = content
        options = '{"on_error": "null"}' if self.rng.random() < 0.5 else "{}"
        if self.ask("create", f"SELECT predict.create_model('{name}', '\\x{content.hex()}', '{options}')") is None:
            return None
        rows = self.ask("inputs", f"SELECT type, row_shape FROM predict.model_inputs WHERE model = '{name}' ORDER BY position") or []
        return [(element, shape) for element, shape in rows] if all(element in TYPES for element, _ in rows) else None


# The content of each version, to be kept if a fault is found.
CONTENTS: dict[str, bytes] = {}


def fault(what: str, query: str) -> None:
    """Ends the run. The statement and the models that it names are kept in target/mutations."""
    kept = HERE.parent.parent / "target" / "mutations"
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "fault.sql").write_text(query)
    for name in set(re.findall(r"'(m\d+)'", query)) & CONTENTS.keys():
        (kept / f"{name}.onnx").write_bytes(CONTENTS[name])
    print(f"not ok - {what}\n{query[:1000]}\nThe statement and its model are in {kept}.", flush=True)
    raise SystemExit(1)


def main() -> None:
    cases, models, calls = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else random.SystemRandom().randrange(1 << 32)
    print(f"# seed {seed}", flush=True)
    rng = random.Random(seed)
    mutator, caller = Mutator(rng, seeds(cases)), Caller(rng)
    began = time.monotonic()
    usable: list[tuple[str, list[tuple[str, list[int | None] | None]]]] = []
    made = 0
    for nth in range(models):
        name = f"m{nth}"
        inputs = caller.create(name, mutator.mutated())
        if inputs:
            made += 1
            usable.append((name, inputs))
        # Calls go to the new version, and now and then to an older one, so that the process holds several.
        while usable and caller.calls < calls * (nth + 1) // models:
            which = usable[-1] if rng.random() < 0.8 else rng.choice(usable)
            caller.call(*which, rng.choice([1, 1, 20, 100, 400]))
        if len(usable) > 40:
            gone = usable.pop(rng.randrange(len(usable) - 1))[0]
            caller.ask("drop", f"SELECT predict.drop_model('{gone}')::text")
        if nth % 500 == 499:
            print(f"# {nth + 1} models, {made} of them valid, {caller.calls} calls, {time.monotonic() - began:.0f} s", flush=True)
    if caller.one("SELECT pg_postmaster_start_time()") != caller.started:
        fault("the server restarted", "")
    ends = caller.one("SELECT sum(process_crashes + process_kills + process_cancels) FROM predict.stat_models")
    print(f"# {models} models, {made} of them valid; {caller.calls} calls, {caller.answered} answered; longest statement {caller.longest:.1f} s; {ends} processes ended")
    print("# " + ", ".join(f"{code} {n}" for code, n in caller.codes.most_common()))
    if made < models // 20 or caller.answered < caller.calls // 20:
        fault("hardly anything is valid: the mutations are not what they should be", "")
    print("ok - no restart, no lost connection, no late statement, no unknown error")


if __name__ == "__main__":
    main()
