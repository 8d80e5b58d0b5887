"""The models of the reference check: where each lies, what it reads, what it gives, and which committed answers it has.

A case is data only. oracle.py computes what each must answer, check.py asks the server through every form.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "models"
GENERATED = HERE.parent.parent / "target" / "models"

LATE = ["month", "day", "sched_dep_time", "sched_arr_time", "distance", "hour", "carrier", "origin", "dest"]
CREDIT = [
    "funded_amnt", "int_rate", "annual_inc", "delinq_2yrs", "inq_last_6mths", "revol_util", "acc_now_delinq", "open_il_6m",
    "open_il_12m", "open_il_24m", "total_bal_il", "all_util", "inq_fi", "inq_last_12m", "delinq_amnt", "num_il_tl",
    "total_il_high_credit_limit", "term", "sub_grade", "addr_state", "verification_status", "emp_length",
]  # fmt: skip
MATRIX = [f"f{n}" for n in range(1, 27)]
DIAMONDS = ["carat", "cut_code", "color_code", "clarity_code", "depth", "table_width", "x", "y", "z"]


@dataclass(frozen=True)
class Case:
    """One model and the table that it scores; the rows of the table have the keys 1..N in the column `id`."""

    name: str
    """The model's name in SQL, and the name of its table of expected answers."""
    file: Path
    table: str
    columns: list[str]
    """The features, in the order of the model's inputs or of its one wide input."""
    values: str
    """The output with the probabilities, scores or prices."""
    shape: str
    """Of `values`: `column` ([N] or [N,1]), `tensor` ([N,K]) or `map` (a map for each row)."""
    width: int
    keys: tuple[str, ...] = ()
    """The keys of a map, in the order of the columns of the expected answers."""
    label: str | None = None
    label_type: str = "bigint"
    wide: bool = False
    """One input takes all the features: the option `features` names them, and an array can carry them."""
    relative: bool = False
    """Compare `values` with a tolerance relative to the value, for prices."""
    every: int = 1
    """The forms that are slow by nature (a run for each row) take one row in this many."""
    carried: dict[str, str] = field(default_factory=dict)
    """Columns (name: type) to carry along with the key and find again beside it."""
    answers: str | None = None
    """The committed answers of Python's binding (answers/NAME.npz), for the first rows of the table, or the last."""
    answers_at_end: bool = False

    @property
    def options(self) -> dict[str, list[str]]:
        return {"features": self.columns} if self.wide else {}


def fixture(name: str) -> Path:
    return HERE / "models" / f"{name}.onnx"


PROBABILITIES: dict[str, Any] = {"values": "probabilities", "shape": "tensor", "width": 2, "label": "label"}

CASES = [
    Case(
        "late", MODELS / "late.onnx", "flights", LATE, **PROBABILITIES, every=100, answers="flights_late_lgbm_1000",
        carried={"tailnum": "text", "dep_time": "smallint", "time_hour": "timestamptz"},
    ),
    Case(
        "credit", MODELS / "credit.onnx", "loans", CREDIT, **PROBABILITIES, every=10, answers="credit_lr_mixed_500",
        carried={"class": "text"},
    ),
    Case(
        "credit_zipmap", MODELS / "credit_zipmap.onnx", "loans", CREDIT, "output_probability", "map", 2, ("0", "1"),
        "output_label", every=10, answers="credit_lr_mixed_zipmap_500", carried={"class": "text"},
    ),
    Case("credit_lgbm", fixture("credit_lgbm"), "credit_matrix", MATRIX, **PROBABILITIES, wide=True, every=4),
    Case(
        "credit_lgbm_zipmap", fixture("credit_lgbm_zipmap"), "credit_matrix", MATRIX, "probabilities", "map", 2, ("0", "1"),
        "label", wide=True, every=4,
    ),
    Case("credit_mlp", fixture("credit_mlp"), "credit_matrix", MATRIX, **PROBABILITIES, wide=True, every=4),
    Case("credit_isoforest", fixture("credit_isoforest"), "credit_matrix", MATRIX, "scores", "column", 1, label="label", wide=True, every=40),
    Case(
        "diamonds", MODELS / "diamonds.onnx", "diamonds", DIAMONDS, "variable", "column", 1, wide=True, relative=True, every=50,
        carried={"cut": "text", "price": "integer", "depth": "numeric"},
    ),
    Case("diamonds_mlp", fixture("diamonds_mlp"), "diamonds", DIAMONDS, "variable", "column", 1, wide=True, relative=True, every=50),
    Case("recs", GENERATED / "recs_v1.onnx", "ratings", ["user_id", "item_id"], "score", "column", 1, every=50, carried={"rated_at": "timestamptz"}),
    Case(
        "reviews", fixture("review_tfidf_strlabel_zipmap"), "reviews", ["review"], "output_probability", "map", 2,
        ("great", "other"), "output_label", "text", every=10, answers="review_tfidf_strlabel_zipmap_200", answers_at_end=True,
        carried={"product": "text"},
    ),
    Case(
        "tweets", fixture("tweet_tfidf_lr_nolower"), "tweets", ["text"], "probabilities", "tensor", 3,
        label="label", label_type="text", every=10, answers="tweet_tfidf_lr_nolower_200", carried={"mean_sentiment": "double precision"},
    ),
]  # fmt: skip


def main() -> None:
    """Prints name, options and file of the models that only this check creates, for score.sh."""
    for case in CASES:
        if case.file.is_relative_to(HERE):
            print(case.name, json.dumps(case.options, separators=(",", ":")), case.file, sep="\t")


if __name__ == "__main__":
    main()
