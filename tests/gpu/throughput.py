"""Rows per second of SQL on a GPU and on the CPU, beside ONNX Runtime in Python and PyTorch on the same machine.

  throughput.py OUT [--card] [--torch PYTHON] [--only NAME,NAME] [--quick] --models FOLDER --work FOLDER

scripts/gpu_check.sh calls it, with a server reachable through libpq's environment variables that load.py has filled. OUT.json
gets the figures, OUT.md the tables. Without --card the library runs on the CPU alone, and no figure is one of a GPU.

A figure is the median of at least three warm runs. SQL counts everything: reading the table, the values on their way to the
model, tokenising, and results back in the backend. `copies` is the share of ONNX Runtime's time in Python that goes away if
inputs and outputs stay on the GPU. `with pinned memory` is ONNX Runtime in Python whose inputs and outputs are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BENCHES = ROOT / "benches" / "models"
MINILM = ROOT / "target" / "packages" / "minilm"
FEATURES = "a, b, c, d, e, f, g, h, i, j"
FLIGHTS = ["month", "day", "sched_dep_time", "sched_arr_time", "distance", "hour", "carrier", "origin", "dest"]
SIZES = [64, 256, 1024, 4096, 8192]
TARGET = 0.9
"""The share of ONNX Runtime's throughput in Python that SQL must reach with the workloads of `HEAVY`."""
HEAVY = ("minilm", "resnet50")


@dataclass
class Workload:
    name: str
    title: str
    query: str
    table: str
    rows: int
    cpu_rows: int
    """Fewer on the CPU, where a heavy model takes long."""
    model: Path
    sizes: list[int]
    torch: bool
    more: dict[str, Any] = field(default_factory=dict)


def workloads(models: Path) -> list[Workload]:
    features = "SELECT sum(predict('{}', " + FEATURES + ")) FROM (SELECT * FROM features LIMIT {{rows}}) s"
    return [
        Workload("linear", "linear, 10 features", features.format("linear"), "features", 1_000_000, 1_000_000, BENCHES / "linear.onnx", SIZES, True),
        Workload("mlp", "MLP 10-64-64-1", features.format("mlp"), "features", 1_000_000, 1_000_000, BENCHES / "mlp.onnx", SIZES, True),
        Workload("lgbm", "LightGBM, 200 trees of 31 leaves", features.format("lgbm"), "features", 1_000_000, 1_000_000, BENCHES / "lgbm.onnx", SIZES, False),
        Workload(
            "flights", "flights: 6 numbers, 3 texts",
            "SELECT sum(predict('late/probabilities[2]', " + ", ".join(FLIGHTS) + ")) FROM (SELECT * FROM flights LIMIT {rows}) s",
            "flights", 300_000, 300_000, ROOT / "models" / "late.onnx", SIZES, False,
        ),
        Workload(
            "minilm", "MiniLM, tweets", "SELECT sum((embed('minilm', text))[1]) FROM (SELECT text FROM many_tweets LIMIT {rows}) s",
            "many_tweets", 33_600, 500, MINILM / "model.onnx", SIZES, True,
        ),
        Workload(
            "resnet50", "ResNet-50, pixels as bytea", "SELECT sum(predict('resnet50/scores[1]', pixels)) FROM (SELECT pixels FROM images LIMIT {rows}) s",
            "images", 4096, 64, models / "resnet50.onnx", [64, 256, 1024], True,
        ),
    ]  # fmt: skip


