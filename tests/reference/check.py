"""Asks the server for the predictions of every model through every form, and compares them, key by key, with the expected answers.

  check.py [MODEL ...]     run.sh calls it, with a server loaded and reachable through libpq's environment variables

One line of TAP for each combination of model, form, batch size and plan. A combination is one statement under test, run in a
session of its own; its rows go to a temporary table, which is joined to the expected answers: rows in = rows out, each key
once, labels exact, values within 1e-5 (of the price, for prices).
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from cases import CASES, Case

TOLERANCE = 1e-5
BATCH_SIZES = (1, 7, 1024, 0)
PARALLEL = {
    "parallel_setup_cost": "0",
    "parallel_tuple_cost": "0",
    "min_parallel_table_scan_size": "0",
    "max_parallel_workers_per_gather": "2",
}
SERIAL = {"max_parallel_workers_per_gather": "0"}
SECONDS = 150


@dataclass(frozen=True)
class Check:
    """A statement that gives id and some of: label, v1..vK, carried columns; and how to judge it."""

    title: str
    statement: str
    settings: dict[str, str]
    values: tuple[int, ...]
    label: bool = False
    carried: tuple[str, ...] = ()
    every: int = 1
    plan: tuple[str, ...] = ()
    """What EXPLAIN must show."""
    by_rank: bool = False
    """The statement numbers its rows by their value, because a parallel plan keeps no order and nothing carries the key."""


def forms(case: Case) -> dict[str, str]:
    """The ways to hand over a row `t`, by name, as arguments that follow the model's reference."""
    made = {"whole row": "t", "scalars" if len(case.columns) > 1 else "scalar": ", ".join(f"t.{column}" for column in case.columns)}
    if case.wide:
        made["array"] = "ARRAY[" + ", ".join(f"t.{column}::real" for column in case.columns) + "]"
    return made


def source(case: Case, every: int) -> str:
    """The FROM clause over the table of `case`, or over one row in `every`."""
    return f"FROM {case.table} t" + (f" WHERE (t.id - 1) % {every} = 0" if every > 1 else "")


def key(every: int) -> str:
    """The key of row number p.n of a result in the order of the keys."""
    return f"((p.n - 1) * {every} + 1)::integer AS id"


def element(case: Case, number: int) -> str:
    """The model reference of value `number`, from 1."""
    inside = {"column": "", "tensor": f"[{number}]", "map": f"[{case.keys[number - 1] if case.keys else ''}]"}[case.shape]
    return f"{case.name}/{case.values}{inside}"


def from_columns(case: Case) -> str:
    """Select-list items label, v1..vK out of the columns that predictions() gives."""
    items = [f"p.{case.label}::text AS label"] if case.label else []
    for number in range(1, case.width + 1):
        items.append({
            "column": f"p.{case.values}",
            "tensor": f"p.{case.values}[{number}]",
            "map": f"(p.{case.values} ->> '{case.keys[number - 1] if case.keys else ''}')::real",
        }[case.shape] + f" AS v{number}")
    return ", ".join(items)


def from_json(case: Case) -> str:
    """Select-list items label, v1..vK out of p.j, an object with all outputs by name."""
    items = [f"p.j ->> '{case.label}' AS label"] if case.label else []
    for number in range(1, case.width + 1):
        items.append({
            "column": f"(p.j ->> '{case.values}')::real",
            "tensor": f"(p.j -> '{case.values}' ->> {number - 1})::real",
            "map": f"(p.j -> '{case.values}' ->> '{case.keys[number - 1] if case.keys else ''}')::real",
        }[case.shape] + f" AS v{number}")
    return ", ".join(items)


def definitions(case: Case) -> str:
    """The column definitions of the outputs."""
    kind = {"column": "real", "tensor": "real[]", "map": "jsonb"}[case.shape]
    return (f"{case.label} {case.label_type}, " if case.label else "") + f"{case.values} {kind}"


def output_names(case: Case) -> str:
    return (f"{case.label}, " if case.label else "") + case.values


def whole_rows(case: Case) -> str:
    """predict_batch over whole rows into predictions(), with the key and other columns carried."""
    columns = "".join(f", {name} {kind}" for name, kind in case.carried.items())
    carried = "".join(f", p.{name}" for name in case.carried)
    return (
        f"SELECT p.id, {from_columns(case)}{carried}\n"
        f"FROM predictions((SELECT predict_batch('{case.name}', t) {source(case, 1)})) AS p(id integer, {definitions(case)}{columns})"
    )


def in_order(case: Case, arguments: str, every: int) -> str:
    """predict_batch over scalars or arrays, in the order of the keys, into predictions()."""
    return (
        f"SELECT {key(every)}, {from_columns(case)}\n"
        f"FROM ROWS FROM (predictions((SELECT predict_batch('{case.name}', {arguments} ORDER BY t.id) {source(case, every)}))"
        f" AS ({definitions(case)})) WITH ORDINALITY AS p({output_names(case)}, n)"
    )


