"""What users would take instead of pg_predict, driven by the benchmark program: one JSON object a line in, one line out.

    python peers.py --socket DIR --port N --user NAME --database NAME --models DIR --flights FILE

    {"do": "hello"}                     the versions, the peers and what each can do, the missing ones and why
    {"do": "run", "peer": NAME, "workload": NAME, "task": "score" | "write", "threads": N}
                                        the seconds, the rows and, for `score`, the sum of the scores
    {"do": "quit"}

What fails answers {"error": TEXT}, and the next line is read. It owns standard output, which holds answers only; whatever
a library prints goes to standard error. It must not make or change the tables that are read.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import peer
from peer import Peer, Server
from workload import workloads

# What the answers depend on.
PACKAGES = ("onnxruntime", "numpy", "pyarrow", "adbc-driver-postgresql", "psycopg", "duckdb", "pandas", "pyspark")


class Peers:
    """The peers that this machine and this server can run."""

    def __init__(self, arguments: argparse.Namespace):
        self.server = Server(arguments.socket, arguments.port, arguments.user, arguments.database)
        self.workloads = workloads(arguments.models, arguments.flights)
        self.connection = self.server.connect()
        self.peers: dict[str, Peer] = {}
        self.missing: dict[str, str] = {}
        self.find()

    def find(self) -> None:
        """Asks every module for its peers; one whose package is not there is missing, and the others are not."""
        for module, names in (("clients", ("adbc", "copy", "pandas")), ("duck", ("duckdb", "duckdb_copy"))):
            try:
                self.add(importlib.import_module(module).peers(self.server))
            except ImportError as error:
                self.missing |= dict.fromkeys(names, str(error))
        import plpython

        inside = plpython.PlPython(self.server)
        found = plpython.peers(inside)
        if why := inside.why_not():
            self.missing |= {one.name: why for one in found}
        else:
            self.add(found)
        import spark

        if why := spark.why_not():
            self.missing["spark"] = why
        else:
            self.add(spark.peers(self.server))

    def add(self, found: list[Peer]) -> None:
        self.peers |= {one.name: one for one in found}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        match question["do"]:
            case "hello":
                return self.hello()
            case "run":
                return self.run(question["peer"], question["workload"], question["task"], question["threads"])
        raise ValueError(f"there is nothing to do that is called {question['do']!r}")

    def hello(self) -> dict[str, Any]:
        versions = {"python": platform.python_version()}
        for package in PACKAGES:
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                pass
        fields = ("name", "title", "tasks", "workloads", "threads")
        known = [{field: getattr(one, field) for field in fields} for one in self.peers.values()]
        return {"versions": versions, "peers": known, "missing": [{"name": n, "why": w} for n, w in self.missing.items()]}

    def run(self, name: str, workload: str, task: str, threads: int) -> dict[str, Any]:
        one = self.peers.get(name)
        if one is None:
            raise ValueError(f"{name}: {self.missing.get(name, 'there is no such peer')}")
        if task not in one.tasks or workload not in one.workloads or threads not in one.threads:
            raise ValueError(f"{name} does not do {task} of {workload} with {threads} threads")
        result = one.run(self.workloads[workload], task, threads, lambda create: peer.reset(self.connection, create))
        answer = {"seconds": result.seconds, "rows": result.rows}
        return answer if result.sum is None else answer | {"sum": result.sum}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs pg_predict's peers, asked by lines of JSON.")
    parser.add_argument("--socket", required=True, help="the directory of the server's unix socket")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--user", default="postgres")
    parser.add_argument("--database", default="postgres")
    parser.add_argument("--models", required=True, type=Path, help="the folder with linear.onnx, mlp.onnx and lgbm.onnx")
    parser.add_argument("--flights", required=True, type=Path, help="late.onnx")
    return parser.parse_args()


def main() -> None:
    # Others may print: what they take for standard output becomes standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peers = Peers(arguments())
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            question = json.loads(line)
            if question["do"] == "quit":
                break
            answer = peers.answer(question)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
