"""Compares models in model processes with models in the backend, in one server, statement by statement in turns.

  isolation.py [PART..]     isolation.sh calls it. Parts: throughput, calls, pgbench, start, memory; all of them by default

Prints the median with each way, and the median and quartiles of the ratios of neighbouring pairs. Every statement reads its results.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
MINILM = Path(os.environ["MINILM"])
LARGE = Path(os.environ["LARGE_MODEL"])
COLUMNS = ", ".join("abcdefghij")
ROWS = 1_000_000
PAIRS = int(os.environ.get("PAIRS", "11"))
WAYS = ("backend", "process")
CONNECTIONS = 100
THROUGHPUT = {
    "linear, 1,000,000 rows": (f"SELECT count(*), sum(predict('linear', {COLUMNS})) FROM t", PAIRS),
    "linear, predictions()": (f"SELECT count(*), sum(y) FROM predictions((SELECT predict_batch('linear', {COLUMNS}) FROM t)) AS p(y real)", PAIRS),
    "MLP, 1,000,000 rows": (f"SELECT count(*), sum(predict('mlp', {COLUMNS})) FROM t", PAIRS),
    "flights, 336,776 rows": ("SELECT count(*), sum(predict('late/probabilities[2]', f)) FROM flights f", PAIRS),
    "LightGBM, 100,000 rows": (f"SELECT count(*), sum(predict('lgbm', {COLUMNS})) FROM t WHERE id <= 100000", PAIRS),
    "MiniLM, 200 texts": ("SELECT count(*), sum((embed('minilm', s))[1]) FROM texts", max(3, PAIRS // 3)),
}


def connect() -> psycopg.Connection:
    return psycopg.connect(autocommit=True)


def use(connection: psycopg.Connection, way: str, workers: int = 0) -> None:
    connection.execute(f"SET pg_predict.isolation = {way}")
    connection.execute(f"SET max_parallel_workers_per_gather = {workers}")
    # One process for the leader and one for a worker: two that scan.
    connection.execute("SET jit = off; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0")


def prepare() -> None:
    connection = connect()
    connection.execute("SET client_min_messages = error")
    connection.execute(f"CREATE TABLE t AS SELECT i AS id, {', '.join(f'random()::real AS {c}' for c in 'abcdefghij')} FROM generate_series(1, {ROWS}) i")
    connection.execute("CREATE TABLE texts AS SELECT i AS id, repeat('what a lovely day it was ', 1 + i % 5) || i AS s FROM generate_series(1, 200) i")
    connection.execute("ALTER TABLE t SET (parallel_workers = 1); ALTER TABLE flights SET (parallel_workers = 1); ALTER TABLE texts SET (parallel_workers = 1)")
    connection.execute("VACUUM ANALYZE t")
    connection.execute("VACUUM ANALYZE texts")
    for name in ("linear", "mlp", "lgbm"):
        content = (ROOT / f"benches/models/{name}.onnx").read_bytes()
        connection.execute("SELECT predict.create_model(%s, %s, %s::jsonb)", (name, content, '{"features": ["a","b","c","d","e","f","g","h","i","j"]}'))
    connection.execute("SELECT predict.create_model('late', %s)", ((ROOT / "models/late.onnx").read_bytes(),))
    connection.execute(
        "SELECT predict.create_model('minilm', %s, '{\"pooling\": \"mean\"}', %s)", ((MINILM / "model.onnx").read_bytes(), (MINILM / "tokenizer.json").read_text())
    )
    connection.execute("SELECT predict.create_model('large', %s)", (LARGE.read_bytes(),))


def timed(connection: psycopg.Connection, query: str) -> float:
    begin = time.perf_counter()
    connection.execute(query).fetchall()
    return time.perf_counter() - begin


def report(what: str, backend: list[float], process: list[float], unit: str, scale: float) -> None:
    low, middle, high = statistics.quantiles([a / b for a, b in zip(backend, process, strict=True)], n=4)
    medians = statistics.median(backend) * scale, statistics.median(process) * scale
    print(f"{what:44} backend {medians[0]:9.2f} {unit}, process {medians[1]:9.2f} {unit}, speed {middle:.3f} [{low:.3f} {high:.3f}]", flush=True)


def in_turns(measure: dict[str, psycopg.Connection], pairs: int, one: object) -> tuple[list[float], list[float]]:
    """Measures both ways one after the other; which one is first changes."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for way in WAYS:
        one(measure[way])  # type: ignore[operator]
    for pair in range(pairs):
        for way in WAYS if pair % 2 else reversed(WAYS):
            times[way].append(one(measure[way]))  # type: ignore[operator]
    return times["backend"], times["process"]


