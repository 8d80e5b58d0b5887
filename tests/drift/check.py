"""Compares what predict.drift() says with numpy and scipy, and its verdicts with what was done to the data.

  check.py     run.sh calls it, with a server reachable through libpq's environment variables that has flights, loans, diamonds
               and their models

One line of TAP for each comparison of a baseline and a query. Python reads the rows and the model's outputs with statements of
its own and computes from them, by the definitions of the manual: PSI over the baseline's deciles (numpy.quantile) or categories,
scipy's ks_2samp and chi2_contingency, rates of NULL and of unseen categories, and the verdict. Figures agree within 1e-6, of
the figure where it is above 1; where the baseline is a sample of order statistics, within 1e-4.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from scipy import special, stats

TOLERANCE = 1e-6
SAMPLED = 1e-4

FLIGHTS = ["month", "day", "sched_dep_time", "sched_arr_time", "distance", "hour", "carrier", "origin", "dest"]
LOANS = [
    "funded_amnt", "int_rate", "annual_inc", "delinq_2yrs", "inq_last_6mths", "revol_util", "acc_now_delinq", "open_il_6m", "open_il_12m",
    "open_il_24m", "total_bal_il", "all_util", "inq_fi", "inq_last_12m", "delinq_amnt", "num_il_tl", "total_il_high_credit_limit",
    "term", "sub_grade", "addr_state", "verification_status", "emp_length",
]  # fmt: skip
DIAMONDS = ["carat", "cut_code", "color_code", "clarity_code", "depth", "table_width", "x", "y", "z"]

# Name of the model -> its features and the outputs that predictions() gives, each with its type.
MODELS = {
    "late": (FLIGHTS, {"label": "bigint", "probabilities": "real[]"}),
    "credit": (LOANS, {"label": "bigint", "probabilities": "real[]"}),
    "credit_zipmap": (LOANS, {"output_label": "bigint", "output_probability": "jsonb"}),
    "diamonds": (DIAMONDS, {"variable": "real"}),
}


@dataclass(frozen=True)
class Comparison:
    """A baseline, a query, and the lines that must be flagged as drift: some of them, none, or (None) whatever is right."""

    title: str
    model: str
    baseline: str
    query: str
    drifted: set[str] | None
    unflagged: bool = False
    """Every line must be `ok`."""


# A half of a table, at random but the same each time.
ONE, OTHER = "hashint4extended(id, 7) % 2 = 0", "hashint4extended(id, 7) % 2 <> 0"
FEW = "hashint4extended(id, 8) % 40 = 0"
GAPS = ", ".join(
    {
        "int_rate": "CASE WHEN hashint4extended(id, 9) % 4 = 0 THEN NULL ELSE int_rate END AS int_rate",
        "revol_util": "CASE WHEN hashint4extended(id, 10) % 30 = 0 THEN 'NaN' ELSE revol_util END AS revol_util",
        "addr_state": "CASE WHEN hashint4extended(id, 11) % 5 = 0 THEN NULL WHEN id % 50 = 0 THEN 'XX' ELSE addr_state END AS addr_state",
    }.get(column, column)
    for column in LOANS
)
DEARER = ", ".join("int_rate * 1.5 AS int_rate" if column == "int_rate" else column for column in LOANS)

COMPARISONS = [
    Comparison("flights, January and January", "late", "SELECT * FROM flights WHERE month = 1", "SELECT * FROM flights WHERE month = 1", set(), True),
    Comparison("flights, January and July", "late", "SELECT * FROM flights WHERE month = 1", "SELECT * FROM flights WHERE month = 7", {"month", "probabilities[1]", "probabilities[2]"}),
    Comparison("flights, January and a half of it", "late", "SELECT * FROM flights WHERE month = 1", f"SELECT * FROM flights WHERE month = 1 AND {ONE}", set(), True),
    Comparison("flights, halves of January", "late", f"SELECT * FROM flights WHERE month = 1 AND {OTHER}", f"SELECT * FROM flights WHERE month = 1 AND {ONE}", set(), True),
    Comparison("flights, a part of a year that is a sample", "late", "SELECT * FROM flights", "SELECT * FROM flights WHERE origin <> 'LGA' AND month > 5", None),
    Comparison("loans, halves", "credit", f"SELECT * FROM loans WHERE {OTHER}", f"SELECT * FROM loans WHERE {ONE}", set(), True),
    Comparison("loans, few of the other half", "credit", f"SELECT * FROM loans WHERE {OTHER}", f"SELECT * FROM loans WHERE {ONE} AND {FEW}", set()),
    Comparison("loans, rates times 1.5", "credit", f"SELECT * FROM loans WHERE {OTHER}", f"SELECT id, {DEARER} FROM loans WHERE {ONE}", {"int_rate"}),
    Comparison("loans, incomes above 80000", "credit", f"SELECT * FROM loans WHERE {OTHER}", f"SELECT * FROM loans WHERE {ONE} AND annual_inc > 80000", {"annual_inc"}),
    Comparison("loans, NULL, NaN and a new state", "credit", f"SELECT * FROM loans WHERE {OTHER}", f"SELECT id, {GAPS} FROM loans WHERE {ONE}", {"int_rate", "addr_state"}),
    Comparison("loans, from rows with NULL", "credit_zipmap", f"SELECT id, {GAPS} FROM loans WHERE {OTHER}", f"SELECT * FROM loans WHERE {ONE}", {"int_rate", "addr_state"}),
    Comparison("diamonds, halves", "diamonds", f"SELECT * FROM diamonds WHERE {OTHER}", f"SELECT * FROM diamonds WHERE {ONE}", set(), True),
    Comparison("diamonds, large ones", "diamonds", f"SELECT * FROM diamonds WHERE {OTHER}", f"SELECT * FROM diamonds WHERE {ONE} AND carat > 1", {"carat", "x", "y", "z", "variable"}),
]  # fmt: skip


def is_category(values: list[Any], name: str) -> bool:
    return name.endswith("label") or any(isinstance(v, str) for v in values)


def lines(connection: psycopg.Connection[Any], model: str, query: str) -> dict[tuple[str, str], list[Any]]:
    """The values of each feature and output of the rows of a query."""
    features, outputs = MODELS[model]
    with connection.cursor() as cursor:
        rows = cursor.execute(f"SELECT {', '.join(features)} FROM ({query}) q ORDER BY id".encode()).fetchall()
        made = {("feature", name): list(column) for name, column in zip(features, zip(*rows, strict=True), strict=True)}
        columns = ", ".join(f"{name} {kind}" for name, kind in outputs.items())
        rows = cursor.execute(
            f"SELECT {', '.join(outputs)} FROM predictions((SELECT predict_batch('{model}', q) FROM ({query}) q)) AS p(id integer, {columns}) ORDER BY id".encode()
        ).fetchall()
    for name, column in zip(outputs, zip(*rows, strict=True), strict=True):
        seen = next(value for value in column if value is not None)
        if isinstance(seen, list):
            for i in range(len(seen)):
                made["output", f"{name}[{i + 1}]"] = [None if value is None else value[i] for value in column]
        elif isinstance(seen, dict):
            for key in seen:
                made["output", f"{name}[{key}]"] = [None if value is None else value[key] for value in column]
        else:
            made["output", name] = list(column)
    return made


def psi(base: np.ndarray, now: np.ndarray) -> float:
    """Of counts in bins."""
    base, now = base / base.sum(), now / now.sum()
    base, now = np.where(base == 0, 1e-4, base), np.where(now == 0, 1e-4, now)
    return float(((now - base) * np.log(now / base)).sum())


def of_numbers(base: np.ndarray, now: np.ndarray) -> dict[str, float]:
    edges = np.unique(np.quantile(base, np.arange(1, 10) / 10))
    counts = [np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) for values in (base, now)]
    ks = float(stats.ks_2samp(base, now, method="asymp").statistic)
    return {"psi": psi(*counts), "ks": ks, "p_value": float(special.kolmogorov(np.sqrt(len(base) * len(now) / (len(base) + len(now))) * ks))}


def of_categories(base: list[str], now: list[str]) -> dict[str, Any]:
    before, after = Counter(base), Counter(now)
    table = np.array([[before[c], after[c]] for c in sorted(before | after)]).T
    chi = stats.chi2_contingency(table, correction=False)
    unseen = sorted((c for c in after if c not in before), key=lambda c: (-after[c], c))
    return {
        "psi": psi(*table), "chi_squared": float(chi.statistic), "p_value": float(chi.pvalue), "unseen": unseen[:10],
        "unseen_rate": sum(after[c] for c in unseen) / len(now), "chance": (sum(n == 1 for n in before.values()) + 1) / len(base), "values": len(now),
    }  # fmt: skip


def verdict(figures: dict[str, Any]) -> str:
    level = 0
    for size, drift, moderate in ((figures["psi"], 0.25, 0.1), (figures.get("ks", 0), 0.2, 0.1)):
        if figures["p_value"] < 0.01:
            level = max(level, 2 if size >= drift else 1 if size >= moderate else 0)
    if (rate := figures.get("unseen_rate", 0)) > 0 and rate > (chance := figures["chance"]) + 3 * np.sqrt(chance / figures["values"]):
        level = max(level, 2 if rate >= chance + 0.05 else 1)
    before, after = figures["baseline_null_rate"], figures["null_rate"]
    if abs(before - after) >= 0.02:
        table = np.array([[rate * rows, (1 - rate) * rows] for rate, rows in ((before, figures["baseline_rows"]), (after, figures["rows"]))])
        if stats.chi2_contingency(table, correction=False).pvalue < 0.01:
            level = max(level, 2 if abs(before - after) >= 0.1 else 1)
    return ("ok", "moderate", "drift")[level]


def expected(base: list[Any], now: list[Any], name: str) -> dict[str, Any]:
    category = is_category(base, name)
    kept = []
    for values in (base, now):
        present = [v for v in values if v is not None]
        if category:
            kept.append([str(v) for v in present])
        else:
            numbers = np.array(present, dtype=np.float64)
            kept.append(numbers[~np.isnan(numbers)])
    figures = of_categories(*kept) if category else of_numbers(*kept)
    figures |= {"type": "category" if category else "number", "baseline_rows": len(base), "rows": len(now)}
    figures |= {"baseline_null_rate": 1 - len(kept[0]) / len(base), "null_rate": 1 - len(kept[1]) / len(now)}
    return figures | {"verdict": verdict(figures)}


FIGURES = ("baseline_null_rate", "null_rate", "psi", "ks", "chi_squared", "p_value", "unseen_rate")


def differences(got: dict[str, Any], want: dict[str, Any], tolerance: float) -> list[str]:
    wrong = [key for key in ("type", "baseline_rows", "rows", "verdict") if got[key] != want[key]]
    if got["unseen"] != want.get("unseen"):
        wrong.append("unseen")
    for key in FIGURES:
        a, b = got[key], want.get(key)
        if (a is None) != (b is None) or a is not None and not abs(a - b) <= tolerance * max(1, abs(b)):
            wrong.append(key)
    return [f"{key}: {got[key]} and not {want.get(key)}" for key in wrong]


def judge(connection: psycopg.Connection[Any], comparison: Comparison) -> tuple[list[str], str]:
    """What is wrong, and a note."""
    start = time.monotonic()
    connection.execute("SELECT predict.set_baseline(%s, %s)", (comparison.model, comparison.baseline))
    middle = time.monotonic()
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        rows = cursor.execute("SELECT * FROM predict.drift(%s, %s)", (comparison.model, comparison.query)).fetchall()
    note = f"baseline in {middle - start:.2f} s, drift in {time.monotonic() - middle:.2f} s"
    inexact = {row[0] for row in connection.execute("SELECT name FROM predict.baselines WHERE model = %s AND NOT exact", (comparison.model,))}

    base, now = (lines(connection, comparison.model, query) for query in (comparison.baseline, comparison.query))
    wrong = []
    if [(row["kind"], row["name"]) for row in rows] != list(base):
        wrong.append(f"lines: {[row['name'] for row in rows]}")
    for row in rows:
        name = row["name"]
        want = expected(base[row["kind"], name], now[row["kind"], name], name)
        wrong += [f"{name}: {d}" for d in differences(row, want, SAMPLED if name in inexact else TOLERANCE)]
    drifted = {row["name"] for row in rows if row["verdict"] == "drift"}
    if comparison.drifted is not None and not (comparison.drifted <= drifted if comparison.drifted else not drifted):
        wrong.append(f"drifted: {sorted(drifted)} and not {sorted(comparison.drifted)}")
    if comparison.unflagged and any(row["verdict"] != "ok" for row in rows):
        wrong.append(f"flagged: {[(row['name'], row['reason']) for row in rows if row['verdict'] != 'ok']}")
    if any((row["verdict"] != "ok") > bool(row["reason"]) for row in rows):
        wrong.append("a verdict has no reason")
    return wrong, f"{len(rows)} lines, {len(inexact)} of them sampled, {len(drifted)} drifted, {note}"


def main() -> None:
    failed = 0
    with psycopg.connect(autocommit=True) as connection:
        for number, comparison in enumerate(COMPARISONS, 1):
            wrong, note = judge(connection, comparison)
            failed += bool(wrong)
            print(f"{'not ok' if wrong else 'ok'} {number} - {comparison.title}, {note}")
            for line in wrong:
                print(f"#   {line}")
            sys.stdout.flush()
    print(f"1..{len(COMPARISONS)}")
    print(f"{len(COMPARISONS) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