def cast_values(case: Case, arguments: str, every: int) -> str:
    """predict_batch of the last value alone, in the order of the keys, cast to real[]."""
    return (
        f"SELECT {key(every)}, p.v AS v{case.width}\n"
        f"FROM unnest((SELECT predict_batch('{element(case, case.width)}', {arguments} ORDER BY t.id) {source(case, every)})::real[])"
        f" WITH ORDINALITY AS p(v, n)"
    )


def cast_labels(case: Case, arguments: str, every: int) -> str:
    """predict_batch of the label alone, in the order of the keys, cast to an array of its type."""
    return (
        f"SELECT {key(every)}, p.v::text AS label\n"
        f"FROM unnest((SELECT predict_batch('{case.name}/{case.label}', {arguments} ORDER BY t.id) {source(case, every)})::{case.label_type}[])"
        f" WITH ORDINALITY AS p(v, n)"
    )


def cast_json(case: Case, arguments: str, every: int) -> str:
    """predict_batch of all outputs, in the order of the keys, cast to jsonb: an array with an object for each row."""
    return (
        f"SELECT {key(every)}, {from_json(case)}\n"
        f"FROM jsonb_array_elements((SELECT predict_batch('{case.name}', {arguments} ORDER BY t.id) {source(case, every)})::jsonb)"
        f" WITH ORDINALITY AS p(j, n)"
    )


def unordered_values(case: Case, arguments: str) -> str:
    """predict_batch of the last value alone, in any order, numbered by value."""
    return (
        f"SELECT row_number() OVER (ORDER BY p.v)::integer AS id, p.v AS v{case.width}\n"
        f"FROM unnest((SELECT predict_batch('{element(case, case.width)}', {arguments}) {source(case, 1)})::real[]) AS p(v)"
    )


def plain(case: Case, arguments: str, every: int) -> dict[str, tuple[str, tuple[int, ...], bool]]:
    """The plain calls: for each verb its statement, the values that it gives, and whether it gives the label."""
    rows, last = source(case, every), case.width
    everything = tuple(range(1, case.width + 1))
    made: dict[str, tuple[str, tuple[int, ...], bool]] = {"predict": (f"SELECT t.id, predict('{element(case, last)}', {arguments})::real AS v{last} {rows}", (last,), False)}
    if case.label:
        made["predict_text"] = (f"SELECT t.id, predict_text('{case.name}/{case.label}', {arguments}) AS label {rows}", (), True)
    if case.shape != "map":
        items = ", ".join(f"p.a[{number}] AS v{number}" for number in everything)
        call = f"SELECT t.id, predict_array('{case.name}/{case.values}', {arguments}) AS a {rows} OFFSET 0"
        made["predict_array"] = (f"SELECT p.id, {items} FROM ({call}) p", everything, False)
    call = f"SELECT t.id, predict_json('{case.name}', {arguments}) AS j {rows} OFFSET 0"
    made["predict_json"] = (f"SELECT p.id, {from_json(case)} FROM ({call}) p", everything, case.label is not None)
    return made


def checks(case: Case) -> Iterator[Check]:
    """All combinations for one model."""
    everything, labelled = tuple(range(1, case.width + 1)), case.label is not None
    carried = tuple(case.carried)
    for form, arguments in forms(case).items():
        for size in BATCH_SIZES:
            settings = SERIAL | {"pg_predict.batch_size": str(size)}
            every = 1 if size in (0, 1024) else case.every

            title = f"{case.name}, {form}, %s, batch_size {size}"
            if form == "whole row":
                yield Check(title % "predict_batch", whole_rows(case), settings, everything, labelled, carried)
            else:
                yield Check(title % "predict_batch", in_order(case, arguments, every), settings, everything, labelled, every=every)
            statement = cast_values(case, arguments, every)
            yield Check(title % "predict_batch cast to real[]", statement, settings, (case.width,), every=every)
            if labelled:
                statement = cast_labels(case, arguments, every)
                yield Check(title % f"predict_batch cast to {case.label_type}[]", statement, settings, (), True, every=every)
            statement = cast_json(case, arguments, case.every)
            yield Check(title % "predict_batch cast to jsonb", statement, settings, everything, labelled, every=case.every)
            for verb, (statement, values, label) in plain(case, arguments, case.every).items():
                yield Check(title % verb, statement, settings, values, label, every=case.every)
        if form == "whole row":
            statement, values, label = plain(case, arguments, 1)["predict"]
            settings = SERIAL | {"pg_predict.batch_size": "0"}
            yield Check(f"{case.name}, {form}, predict, every row, batch_size 0", statement, settings, values, label)

        for size in (7, 0):
            settings = PARALLEL | {"pg_predict.batch_size": str(size)}
            title = f"{case.name}, {form}, predict_batch, parallel plan, batch_size {size}"
            plan = ("Partial Aggregate", r"Workers Launched: [1-9]")
            if form == "whole row":
                streamed = (r"Parallel Custom Scan \(BatchPredict\)", r"Workers Launched: [1-9]")
                yield Check(title, whole_rows(case), settings, everything, labelled, carried, plan=streamed)
            else:
                yield Check(title, unordered_values(case, arguments), settings, (case.width,), plan=plan, by_rank=True)
        statement, values, label = plain(case, arguments, case.every)["predict"]
        plan = ("Gather", r"Workers Launched: [1-9]")
        yield Check(f"{case.name}, {form}, predict, parallel plan", statement, PARALLEL, values, label, every=case.every, plan=plan)