def throughput() -> None:
    sessions = {way: connect() for way in WAYS}
    for workers in (0, 1):
        for way, session in sessions.items():
            use(session, way, workers)
        for what, (query, pairs) in THROUGHPUT.items():
            times = in_turns(sessions, pairs, lambda session, query=query: timed(session, query))
            report(f"{what}, {workers + 1} process{'es' if workers else ''}", *times, "ms", 1e3)


def calls() -> None:
    sessions = {way: connect() for way in WAYS}
    for way, session in sessions.items():
        use(session, way)
    loop = "DO $$ DECLARE y real; BEGIN FOR i IN 1..20000 LOOP y := predict('linear', i, 1, 1, 1, 1, 1, 1, 1, 1, 1); END LOOP; END $$"

    def in_loop(session: psycopg.Connection) -> float:
        begin = time.perf_counter()
        session.execute(loop)
        return (time.perf_counter() - begin) / 20000

    report("one call in a PL/pgSQL loop", *in_turns(sessions, PAIRS, in_loop), "us", 1e6)

    def from_client(session: psycopg.Connection) -> float:
        begin = time.perf_counter()
        for i in range(1000):
            session.execute("SELECT predict('linear', %s::real, 1, 1, 1, 1, 1, 1, 1, 1, 1)", (i,), prepare=True).fetchone()
        return (time.perf_counter() - begin) / 1000

    backend, process = in_turns(sessions, PAIRS, from_client)
    report("one prepared call from a client", backend, process, "us", 1e6)
    print(f"{'':44} more by {1e6 * statistics.median(b - a for a, b in zip(backend, process, strict=True)):.1f} us", flush=True)


def pgbench() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write("\\set i random(1, 1000)\nSELECT predict('linear', :i::real, 1, 1, 1, 1, 1, 1, 1, 1, 1);\n")
        script.flush()

        def seconds_each(way: str) -> float:
            options = f"-c pg_predict.isolation={way}"
            run = subprocess.run(
                ["pgbench", "-n", "-M", "prepared", "-c", "16", "-j", "2", "-T", "6", "-f", script.name],
                env=os.environ | {"PGOPTIONS": options}, capture_output=True, text=True, check=True,
            )  # fmt: skip
            return 1 / float(next(line for line in run.stdout.splitlines() if line.startswith("tps")).split()[2])

        times = in_turns({way: way for way in WAYS}, 5, seconds_each)  # type: ignore[arg-type]
        report("pgbench, 16 clients, a transaction", *times, "us", 1e6)


def start() -> None:
    def first(way: str) -> float:
        session = psycopg.connect(autocommit=True, options=f"-c pg_predict.isolation={way}")
        session.execute("SELECT 1")
        took = timed(session, "SELECT predict('linear', 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)")
        session.close()
        return took

    report("first prediction of a connection", *in_turns({way: way for way in WAYS}, 2 * PAIRS, first), "ms", 1e3)  # type: ignore[arg-type]


def pss(pids: list[int]) -> tuple[int, int]:
    """The proportional set size of processes in kB, and the part of it that belongs to files of weights."""
    total = weights = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        ours = False
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if line[:1].isdigit() or line[:1] in "abcdef" and "-" in line.split()[0]:
                ours = "weights" in line
            elif ours and line.startswith("Pss:"):
                weights += int(line.split()[1])
    return total, weights


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def memory() -> None:
    call = "SELECT predict('linear', 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)"
    large = "SELECT predict('large', array_fill(1::real, ARRAY[10]))"
    for what, query, share in (("the linear model", call, "off"), ("a model of 100 MB, share_weights", large, "on")):
        for way in WAYS:
            options = f"-c pg_predict.isolation={way} -c pg_predict.share_weights={share}"
            sessions = [psycopg.connect(autocommit=True, options=options) for _ in range(CONNECTIONS)]
            before, _ = pss([s.info.backend_pid for s in sessions])
            for session in sessions:
                session.execute(query).fetchall()
            pids = [s.info.backend_pid for s in sessions]
            all_pids = pids + [child for pid in pids for child in children(pid)]
            total, weights = pss(all_pids)
            print(f"{CONNECTIONS} connections, {what}: {way}: {total / 1024:.0f} MB PSS in {len(all_pids)} processes ({before / 1024:.0f} MB before), weights {weights / 1024:.0f} MB", flush=True)
            for session in sessions:
                session.close()
            time.sleep(1)


def main() -> None:
    parts = {"throughput": throughput, "calls": calls, "pgbench": pgbench, "start": start, "memory": memory}
    prepare()
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
