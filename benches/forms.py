"""Measures what the main benchmark does not: first statements without preloading, many groups, and very many rows.

  forms.py [PART..]     forms.sh calls it. Parts: first, groups, many; all of them by default

Every statement reads its results. Ratios are medians of the ratios of neighbouring statements, with their quartiles.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ", ".join("abcdefghij")
ADDED = " + ".join("abcdefghij")
ROWS = int(os.environ.get("ROWS", "1000000"))
MANY = int(os.environ.get("MANY", "100000000"))
RUNS = int(os.environ.get("RUNS", "9"))
PRELOAD = "-c session_preload_libraries=pg_predict"
FIRST = {
    "predict(columns)": f"SELECT sum(predict('linear', {COLUMNS})) FROM t",
    "predict(whole row)": "SELECT sum(predict('linear', t)) FROM t",
    "predict_batch(columns)::real[]": f"SELECT array_length((predict_batch('linear', {COLUMNS}))::real[], 1) FROM t",
    "predict_batch(whole row)::real[]": "SELECT array_length((predict_batch('linear', t))::real[], 1) FROM t",
    "predictions(), columns": f"SELECT count(*), sum(y) FROM predictions((SELECT predict_batch('linear', {COLUMNS}) FROM t)) AS p(y real)",
    "predictions(), whole row": "SELECT count(*), sum(y) FROM predictions((SELECT predict_batch('linear', t) FROM t)) AS p(id int, y real)",
}
"""The first statements of a connection, by their form."""
WORK_MEMORY = {"work_mem of 4 MB": "4MB", "work_mem of 1 GB": "1GB"}


def connect(options: str = "") -> psycopg.Connection:
    serial = "-c max_parallel_workers_per_gather=0 -c jit=off -c client_min_messages=error"
    return psycopg.connect(autocommit=True, options=f"{serial} {options}")


def prepare() -> None:
    connection = connect()
    columns = ", ".join(f"random()::real AS {c}" for c in "abcdefghij")
    connection.execute(f"CREATE TABLE t AS SELECT i AS id, {columns} FROM generate_series(1, {ROWS}) i")
    connection.execute("VACUUM ANALYZE t")
    content = (ROOT / "benches/models/linear.onnx").read_bytes()
    features = '{"features": ["a","b","c","d","e","f","g","h","i","j"]}'
    connection.execute("SELECT predict.create_model('linear', %s, %s::jsonb)", (content, features))


def timed(connection: psycopg.Connection, query: str) -> float:
    begin = time.perf_counter()
    connection.execute(query).fetchall()
    return (time.perf_counter() - begin) * 1e3


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} [{low:.2f} {high:.2f}]"


def first() -> None:
    """How much longer the first statement of a connection takes than the second, without preloading."""
    for form, query in FIRST.items():
        more, seconds = [], []
        for _ in range(RUNS):
            with connect() as connection:
                one, two = timed(connection, query), timed(connection, query)
                more.append(one - two)
                seconds.append(two)
        print(f"first statement, {form:34} second {statistics.median(seconds):7.1f} ms, first {quartiles(more)} ms more", flush=True)


def groups() -> None:
    """Groups of 10 rows, beside the same rows without groups and beside a sum of PostgreSQL in the same groups."""
    cast = f"(predict_batch('linear', {COLUMNS}))::real[]"
    ungrouped = f"SELECT array_length({cast}, 1) FROM t"
    grouped = f"SELECT sum(array_length(y, 1)) FROM (SELECT {cast} AS y FROM t GROUP BY id / 10) s"
    floor = f"SELECT sum(array_length(y, 1)) FROM (SELECT array_agg({ADDED}) AS y FROM t GROUP BY id / 10) s"
    for what, memory in WORK_MEMORY.items():
        with connect(PRELOAD) as connection:
            connection.execute(f"SET work_mem = '{memory}'")
            statements = (ungrouped, grouped, floor)
            for query in statements:
                timed(connection, query)
            runs = [[timed(connection, query) for query in statements] for _ in range(RUNS)]
        ours = quartiles([b / a for a, b, _ in runs])
        theirs = quartiles([b / c for _, b, c in runs])
        medians = [statistics.median(column) for column in zip(*runs, strict=True)]
        print(
            f"{ROWS // 10:,} groups of 10 rows, {what}: ungrouped {medians[0]:.0f} ms, grouped {medians[1]:.0f} ms, array_agg {medians[2]:.0f} ms; "
            f"grouped / ungrouped {ours}, grouped / array_agg {theirs}",
            flush=True,
        )


def own_memory(pid: int) -> float:
    """The memory of a process that is not shared with others, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")) / 1024


def many() -> None:
    """Very many rows, generated, in one statement: its time, and the memory of the backend and of its model process."""
    made = ", ".join(f"(n % {7 + i})::real AS {c}" for i, c in enumerate("abcdefghij"))

    def query(rows: int) -> str:
        source = f"SELECT {made} FROM generate_series(1, {rows}) n"
        return f"SELECT count(*), sum(y) FROM predictions((SELECT predict_batch('linear', {COLUMNS}) FROM ({source}) s)) AS p(y real)"

    with connect(PRELOAD) as connection:
        timed(connection, query(1_000_000))
        backend = connection.info.backend_pid
        children = Path(f"/proc/{backend}/task/{backend}/children").read_text().split()
        processes = {"backend": backend} | {"model process": int(child) for child in children}
        before = {what: own_memory(pid) for what, pid in processes.items()}
        largest, begin = dict(before), time.perf_counter()
        asked = connection.pgconn
        asked.send_query(query(MANY).encode())
        asked.flush()
        while asked.is_busy():
            for what, pid in processes.items():
                largest[what] = max(largest[what], own_memory(pid))
            time.sleep(0.05)
            asked.consume_input()
        took = time.perf_counter() - begin
        result = asked.get_result()
        count = result.get_value(0, 0) if result else None
        if count is None or int(count) != MANY:
            sys.exit(f"{count!r} rows instead of {MANY}: {result.error_message if result else None!r}")
        while asked.get_result() is not None:
            pass
        memory = "; ".join(f"{what} {before[what]:.1f} MB of its own after 1,000,000 rows, {largest[what]:.1f} MB at most" for what in processes)
        print(f"{MANY:,} generated rows: {took:.1f} s; {memory}", flush=True)


def main() -> None:
    parts = {"first": first, "groups": groups, "many": many}
    prepare()
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
