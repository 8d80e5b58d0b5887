"""Compares two installed builds of pg_predict, statement by statement in turns.

  compare.py OTHER     OTHER: a connection string of the server with the other build; libpq's environment variables name this one's

Prints for each statement the median time with each build, and the median and quartiles of the ratios of neighbouring pairs. Every statement
reads the results. compare.sh starts both servers.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ", ".join("abcdefghij")
ROWS = 1_000_000
PAIRS = 15
STATEMENTS = {
    "the scan": f"SELECT sum({COLUMNS.replace(', ', ' + ')}) FROM t",
    "plain calls, linear": f"SELECT sum(predict('linear', {COLUMNS})) FROM t",
    "plain calls, MLP": f"SELECT sum(predict('mlp', {COLUMNS})) FROM t",
    "predict_batch, real[]": f"SELECT array_length((predict_batch('linear', {COLUMNS}))::real[], 1) FROM t",
    "predictions()": f"SELECT sum(y) FROM predictions((SELECT predict_batch('linear', {COLUMNS}) FROM t)) AS p(y real)",
    "predictions(), whole row": "SELECT count(*), sum(y) FROM predictions((SELECT predict_batch('linear', t) FROM t)) AS p(a real, y real)",
}
"""By what they show."""
MODELS = ("benches/models/linear", "benches/models/mlp", "models/credit", "models/late", "tests/models/ragged", "tests/models/centred")
"""Small models whose creation is timed."""


def prepare(connection: psycopg.Connection) -> None:
    connection.execute("CREATE EXTENSION IF NOT EXISTS pg_predict")
    connection.execute("SET client_min_messages = error; SET max_parallel_workers_per_gather = 0; SET jit = off")
    connection.execute(f"CREATE TABLE t AS SELECT {', '.join(f'random()::real AS {c}' for c in 'abcdefghij')} FROM generate_series(1, {ROWS})")
    connection.execute("VACUUM ANALYZE t")
    for name in ("linear", "mlp"):
        content = (ROOT / f"benches/models/{name}.onnx").read_bytes()
        connection.execute("SELECT predict.create_model(%s, %s, %s::jsonb)", (name, content, '{"features": ["a","b","c","d","e","f","g","h","i","j"]}'))


def timed(connection: psycopg.Connection, query: str, *parameters: object) -> float:
    begin = time.perf_counter()
    connection.execute(query, parameters or None).fetchall()
    return time.perf_counter() - begin


def report(what: str, other: list[float], own: list[float], unit: str, scale: float) -> None:
    low, middle, high = statistics.quantiles([b / a for a, b in zip(other, own, strict=True)], n=4)
    print(f"{what:44} other {statistics.median(other) * scale:8.1f} {unit}, this {statistics.median(own) * scale:8.1f} {unit}, ratio {middle:.3f} [{low:.3f} {high:.3f}]", flush=True)


def main() -> None:
    other, own = psycopg.connect(sys.argv[1], autocommit=True), psycopg.connect(autocommit=True)
    places = [c.execute("SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'").fetchone() for c in (other, own)]
    if places[0] == places[1]:
        sys.exit(f"both servers have the build in {places[0]}")
    for connection in (other, own):
        prepare(connection)
    for what, query in STATEMENTS.items():
        times: tuple[list[float], list[float]] = ([], [])
        for connection in (other, own):
            timed(connection, query)
        for _ in range(PAIRS):
            for connection, into in zip((other, own), times, strict=True):
                into.append(timed(connection, query))
        report(what, *times, "ns per row", 1e9 / ROWS)
    for model in MODELS:
        content = (ROOT / f"{model}.onnx").read_bytes()
        times = ([], [])
        for _ in range(PAIRS):
            for connection, into in zip((other, own), times, strict=True):
                into.append(timed(connection, "SELECT predict.create_model('created', %s)", content))
                connection.execute("SELECT predict.drop_model('created')")
        report(f"create_model, {model}", *times, "ms", 1e3)


main()
