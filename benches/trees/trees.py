"""Measures tree ensembles in SQL and without SQL beside the programs that others would take. benches/trees.sh calls it.

    trees.py MODELS OUT [MODEL..]

In SQL, rows start in PostgreSQL and end as the sum of their scores. Other programs read the rows by COPY in binary
format; one thread reads while another one scores. Without SQL, rows start as floats in memory. Contenders take turns,
one round after the other, and a ratio compares runs of the same round.

Before it is timed, a contender must give the answers of ONNX Runtime. pg_predict must give the same bits. The others
may differ by `TOLERANCE`, and by more in one row of `ROWS_PER_OTHER_LEAF`, because they compare with thresholds that
ONNX stores as floats.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches/peers"))

import numpy as np  # noqa: E402
import psycopg  # noqa: E402
from clients import Copy, pipeline  # noqa: E402
from contenders import CONTENDERS, Predict, Unable  # noqa: E402
from models import MODELS, Model  # noqa: E402
from peer import Server  # noqa: E402
from workload import BATCH, Workload  # noqa: E402

# 0 for all rows of a model.
ROWS_LIMIT = int(os.environ.get("ROWS", "0"))
ROUNDS = int(os.environ.get("ROUNDS", "7"))
TOLERANCE = 1e-4
ROWS_PER_OTHER_LEAF = 2_000
# The kernels to measure, the fastest first, and the host of each one's server: KERNEL=HOST.
SERVERS = dict(server.split("=") for server in os.environ["TREE_SERVERS"].split())
KERNELS = tuple(SERVERS)
# A contender that takes longer for a run has fewer rounds.
SLOW_SECONDS, SLOW_ROUNDS = 4.0, 3
# The batch of score_rows, which is the one that validation chooses for these models.
OUR_BATCH = 4096
LOADS = 5


def columns_of(model: Model) -> list[str]:
    return [f"f{i}" for i in range(model.features().shape[1])]


@dataclass(frozen=True)
class Scoring(Workload):
    """The rows of a model, scored by a contender outside the server."""

    predict: Predict | None = field(default=None, compare=False)

    def infer(self, feeds: dict[str, np.ndarray], threads: int = 1) -> np.ndarray:
        assert self.predict is not None
        return self.predict(feeds["x"])


@dataclass
class Contender:
    """What is timed: `run` returns the sum of the scores."""

    name: str
    run: Callable[[], float]
    # The processes that work for it.
    pids: list[int]
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    # The rows whose score differs by more than the tolerance.
    other_rows: int = 0


def check(name: str, answers: np.ndarray, expected: np.ndarray, exact: bool) -> int:
    """Compares scores with ONNX Runtime's, and returns how many differ by more than the tolerance."""
    if answers.shape != expected.shape:
        raise SystemExit(f"{name}: {answers.shape} scores instead of {expected.shape}")
    if exact:
        differs = answers.astype(np.float32).view(np.uint32) != expected.view(np.uint32)
        allowed = 0
    else:
        differs = ~(np.abs(answers - expected) <= TOLERANCE * np.maximum(1, np.abs(expected)))
        allowed = len(expected) // ROWS_PER_OTHER_LEAF
    if differs.sum() > allowed:
        raise SystemExit(f"{name}: {differs.sum()} of {len(expected)} rows differ from ONNX Runtime")
    return int(differs.sum())


