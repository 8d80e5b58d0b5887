"""The workloads as a client sees them: tables, columns, models, and how rows become what ONNX Runtime takes.

It owns the sessions and their options, which are those of the extension. It must not know where rows come from.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

# Read when the library is loaded: it must not send anything.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["ORT_TELEMETRY_DISABLED"] = "1"

import onnxruntime  # noqa: E402

# Rows in one run of a model: the fastest or within 3 % of it for all four models, and a power of two.
BATCH = 8192


@dataclass(frozen=True)
class Workload:
    """A model and the table it is run over."""

    name: str
    table: str
    # real columns, then text columns, in the order of the table.
    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    model: Path
    output: str
    # The column of the output that is the score.
    column: int

    @property
    def columns(self) -> tuple[str, ...]:
        return self.numbers + self.texts

    def select(self, part: str = "", key: bool = False) -> str:
        """The query of all inputs, with the key in front where the scores are written."""
        names = ("id", *self.columns) if key else self.columns
        return f"SELECT {', '.join(names)} FROM {self.table} {part}"

    def feeds(self, numbers: np.ndarray | list[np.ndarray], texts: list[np.ndarray]) -> dict[str, np.ndarray]:
        """What the session takes. `numbers` is a float32 matrix or its columns, `texts` are columns of str objects."""
        if not self.texts:
            return {"x": numbers if isinstance(numbers, np.ndarray) else np.column_stack(numbers)}
        columns = numbers.T if isinstance(numbers, np.ndarray) else numbers
        named = zip(self.columns, [*columns, *texts])
        return {name: column.reshape(-1, 1) for name, column in named}

    def infer(self, feeds: dict[str, np.ndarray], threads: int = 1) -> np.ndarray:
        """The scores of one batch, float32 [N]."""
        return session(self.model, threads).run([self.output], feeds)[0][:, self.column]


def workloads(models: Path, flights: Path) -> dict[str, Workload]:
    """All workloads by name."""
    features = tuple("abcdefghij")
    outputs = {"linear": "y", "mlp": "y", "lgbm": "variable"}
    found = {
        name: Workload(name, "bench_rows", features, (), models / f"{name}.onnx", output, 0) for name, output in outputs.items()
    }
    numbers = ("month", "day", "sched_dep_time", "sched_arr_time", "distance", "hour")
    found["flights"] = Workload(
        "flights", "bench_flights", numbers, ("carrier", "origin", "dest"), flights, "probabilities", 1
    )
    return found


def options(threads: int) -> onnxruntime.SessionOptions:
    """The session options of the extension: no spinning, which also was no slower here, and subnormals are zero."""
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.add_session_config_entry("session.set_denormal_as_zero", "1")
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return chosen


@cache
def session(model: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session that stays."""
    return onnxruntime.InferenceSession(str(model), options(threads), providers=["CPUExecutionProvider"])
