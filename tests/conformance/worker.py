"""Runs cases one after the other, in raw ONNX Runtime and in SQL, and prints a line of JSON for each.

  worker.py whole|batched|unequal ROOT < TITLES     TITLES: kind/name, one a line; run.py starts it, and again where it crashes
"""

from __future__ import annotations

import copy
import json
import math
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psycopg

from cases import Case, Value, close, find, find_files, relaxed_inputs, unequal_rows
from sql import differs, flat, flat_differs, held, nested_shape, parameter, shape

onnxruntime.set_default_logger_severity(4)


def raw_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Server:
    """One backend for all cases; a new one where it died."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connect()

    def connect(self) -> None:
        # A server that crashed may let us in before it has noticed, and end us in the next statement.
        for attempt in range(120):
            try:
                self.connection = psycopg.connect(autocommit=True)
                self.connection.execute("SET client_min_messages = error")
                self.connection.execute("SET statement_timeout = '120s'")
                self.pid = self.connection.info.backend_pid
                self.drop()
                break
            except psycopg.OperationalError:
                if attempt == 119:
                    raise
                time.sleep(0.5)

    def memory(self) -> int:
        """Resident memory of the backend that is its own, in kB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1])

    def create(self, model: bytes, options: dict[str, Any]) -> None:
        self.connection.execute("SELECT predict.create_model(%s, %s, %s::jsonb)", (self.name, model, json.dumps(options)))

    def drop(self) -> None:
        """Drops what a case made, and what a worker before this one left."""
        self.connection.execute("SELECT predict.drop_model(name) FROM (SELECT DISTINCT name FROM predict.models WHERE name = %s) m", (self.name,))

    def ask(self, query: str, parameters: list[Any]) -> Any:
        row = self.connection.execute(query, parameters).fetchone()
        return None if row is None else row[0]


def said(error: psycopg.Error) -> str:
    """An error of the server on one line."""
    d = error.diag
    return " ".join(filter(None, (d.sqlstate, d.message_primary, d.message_detail))) or str(error).strip() or type(error).__name__


def arguments(given: list[Value]) -> tuple[str, list[Any]]:
    parts = [parameter(value) for value in given]
    return ", ".join(text for text, _ in parts), [value for _, value in parts]


def whole(case: Case, server: Server) -> dict[str, Any]:
    """A case as one run for a row."""
    model = onnx.load(case.model)
    inputs = {v.name: v.type for v in model.graph.input}
    outputs = [v.type for v in model.graph.output]
    try:
        sets = list(case.data(model))
        session = raw_session(model)
    except Exception as e:  # Whatever keeps ONNX Runtime from loading it, keeps it out of the count.
        return {"raw": "not loaded", "why": str(e)[:200]}
    known = [i.name for i in session.get_inputs()]
    for given, expected in sets:
        try:
            got = session.run(None, {name: value for name, value in given.items() if name in known})
        except Exception as e:
            return {"raw": "failed", "why": str(e)[:200]}
        if not (len(got) == len(expected) and all(map(close, got, expected))):
            return {"raw": "differs"}
    for given, expected in sets:
        if rule := held(given, expected, inputs, outputs):
            return {"raw": "passed", "rule": rule}
    names = [v.name for v in session.get_outputs()]
    del session
    try:
        server.create(case.model.read_bytes(), {"batch": "none"})
        for given, expected in sets:
            text, values = arguments([given[name] for name in known])
            answer = server.ask(f"SELECT predict_json('{server.name}', {text or 'ROW()'})", values)
            if answer is None:
                return {"raw": "passed", "sql": "no prediction"}
            for name, value in zip(names, expected, strict=True):
                if name not in answer:
                    return {"raw": "passed", "sql": f"output {name} is missing"}
                if difference := differs(answer[name], value):
                    return {"raw": "passed", "sql": f"output {name}: {difference}"}
    except psycopg.Error as e:
        return {"raw": "passed", "sql": said(e), "lost": server.connection.broken}
    return {"raw": "passed", "sql": "passed"}


