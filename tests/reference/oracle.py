"""Computes, with the Python binding of ONNX Runtime, what every model of the reference check must answer for every row.

  oracle.py DIR            writes DIR/expected_<model>.csv (id, label, v1..vK) and the tables that only this check reads
                           (credit_matrix.csv, reviews.csv, tweets.csv)
  oracle.py DIR --renew    first writes answers/*.npz anew, which is right only after models were trained anew

Before it writes, it compares its own inputs and outputs with the committed answers, and stops if they differ.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from cases import CASES, GENERATED, HERE, MATRIX, MODELS, Case

TOLERANCE = 1e-5

# What SQL calls the columns that the CSV files of models/data call otherwise.
GRADES = {"cut_code": "cut", "color_code": "color", "clarity_code": "clarity"}


def credit_matrix() -> pd.DataFrame:
    """The 26 features of the wide credit models: nine numbers, then a 0/1 column for each value of the five names; a missing
    number becomes the median of its column, a missing name has 0 in all its columns."""
    columns = pd.get_dummies(pd.read_csv(MODELS / "data" / "credit.csv.gz").drop(columns="Status"))
    columns = columns.fillna(columns.median()).astype(np.float32)
    columns.columns = MATRIX
    return columns


def diamonds() -> pd.DataFrame:
    """The diamonds under the names that SQL uses; a grade's code is its place, from 0, in the sorted list of names."""
    table = pd.read_csv(MODELS / "data" / "diamonds.csv.gz").rename(columns={"table": "table_width"})
    for code, grade in GRADES.items():
        table[code] = pd.Categorical(table[grade], sorted(table[grade].unique())).codes
    return table


def reviews() -> pd.DataFrame:
    return pd.read_csv(HERE / "data" / "reviews.csv.gz", keep_default_na=False)


def tweets() -> pd.DataFrame:
    """The tweets, lower-cased: their model does not fold case."""
    table = pd.read_csv(HERE / "data" / "tweets.csv.gz", keep_default_na=False)
    table["text"] = table.text.str.lower()
    return table.drop(columns="id")


def read(table: str) -> pd.DataFrame:
    """The rows of `table` in the order of their keys."""
    made = {"credit_matrix": credit_matrix, "diamonds": diamonds, "reviews": reviews, "tweets": tweets}
    if table in made:
        return made[table]()
    if table == "ratings":
        return pd.read_csv(GENERATED / "ratings.csv")
    return pd.read_csv(MODELS / "data" / f"{table}.csv.gz", low_memory=False)


def inputs(case: Case, rows: pd.DataFrame, session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """The tensors of a run over all `rows`."""
    if case.wide:
        return {session.get_inputs()[0].name: rows[case.columns].to_numpy(np.float32)}
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(string)": object}
    made = {}
    for node, column in zip(session.get_inputs(), case.columns, strict=True):
        if node.name != column:
            raise SystemExit(f"{case.name}: the input is {node.name}, the case says {column}")
        values = rows[column].to_numpy().astype(kinds[node.type])
        made[node.name] = values.reshape([-1] + [1] * (len(node.shape) - 1))
    return made


def answers_of(outputs: dict[str, Any], case: Case) -> tuple[np.ndarray | None, np.ndarray]:
    """Labels (or None) and values [N, width] out of the outputs by name."""
    values = outputs[case.values]
    if case.shape == "map":
        table = np.array([[{str(k): v for k, v in row.items()}[key] for key in case.keys] for row in values], np.float32)
    else:
        table = np.asarray(values).reshape(-1, case.width)
    label = None if case.label is None else np.asarray(outputs[case.label]).reshape(-1)
    return label, table


def run(case: Case, session: onnxruntime.InferenceSession, fed: dict[str, np.ndarray]) -> dict[str, Any]:
    return dict(zip([node.name for node in session.get_outputs()], session.run(None, fed), strict=True))


def committed_rows(case: Case, count: int) -> slice:
    """Which rows of a table of `count` the committed answers are for; their number ends the file's name."""
    assert case.answers is not None
    number = int(case.answers.rsplit("_", 1)[1])
    return slice(count - number, count) if case.answers_at_end else slice(0, number)


def renew(case: Case, session: onnxruntime.InferenceSession, fed: dict[str, np.ndarray]) -> None:
    """Writes the committed answers of `case` anew."""
    rows = committed_rows(case, len(next(iter(fed.values()))))
    part = {name: values[rows] for name, values in fed.items()}
    arrays: dict[str, Any] = {f"in__{name}": values.astype(str) if values.dtype == object else values for name, values in part.items()}
    for name, values in run(case, session, part).items():
        if isinstance(values, list):
            values = np.array(json.dumps([{str(k): float(v) for k, v in row.items()} for row in values]))
        arrays[f"out__{name}"] = values.astype(str) if values.dtype == object else values
    np.savez_compressed(HERE / "answers" / f"{case.answers}.npz", **arrays)


def verify(case: Case, fed: dict[str, np.ndarray], label: np.ndarray | None, values: np.ndarray) -> None:
    """Stops unless the committed answers have these inputs and these outputs."""
    with np.load(HERE / "answers" / f"{case.answers}.npz") as stored:
        rows = committed_rows(case, len(values))
        for name, value in fed.items():
            if not np.array_equal(stored[f"in__{name}"], value[rows].astype(stored[f"in__{name}"].dtype)):
                raise SystemExit(f"{case.name}: the input {name} is not that of answers/{case.answers}.npz")
        outputs = {name.removeprefix("out__"): stored[name] for name in stored.files if name.startswith("out__")}
    if case.shape == "map":
        outputs[case.values] = json.loads(outputs[case.values].item())
    want_label, want = answers_of(outputs, case)
    difference = np.abs(values[rows] - want).max()
    if not difference <= TOLERANCE or (label is not None and not np.array_equal(label[rows].astype(str), np.asarray(want_label).astype(str))):
        raise SystemExit(f"{case.name}: the answers are not those of answers/{case.answers}.npz (difference {difference})")
    print(f"{case.name}: {len(want)} committed answers agree, largest difference {difference:.2g}", flush=True)


def main() -> None:
    folder = Path(sys.argv[1])
    for table in ("credit_matrix", "reviews", "tweets"):
        rows = read(table)
        rows.insert(0, "id", range(1, len(rows) + 1))
        rows.to_csv(folder / f"{table}.csv", index=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # LightGBM's label is declared [1] and is [N]: a warning for each run
    for case in CASES:
        session = onnxruntime.InferenceSession(case.file.read_bytes(), options, providers=["CPUExecutionProvider"])
        rows = read(case.table)
        fed = inputs(case, rows, session)
        if case.answers and "--renew" in sys.argv[2:]:
            renew(case, session, fed)
        label, values = answers_of(run(case, session, fed), case)
        if case.answers:
            verify(case, fed, label, values)
        expected = pd.DataFrame(values.astype(np.float32), columns=[f"v{n}" for n in range(1, case.width + 1)])
        expected.insert(0, "label", "" if label is None else label)
        expected.insert(0, "id", range(1, len(expected) + 1))
        expected.to_csv(folder / f"expected_{case.name}.csv", index=False)
        print(f"{case.name}: {len(expected)} expected answers", flush=True)


if __name__ == "__main__":
    main()