class Measurement:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.seconds = 0.2 if arguments.quick else 2.0
        self.device = "cuda" if arguments.card else "auto"
        arguments.work.mkdir(parents=True, exist_ok=True)

    def sql(self, work: Workload, device: str, size: int, rows: int) -> float:
        """Rows per second of a statement."""
        query = work.query.format(rows=rows)
        with psycopg.connect(autocommit=True) as c:
            for name, value in {"device": device, "batch_size": str(size), "max_batch_memory": "1GB"}.items():
                c.execute("SELECT set_config(%s, %s, false)", (f"pg_predict.{name}", value))
            c.execute("SET work_mem = '2GB'")
            c.execute("SET max_parallel_workers_per_gather = 0")
            c.execute(work.query.format(rows=min(rows, size)))
            took: list[float] = []
            least = 1 if rows <= 500 or self.arguments.quick else 3
            while len(took) < least or (sum(took) < self.seconds and len(took) < 20):
                started = time.perf_counter()
                c.execute(query)
                took.append(time.perf_counter() - started)
        return rows / sorted(took)[len(took) // 2]

    def peer(self, kind: str, python: str, work: Workload, device: str, sizes: list[int]) -> dict[str, Any]:
        """Figures of a peer by size, or `missing` with the reason."""
        job = {"name": work.name, "model": str(work.model), "sizes": sizes, "seconds": self.seconds, "device": device, **work.more}
        file = self.arguments.work / f"{work.name}.json"
        file.write_text(json.dumps(job))
        environment = dict(os.environ, ORT_DISABLE_TELEMETRY="1", ORT_TELEMETRY_DISABLED="1", TOKENIZERS_PARALLELISM="false")
        if kind == "torch":
            # The packages that came along are for another purpose: PyTorch takes those of its own machine.
            environment.pop("PYTHONPATH", None)
        done = subprocess.run([python, str(HERE / "peers.py"), kind, str(file)], capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            return {"missing": (done.stderr.strip().splitlines() or ["no output"])[-1]}
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return found

    def prepare(self, work: Workload) -> None:
        """Writes what the peers read of the database."""
        with psycopg.connect(autocommit=True) as c:
            if work.name == "minilm":
                c.execute("CREATE TABLE IF NOT EXISTS many_tweets AS SELECT text FROM tweets, generate_series(1, 8) nth ORDER BY nth, id")
                rows = c.execute("SELECT text FROM many_tweets LIMIT %s", (work.rows,)).fetchall()
                file = self.arguments.work / "texts.json"
                file.write_text(json.dumps([text for (text,) in rows]))
                work.more = {"texts": str(file), "tokenizer": str(MINILM / "tokenizer.json")}
            elif work.name == "flights":
                rows = c.execute(f"SELECT {', '.join(FLIGHTS)} FROM flights LIMIT 8192").fetchall()
                columns = {
                    name: {"kind": "text" if isinstance(rows[0][nth], str) else "float", "values": [row[nth] for row in rows]}
                    for nth, name in enumerate(FLIGHTS)
                }
                file = self.arguments.work / "columns.json"
                file.write_text(json.dumps(columns))
                work.more = {"columns": str(file)}
            else:
                found = c.execute("SELECT name FROM predict.model_inputs WHERE model = %s AND position = 1", (work.name,)).fetchone()
                assert found is not None
                work.more = {"input": found[0]}
            c.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
            c.execute("SELECT pg_prewarm(%s)", (work.table,))

    def run(self, work: Workload) -> dict[str, Any]:
        print(f"{work.name}: {work.title}", flush=True)
        sizes = work.sizes
        if self.arguments.quick:
            work.rows, work.cpu_rows = min(work.rows, 64 if work.name in HEAVY else 20_000), min(work.cpu_rows, 16 if work.name in HEAVY else 20_000)
            sizes = [16] if work.name in HEAVY else sizes[:3]
        self.prepare(work)
        result: dict[str, Any] = {"name": work.name, "title": work.title, "device": self.device, "sql": {}, "cpu": {}}
        for size in sizes:
            # A few full batches at least, and no more rows than there are.
            result["sql"][size] = self.sql(work, self.device, size, work.rows)
        for size in sizes[:2] if work.name in HEAVY else sizes:
            result["cpu"][size] = self.sql(work, "cpu", size, work.cpu_rows)
        peer_device = "cuda" if self.arguments.card else "cpu"
        result["onnxruntime"] = self.peer("onnxruntime", sys.executable, work, peer_device, sizes)
        if not work.torch:
            result["torch"] = {"missing": "it has no counterpart of this model"}
        elif not self.arguments.torch:
            result["torch"] = {"missing": "no Python with torch was found"}
        else:
            result["torch"] = self.peer("torch", self.arguments.torch, work, peer_device, sizes)
        print(json.dumps(result), flush=True)
        return result


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def peer_of(result: dict[str, Any], kind: str, size: int, what: str) -> float | None:
    value = result[kind].get("sizes", {}).get(str(size), {}).get(what)
    return None if value is None else float(value)


def tables(results: list[dict[str, Any]], machine: dict[str, str], card: bool) -> tuple[str, list[str]]:
    """The page of figures, and the targets that were missed."""
    lines = [f"Machine: {'; '.join(f'{name} {value}' for name, value in machine.items())}.", ""]
    if not card:
        lines += ["**No figure below is one of a GPU**: there was none, and the device `auto` fell back to the CPU.", ""]
    missed = []
    for result in results:
        lines += [
            f"### {result['title']}", "",
            f"| batch size | SQL, {result['device']} | SQL, cpu | ONNX Runtime in Python | SQL / ONNX Runtime | with pinned memory | copies | torch |",
            "|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]  # fmt: skip
        best_raw = best_sql = 0.0
        for size, rate in result["sql"].items():
            raw = peer_of(result, "onnxruntime", size, "all")
            run, device = peer_of(result, "onnxruntime", size, "run"), peer_of(result, "onnxruntime", size, "device")
            best_raw, best_sql = max(best_raw, raw or 0.0), max(best_sql, rate)
            ratio = f"{rate / raw:.2f}" if raw else "–"
            copies = f"{max(0.0, 1 - run / device):.0%}" if run and device else "–"
            cells = [str(size), figure(rate), figure(result["cpu"].get(size)), figure(raw), ratio]
            cells += [figure(peer_of(result, "onnxruntime", size, "pinned")), copies, figure(peer_of(result, "torch", size, "all"))]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
        for kind in ("onnxruntime", "torch"):
            if "missing" in result[kind]:
                lines += [f"{kind}: not measured, {result[kind]['missing']}.", ""]
        best_cpu = max(result["cpu"].values())
        pays = [size for size, rate in result["sql"].items() if rate > best_cpu]
        if card:
            lines += [f"The GPU pays from batches of {min(pays)} rows on." if pays else "The GPU does not pay at any of these sizes.", ""]
            if result["name"] in HEAVY and not best_sql >= TARGET * best_raw > 0:
                missed.append(f"{result['name']}: {best_sql:,.0f} rows a second are less than {TARGET} of ONNX Runtime's {best_raw:,.0f}")
    return "\n".join(lines), missed


def machine_of(card: bool) -> dict[str, str]:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    found = {"CPU": f"{names[0] if names else platform.machine()} x {os.cpu_count()}", "kernel": platform.release()}
    if card:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader", "--id=0"]
        found["GPU"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    with psycopg.connect(autocommit=True) as c:
        for name, query in {"PostgreSQL": "SHOW server_version", "ONNX Runtime": "SELECT predict.runtime()", "isolation": "SHOW pg_predict.isolation"}.items():
            row = c.execute(query).fetchone()
            found[name] = row[0] if row else ""
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--card", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--torch", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    only = set(arguments.only.split(",")) - {""}
    measurement = Measurement(arguments)
    chosen = [work for work in workloads(arguments.models) if not only or work.name in only]
    if not chosen:
        raise SystemExit(f"there is no workload of these: {arguments.only}")
    machine, results = machine_of(arguments.card), []
    for work in chosen:
        results.append(measurement.run(work))
        # What is there already counts, if the time ends before the last workload does.
        page, missed = tables(results, machine, arguments.card)
        # JSON has no numbers as keys; what was measured is read back in that form.
        arguments.out.with_suffix(".json").write_text(json.dumps({"machine": machine, "card": arguments.card, "workloads": results}, indent=1))
        arguments.out.with_suffix(".md").write_text(page + "\n")
    print(page)
    for line in missed:
        print(f"MISSED: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