class Bare:
    """The engine without PostgreSQL, as a process that scores the same rows again and again."""

    def __init__(self, program: Path, library: Path, model: Model, folder: Path, rows: Path, trees: str, kernel: str | None):
        command = [program, library, model.onnx(folder), rows, json.dumps({"trees": trees}), model.output, str(OUR_BATCH)]
        environment = os.environ | ({"PG_PREDICT_TREE_KERNEL": kernel} if kernel else {})
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.loaded = self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("score_rows ended")
        return json.loads(line)

    def seconds(self, file: str = "") -> float:
        print(file, file=self.process.stdin, flush=True)
        return self.answer()["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def processor_seconds(pids: list[int]) -> float:
    """The processor time of all threads of these processes. It depends little on other work of the machine."""
    schedules = (file.read_text() for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(schedule.split()[0]) for schedule in schedules) / 1e9


def with_children(pid: int) -> list[int]:
    """A backend and its model process."""
    return [pid, *(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def take_turns(contenders: list[Contender], expected: float) -> None:
    """Runs all contenders once without the clock, then round by round."""
    rounds = {}
    for one in contenders:
        started = time.perf_counter()
        one.run()
        rounds[one.name] = SLOW_ROUNDS if time.perf_counter() - started > SLOW_SECONDS else ROUNDS
    for number in range(ROUNDS):
        # Each round begins with another contender.
        start = number % len(contenders)
        for one in contenders[start:] + contenders[:start]:
            if number >= rounds[one.name]:
                continue
            used, started = processor_seconds(one.pids), time.perf_counter()
            total = one.run()
            one.seconds.append(time.perf_counter() - started)
            one.processor_seconds.append(processor_seconds(one.pids) - used)
            if total is not None and abs(total / expected - 1) > 1e-3:
                raise SystemExit(f"{one.name}: the scores add up to {total} instead of {expected}")


def ratio(one: Contender, base: Contender) -> list[float]:
    """The quartiles of how many times as long a contender takes as the base, by rounds."""
    ratios = [a / b for a, b in zip(one.seconds, base.seconds, strict=False)]
    return statistics.quantiles(ratios, n=4, method="inclusive")


def row(one: Contender, base: Contender, rows: int) -> dict:
    ns = [seconds / rows * 1e9 for seconds in one.seconds]
    low, middle, high = ratio(one, base)
    processor = statistics.median(one.processor_seconds) / rows * 1e9
    return {
        "name": one.name, "median": statistics.median(ns), "least": min(ns), "most": max(ns), "ratio": middle,
        "quartiles": [low, high], "rounds": len(ns), "other_rows": one.other_rows, "processor": processor,
        "processor_ratio": statistics.median(one.processor_seconds) / statistics.median(base.processor_seconds),
    }  # fmt: skip


def table(found: list[dict]) -> list[str]:
    lines = ["| | ns per row | least, most | times ours | quartiles | processor time | times ours |", "|---|--:|--:|--:|--:|--:|--:|"]
    for one in found:
        low, high = one["quartiles"]
        lines.append(
            f"| {one['name']} | {one['median']:,.0f} | {one['least']:,.0f}, {one['most']:,.0f} | {one['ratio']:.2f} | {low:.2f}, {high:.2f} "
            f"| {one['processor']:,.0f} | {one['processor_ratio']:.2f} |"
        )
    return lines


def load_table(server: Server, model: Model, x: np.ndarray, folder: Path) -> None:
    """Loads the rows and registers the model, also with its trees left to ONNX Runtime."""
    names = columns_of(model)
    row = np.dtype([("fields", ">i2"), ("id length", ">i4"), ("id", ">i4"), ("numbers", [("length", ">i4"), ("value", ">f4")], len(names))])
    rows = np.zeros(len(x), row)
    rows["fields"], rows["id length"], rows["id"] = 1 + len(names), 4, np.arange(len(x))
    rows["numbers"]["length"], rows["numbers"]["value"] = 4, x
    with server.connect() as connection:
        connection.execute(f"CREATE TABLE {model.name} (id integer, {', '.join(f'{name} real' for name in names)})")
        with connection.cursor().copy(f"COPY {model.name} FROM STDIN (FORMAT binary)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows.tobytes() + b"\xff\xff")
        connection.execute(f"VACUUM (ANALYZE, FREEZE) {model.name}")
        for name, options in ((model.name, {}), (f"{model.name}_plain", {"trees": "onnxruntime"})):
            content = model.onnx(folder).read_bytes()
            connection.execute(
                "SELECT predict.create_model(%s, %s, %s::jsonb)", (name, content, json.dumps(options | {"features": names}))
            )
        query = "SELECT (metadata->>'compiled_trees')::int, batch_size FROM predict.models WHERE name = %s"
        compiled, batch = connection.execute(query, (model.name,)).fetchone()
        if not compiled:
            raise SystemExit(f"{model.name} has no compiled trees")
        print(f"{model.name}: batches of {batch} rows", file=sys.stderr)


def call(model: Model, plain: bool = False) -> str:
    output = f"{model.name}{'_plain' if plain else ''}"
    # The first output is the default, and a single element needs no position.
    if model.element or model.output in ("probabilities", "scores"):
        output += f"/{model.output}[{model.element + 1}]"
    return f"predict('{output}', {', '.join(columns_of(model))})"


def measure(model: Model, folder: Path, out: Path, servers: dict[str, Server], program: Path, library: Path) -> dict:
    x = model.features()[: ROWS_LIMIT or None]
    for server in servers.values():
        load_table(server, model, x, folder)
    base_server = servers[KERNELS[0]]
    reference = CONTENDERS["ONNX Runtime"](model, folder)
    expected = np.concatenate([reference(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]).astype(np.float32)
    total = float(expected.sum(dtype=np.float64))
    # Elementwise operators after the trees of an isolation forest are vectorised, so that their rounding depends on the
    # position of a row in its batch.
    exact = model.name != "isolation"

    unable: dict[str, str] = {}
    bare: list[Contender] = []
    outside: list[Contender] = []
    pool = ThreadPoolExecutor(1)
    client = Copy(base_server)
    client_pids = [os.getpid(), client.reading.backend_pid]

    # Without SQL.
    rows_file = out / f"{model.name}.rows"
    rows_file.write_bytes(np.ascontiguousarray(x).tobytes())
    processes = []
    for kernel in KERNELS:
        process = Bare(program, library, model, folder, rows_file, "compiled", kernel)
        processes.append(process)
        answers = out / f"{model.name}.answers"
        process.seconds(str(answers))
        scores = np.fromfile(answers, np.float32).reshape(len(x), -1)[:, model.element]
        other = check(f"the kernel for {kernel}", scores, expected, exact)
        bare.append(Contender(f"pg_predict, {kernel}", lambda p=process: p.seconds() and None, [process.process.pid], other_rows=other))

    def in_memory(predict: Predict) -> float:
        return float(sum(predict(x[i : i + BATCH]).sum(dtype=np.float64) for i in range(0, len(x), BATCH)))

    # In SQL.
    sessions = {kernel: server.connect() for kernel, server in servers.items()}

    def in_sql(connection: psycopg.Connection, query: str) -> float:
        return float(connection.execute(query).fetchone()[0])

    def of(connection: psycopg.Connection) -> list[int]:
        return with_children(connection.info.backend_pid)

    def statement(plain: bool = False) -> str:
        return f"SELECT sum({call(model, plain)}::float8) FROM {model.name}"

    for kernel, connection in list(sessions.items()):
        answers = connection.execute(f"SELECT {call(model)} FROM {model.name} ORDER BY id").fetchall()
        other = check(f"SQL with {kernel}", np.array([a for (a,) in answers], np.float32), expected, exact)
        outside.append(Contender(f"pg_predict, {kernel}", lambda c=connection: in_sql(c, statement()), of(connection), other_rows=other))
    plain = sessions["plain"] = base_server.connect()
    in_sql(plain, statement(plain=True))
    outside.append(Contender("pg_predict, trees left to ONNX Runtime", lambda: in_sql(plain, statement(plain=True)), of(plain)))
    columns = " + ".join(columns_of(model))
    scan = Contender("the scan alone: sum of the features", lambda: in_sql(plain, f"SELECT sum({columns}) FROM {model.name}") and None, of(plain))
    outside.append(scan)

    # The others.
    for name, make in CONTENDERS.items():
        try:
            predict = make(model, folder)
            answers = np.concatenate([np.asarray(predict(x[i : i + BATCH])) for i in range(0, len(x), BATCH)])
        except Unable as error:
            unable[name] = str(error)
            continue
        other = check(name, answers, expected, exact and name == "ONNX Runtime")
        bare.append(Contender(name, lambda p=predict: in_memory(p), [os.getpid()], other_rows=other))
        scoring = Scoring(model.name, model.name, tuple(columns_of(model)), (), Path(), "", 0, predict)
        outside.append(
            Contender(f"{name}, by COPY", lambda s=scoring: pipeline(client, s, "score", "", pool).sum, client_pids, other_rows=other)
        )
    take_turns(outside, total)
    take_turns(bare, total)
    for process in processes:
        process.close()
    for connection in sessions.values():
        connection.close()
    rows_file.unlink()
    return {
        "model": model.name, "title": model.title, "rows": len(x), "unable": unable,
        "sql": [row(one, outside[0], len(x)) for one in outside],
        "bare": [row(one, bare[0], len(x)) for one in bare],
        "loads": loads(model, folder, rows_file, program, library),
    }  # fmt: skip


def loads(model: Model, folder: Path, rows: Path, program: Path, library: Path) -> dict:
    """The time and the memory of loading, each in fresh processes, by turns."""
    found: dict[str, list[dict]] = {"compiled": [], "onnxruntime": []}
    for _ in range(LOADS):
        for trees, results in found.items():
            process = Bare(program, library, model, folder, rows, trees, None)
            process.close()
            results.append(process.loaded)
    size = model.onnx(folder).stat().st_size
    ratios = [a["load_seconds"] / b["load_seconds"] for a, b in zip(found["compiled"], found["onnxruntime"], strict=True)]
    memory = {trees: statistics.median(r["memory_bytes"] for r in results) for trees, results in found.items()}
    return {
        "file_bytes": size, "memory_bytes": memory, "load_ratio": statistics.quantiles(ratios, n=4, method="inclusive"),
        "load_ms": {trees: 1e3 * statistics.median(r["load_seconds"] for r in results) for trees, results in found.items()},
    }  # fmt: skip


def page(results: list[dict], head: list[str]) -> str:
    lines = ["# Tree ensembles beside other programs", "", *head]
    for result in results:
        lines += ["", f"## {result['title']}, {result['rows']:,} rows", "", "In SQL:", "", *table(result["sql"])]
        lines += ["", "Without SQL, rows in memory:", "", *table(result["bare"])]
        others = [f"{r['name']} {r['other_rows']}" for r in result["bare"] if r["other_rows"]]
        if others:
            lines += ["", f"Rows that differ by more than {TOLERANCE}: {', '.join(others)}."]
        if result["unable"]:
            lines += ["", *(f"- {name}: {reason}" for name, reason in result["unable"].items())]
    lines += ["", "## Loading", "", "| model | file, MB | load, ms | times ONNX Runtime | quartiles | memory, MB | times the file | times ONNX Runtime |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|--:|"]
    for result in results:
        loads, mega = result["loads"], 1e6
        low, middle, high = loads["load_ratio"]
        ours, theirs = loads["memory_bytes"]["compiled"], loads["memory_bytes"]["onnxruntime"]
        lines.append(
            f"| {result['title']} | {loads['file_bytes'] / mega:.1f} | {loads['load_ms']['compiled']:.1f} | {middle:.2f} | {low:.2f}, {high:.2f} "
            f"| {ours / mega:.1f} | {ours / loads['file_bytes']:.2f} | {ours / theirs:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    folder, out, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    user, database = os.environ["PGUSER"], os.environ["PGDATABASE"]
    servers = {kernel: Server(host, 5432, user, database) for kernel, host in SERVERS.items()}
    results = []
    with servers[KERNELS[0]].connect() as connection:
        version = connection.execute("SHOW server_version").fetchone()[0]
    for model in MODELS:
        if names and model.name not in names:
            continue
        result = measure(model, folder, out, servers, Path(os.environ["SCORE_ROWS"]), Path(os.environ["ORT_LIBRARY"]))
        results.append(result)
        print("\n".join([f"\n{model.title}", *table(result["sql"]), "", *table(result["bare"])]), file=sys.stderr, flush=True)
    processor = next(line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    head = [
        f"Medians of {ROUNDS} rounds ({SLOW_ROUNDS} if a run takes more than {SLOW_SECONDS:.0f} s), one thread that scores. `times ours` is the median",
        "of the ratios to the first line in the same round, with the quartiles. Processor time is that of the server, and of the program that scores.",
        "",
        f"{processor}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; PostgreSQL {version}; Python {platform.python_version()}.",
    ]
    (out / "results.json").write_text(json.dumps(results, indent=1))
    text = page(results, head)
    (out / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