def relaxed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with an open first dimension for all inputs and outputs."""
    model = copy.deepcopy(model)
    del model.graph.value_info[:]
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].ClearField("dim_value")
            dims[0].dim_param = "N"
    return model


def batchable(case: Case) -> tuple[onnx.ModelProto, list[str], list[np.ndarray], list[str], list[np.ndarray]] | None:
    """A relaxed model with all rows of a case three times and more, and the outputs of them; none where raw ONNX Runtime
    does not run it in batches."""
    model = onnx.load(case.model)
    if any(v.type.WhichOneof("value") != "tensor_type" for v in [*model.graph.input, *model.graph.output]):
        return None
    sets = list(case.data(model))
    if not sets:
        return None
    given, expected = sets[0]
    constants = {tensor.name for tensor in model.graph.initializer}
    if not given or any(v.name in constants for v in model.graph.input):
        return None
    values = [np.asarray(v) for v in [*given.values(), *expected]]
    if any(v.ndim == 0 or v.shape[0] == 0 for v in values) or len({v.shape[0] for v in values}) != 1:
        return None
    rows = values[0].shape[0]
    model = relaxed(model)
    try:
        session = raw_session(model)
        if [i.name for i in session.get_inputs()] != list(given):
            return None
        times = max(2, -(-3 // rows))
        many = {name: np.concatenate([v] * times, 0) for name, v in given.items()}
        answers = [np.concatenate([v] * times, 0) for v in expected]
        if not all(map(close, session.run(None, many), answers)):
            return None
        for row in range(rows):
            alone = session.run(None, {name: v[row : row + 1] for name, v in given.items()})
            if not all(close(a, e[row : row + 1]) for a, e in zip(alone, expected, strict=True)):
                return None
    except Exception:  # Not batchable, for whatever reason.
        return None
    inputs = {v.name: v.type for v in model.graph.input}
    if held(given, expected, inputs, [v.type for v in model.graph.output]):
        return None
    return model, list(many), list(many.values()), [v.name for v in session.get_outputs()], answers


def batched(case: Case, server: Server) -> dict[str, Any]:
    """The rows of a case through one aggregate."""
    try:
        found = batchable(case)
    except Exception as e:  # A case that ONNX itself cannot read.
        return {"batchable": False, "why": str(e)[:200]}
    if found is None:
        return {"batchable": False}
    model, names, many, outputs, answers = found
    rows = many[0].shape[0]
    parts, values = [], []
    for row in range(rows):
        text, row_values = arguments([v[row] for v in many])
        parts.append(f"({row}, {text})")
        values += row_values
    columns = ", ".join(f"a{i}" for i in range(len(names)))
    query = f"SELECT predict_batch('{server.name}', {columns} ORDER BY k)::jsonb FROM (VALUES {', '.join(parts)}) AS r(k, {columns})"
    try:
        server.create(model.SerializeToString(), {})
        for size in (0, 2):
            server.connection.execute(f"SET pg_predict.batch_size = {size}")
            answer = server.ask(query, values)
            if len(answer) != rows:
                return {"batchable": True, "sql": f"{len(answer)} rows instead of {rows}"}
            for name, expected in zip(outputs, answers, strict=True):
                for row in range(rows):
                    got, wanted = answer[row].get(name), np.asarray(expected[row])
                    # A single value is a value, whichever way it is wrapped; an array without elements has no shape.
                    if wanted.size > 1 and shape(got) != nested_shape(wanted.shape):
                        return {"batchable": True, "sql": f"row {row}, output {name}: shape {shape(got)} instead of {list(wanted.shape)}"}
                    if difference := flat_differs(list(flat(got)), wanted):
                        return {"batchable": True, "sql": f"batch_size {size}, row {row}, output {name}: {difference}"}
    except psycopg.Error as e:
        return {"batchable": True, "sql": said(e), "lost": server.connection.broken}
    return {"batchable": True, "sql": "passed"}


ORDERS = ([0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [3, 3, 0, 5, 1, 6, 2])
"""Batches of the seven rows."""


def apart(got: Any, wanted: Any, largest: float) -> bool:
    """Whether two JSON values differ by more than rounding. `largest`: the largest number that went in."""
    got, wanted = list(flat(got)), list(flat(wanted))
    if len(got) != len(wanted):
        return True
    finite = [abs(float(v)) for v in wanted if isinstance(v, (int, float)) and math.isfinite(v)]
    scale = max([1.0, *finite])

    def differ(a: Any, b: Any) -> bool:
        try:
            # NaN and infinities are texts in JSON.
            return not np.isclose(float(a), float(b), rtol=1e-3, atol=1e-5 * scale + 1e-6 * largest, equal_nan=True)
        except (TypeError, ValueError):
            return a != b

    return any(map(differ, got, wanted))


def listed(json_row: Any) -> list[Any]:
    """The outputs of a row; a map is the list of its keys and values."""
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return [item for key in sorted(value) for item in (key, plain(value[key]))]
        return [plain(item) for item in value] if isinstance(value, list) else value

    return [plain(json_row[name]) for name in sorted(json_row)]


def unequal(case: Case, server: Server) -> dict[str, Any]:
    """Seven very unequal rows: each must get in every batch what it gets alone."""
    try:
        found = batchable(case) if case.sets or case.kind == "light" else relaxed_inputs(case)
    except Exception as e:
        return {"batchable": False, "why": str(e)[:200]}
    if found is None:
        return {"batchable": False}
    model, names, many = found[:3]
    session = raw_session(model)

    def raw(rows: list[dict[str, np.ndarray]]) -> list[Any]:
        got = session.run(None, {name: np.stack([row[name] for row in rows]) for name in names})
        return [listed({str(i): [v[r].tolist() if hasattr(v[r], "tolist") else v[r] for v in got][i] for i in range(len(got))}) for r in range(len(rows))]

    rows = unequal_rows(names, many, lambda row: raw([row]))
    largest = [max([1.0, *(float(np.abs(v[np.isfinite(v)]).max(initial=0)) for v in row.values() if v.dtype.kind == "f")]) for row in rows]
    # What raw ONNX Runtime says: the truth.
    independent = True
    try:
        alone = [raw([row])[0] for row in rows]
        for order in ORDERS:
            together = raw([rows[i] for i in order])
            independent &= not any(apart(t, alone[i], largest[i]) for t, i in zip(together, order, strict=True))
    except Exception:
        independent = False
    columns = ", ".join(f"a{i}" for i in range(len(names)))

    def ask(some: list[int]) -> list[Any]:
        parts, values = [], []
        for k, i in enumerate(some):
            text, row_values = arguments([rows[i][name] for name in names])
            parts.append(f"({k}, {text})")
            values += row_values
        query = f"SELECT predict_batch('{server.name}', {columns} ORDER BY k)::jsonb FROM (VALUES {', '.join(parts)}) AS r(k, {columns})"
        return [listed(row) for row in server.ask(query, values)]

    outcome: dict[str, Any] = {"batchable": True, "independent": independent}
    try:
        server.create(model.SerializeToString(), {})
        outcome["reason"] = server.ask("SELECT coalesce(metadata->>'batch_dependent', metadata->>'unverified', metadata->>'no_batch') FROM predict.models WHERE name = %s", [server.name])
        own = [ask([i])[0] for i in range(len(rows))]
        for order in ORDERS:
            for place, (got, i) in enumerate(zip(ask(order), order, strict=True)):
                if apart(got, own[i], largest[i]):
                    return outcome | {"sql": f"row {i} at place {place} of {order}: {str(got)[:80]} instead of {str(own[i])[:80]}"}
    except psycopg.Error as e:
        return outcome | {"sql": said(e), "lost": server.connection.broken}
    return outcome | {"sql": "passed"}


def main() -> None:
    form, root = sys.argv[1:]
    run = {"whole": whole, "batched": batched, "unequal": unequal}[form]
    cases = {case.title: case for case in [*find(Path(root)), *find_files()]}
    server = Server(form)
    for line in sys.stdin:
        title = line.strip()
        started = time.monotonic()
        # A few small sessions stay, so that what grows is a leak; whole networks need room.
        size = "2GB" if cases[title].kind in ("light", "model") else "32MB"
        server.connection.execute(f"SET pg_predict.session_cache_size = '{size}'")
        outcome = run(cases[title], server)
        if server.connection.broken:
            server.connection.close()
            server.connect()
        server.drop()
        outcome |= {"case": title, "memory": server.memory(), "pid": server.pid, "seconds": time.monotonic() - started}
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