def script(case: Case, check: Check) -> str:
    """What psql runs: settings, the plan where it matters, the statement under test, and the comparison as its last line."""
    lines = [f"SET {name} = {value};" for name, value in check.settings.items()]
    lines.append(f"SET statement_timeout = '{SECONDS}s';")
    if check.plan:
        lines.append(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {check.statement};")
    lines.append(f"CREATE TEMPORARY TABLE got AS {check.statement};")
    if check.by_rank:
        last = f"v{case.width}"
        want = f"SELECT row_number() OVER (ORDER BY {last})::integer AS id, {last} FROM expected.{case.name}"
    else:
        carried = "".join(f", t.{name}" for name in check.carried)
        want = f"SELECT e.*{carried} FROM expected.{case.name} e JOIN {case.table} t USING (id) WHERE (e.id - 1) % {check.every} = 0"
    differences = [f"abs(g.v{n}::float8 - w.v{n}::float8)" for n in check.values]
    right = ["g.id = w.id"]
    for n, difference in zip(check.values, differences, strict=True):
        right.append(f"{difference} <= {TOLERANCE}" + (f" * greatest(1, abs(w.v{n}))" if case.relative else ""))
    if check.label:
        right.append("g.label = w.label")
    right += [f"g.{name} IS NOT DISTINCT FROM w.{name}" for name in check.carried]
    largest = f"max(greatest({', '.join(differences)}))" if differences else "0"
    lines.append(
        f"WITH want AS MATERIALIZED ({want})\n"
        f"SELECT (SELECT count(*) FROM got), (SELECT count(*) FROM want),"
        f" count(*) FILTER (WHERE ({' AND '.join(right)}) IS NOT TRUE), coalesce({largest}, 0)\n"
        f"FROM got g FULL JOIN want w ON g.id = w.id;"
    )
    return "\n".join(lines) + "\n"


@dataclass
class Outcome:
    passed: bool
    note: str
    trouble: list[str] = field(default_factory=list)


def judge(case: Case, check: Check) -> Outcome:
    """Runs one combination."""
    asked = script(case, check)
    command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"]
    try:
        answer = subprocess.run(command, check=False, input=asked, capture_output=True, text=True, timeout=2 * SECONDS)
    except subprocess.TimeoutExpired:
        return Outcome(False, "", [f"no answer in {2 * SECONDS} seconds", *asked.splitlines()])
    if answer.returncode != 0:
        wait_for_server()
        return Outcome(False, "", [*answer.stderr.splitlines(), *asked.splitlines()])
    lines = answer.stdout.splitlines()
    rows, wanted, wrong, largest = lines[-1].split("|")
    trouble = [f"the plan does not show {part}" for part in check.plan if not re.search(part, "\n".join(lines[:-1]))]
    if trouble:
        trouble += lines[:-1]
    if rows != wanted or int(wanted) == 0 or int(wrong) > 0:
        trouble.append(f"{rows} rows came back, {wanted} were expected, {wrong} keys are missing or have a wrong answer, largest difference {largest}")
    return Outcome(not trouble, f"{rows} rows", trouble + asked.splitlines() if trouble else [])


def wait_for_server() -> None:
    """After an error: gives a server that is recovering from a crash the time to come back."""
    for _ in range(60):
        if subprocess.run(["pg_isready", "-q"], check=False).returncode == 0:
            return
        time.sleep(0.5)
    raise SystemExit("Bail out! the server does not come back")


def main() -> None:
    asked = sys.argv[1:]
    unknown = set(asked) - {case.name for case in CASES}
    if unknown:
        raise SystemExit(f"no such model in cases.py: {', '.join(sorted(unknown))}")
    start, number, failed = time.monotonic(), 0, 0
    for case in CASES:
        if asked and case.name not in asked:
            continue
        for check in checks(case):
            number += 1
            outcome = judge(case, check)
            failed += not outcome.passed
            verdict = "ok" if outcome.passed else "not ok"
            print(f"{verdict} {number} - {check.title}" + (f", {outcome.note}" if outcome.note else ""))
            for line in outcome.trouble:
                print(f"#   {line}")
            sys.stdout.flush()
    print(f"1..{number}")
    print(f"# {time.monotonic() - start:.0f} seconds")
    print(f"{number - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
