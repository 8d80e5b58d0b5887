"""What must hold on a GPU. scripts/gpu_check.sh calls it, with a server reachable through libpq's environment variables.

  check.py OUT [--card] [--models FOLDER]

Without --card there is no GPU, or the library has no CUDA. Each test then shows what can be shown: those that compare results
run with the device `auto`, which falls back to the CPU. Those that need a GPU run their statement too, which must fail with
SQLSTATE 55000 and say what is missing. They count as `needs a card`.

OUT gets one line of JSON for each test. The exit status is 1 if a test failed, and 3 if none failed but some need a card.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "reference"))

from cases import CASES  # noqa: E402

MB = 1 << 20
LINEAR = ROOT / "benches" / "models" / "linear.onnx"
MINILM = ROOT / "target" / "packages" / "minilm"
RELATIVE, ABSOLUTE = 1e-2, 2e-3
"""The tolerance of a GPU: products of matrices are computed in TF32 there, with 10 bits of mantissa."""
ROWS = 20_000
"""Rows of each table that are compared."""
CANCEL = 0.1
"""Seconds in which a cancel must be honoured."""


class NeedsCard(Exception):
    """The rest of a test needs a GPU, and there is none."""


class Check:
    """The tests, and what they share."""

    def __init__(self, card: bool, models: Path) -> None:
        self.card = card
        self.models = models
        self.device = "cuda" if card else "auto"
        self.connections: list[psycopg.Connection] = []
        self.isolated = self.one("SHOW pg_predict.isolation", self.connect("cpu")) == "process"

    def connect(self, device: str, **settings: str) -> psycopg.Connection:
        connection = psycopg.connect(autocommit=True)
        self.connections.append(connection)
        for name, value in {"device": device, "max_batch_memory": "1GB", **settings}.items():
            connection.execute("SELECT set_config(%s, %s, false)", (f"pg_predict.{name}", value))
        connection.execute("SET work_mem = '1GB'")
        return connection

    def close(self) -> None:
        """Ends the sessions of a test. Their processes are gone when this returns."""
        pids = [c.info.backend_pid for c in self.connections if not c.closed]
        for connection in self.connections:
            connection.close()
        self.connections.clear()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)

    def one(self, query: str, connection: psycopg.Connection, *parameters: Any) -> Any:
        row = connection.execute(query, parameters).fetchone()
        assert row is not None
        return row[0]

    def error(self, query: str, connection: psycopg.Connection) -> psycopg.Error:
        try:
            connection.execute(query)
        except psycopg.Error as error:
            return error
        raise AssertionError(f"no error: {query}")

    def seconds(self, query: str, connection: psycopg.Connection) -> float:
        started = time.monotonic()
        self.one(query, connection)
        return time.monotonic() - started

    def need_card(self, query: str) -> None:
        """Goes on if there is a GPU. Else asks for one all the same: the error must say what is missing."""
        if self.card:
            return
        error = self.error(query, self.connect("cuda"))
        assert error.sqlstate == "55000", f"{error.sqlstate}: {error}"
        raise NeedsCard(error.diag.message_primary or "")

    def memory(self) -> int:
        """The memory of the first GPU that is in use, in MB."""
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip())

    def settled(self, most: int, seconds: float = 10) -> int:
        """The memory in use, once it is at most `most` or the time is over."""
        deadline = time.monotonic() + seconds
        while (used := self.memory()) > most and time.monotonic() < deadline:
            time.sleep(0.2)
        return used

    # Devices

    def test_a_gpu_gives_the_answers_of_the_cpu_by_every_name(self) -> str:
        query = "SELECT array_agg(predict('linear', a, b, c, d, e, f, g, h, i, j) ORDER BY id) FROM features WHERE id <= 5000"
        wanted = self.one(query, self.connect("cpu"))
        names = ["cuda", "cuda:0", "auto"] if self.card else ["auto"]
        for name in names:
            got = self.one(query, self.connect(name))
            assert close(got, wanted), f"{name}: {got[:3]} and not {wanted[:3]}"
        self.need_card(query)
        return f"5000 rows by each of {', '.join(names)}"

    def test_a_number_without_a_gpu_is_an_error(self) -> str:
        error = self.error("SELECT predict('linear', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)", self.connect("cuda:99"))
        assert error.sqlstate == "55000" and error.diag.message_hint, f"{error.sqlstate}: {error}"
        message = error.diag.message_primary or ""
        if not self.card:
            raise NeedsCard(message)
        assert "there is no card with this number" in message, f"{message} ({error.diag.message_detail})"
        return message

    def test_auto_takes_the_gpu_and_says_so(self) -> str:
        c = self.connect("auto")
        c.execute("SELECT predict('linear', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)")
        shown = self.one("SELECT device FROM predict.stat_sessions WHERE pid = pg_backend_pid()", c)
        assert shown == ("cuda" if self.card else "cpu"), shown
        self.need_card("SELECT predict('linear', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)")
        return shown

    def test_statements_and_views_name_the_device(self) -> str:
        c = self.connect("")
        c.execute("SELECT predict.create_model('on_gpu', %s, '{\"device\": \"cuda\"}')", (LINEAR.read_bytes(),))
        try:
            described = self.one("SELECT predict.describe('on_gpu')", c)
            assert "-- Runs on the device cuda" in described, described
            plan = c.execute("EXPLAIN (VERBOSE) SELECT predict('on_gpu', a, b, c, d, e, f, g, h, i, j) FROM features").fetchall()
            assert any("Device: cuda" in line for (line,) in plan), plan
            self.need_card("SELECT predict('linear', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)")
            c.execute("SELECT predict('on_gpu', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)")
            shown = self.one("SELECT device FROM predict.stat_sessions WHERE pid = pg_backend_pid() AND model = 'on_gpu'", c)
            assert shown == "cuda", shown
        finally:
            c.execute("SELECT predict.drop_model('on_gpu')")
        return "describe(), EXPLAIN and predict.stat_sessions"

    # Memory

    def test_a_model_above_the_memory_limit_is_an_error(self) -> str:
        query = "SELECT predict('many_weights', 1, 2, 3, 4, 5, 6, 7, 8)"
        self.need_card(query)
        c = self.connect("cuda", gpu_memory_limit="64MB")
        error = self.error(query, c)
        assert error.sqlstate == "53200", f"{error.sqlstate}: {error} ({error.diag.message_detail})"
        c.execute("SET pg_predict.gpu_memory_limit = 0")
        assert math.isfinite(self.one(query, c)), "the session does not go on"
        return error.diag.message_primary or ""

    def test_a_run_above_the_memory_limit_is_an_error(self) -> str:
        query = "SELECT sum(predict('resnet50/scores[1]', pixels)) FROM images"
        self.need_card(query)
        c = self.connect("cuda", gpu_memory_limit="1GB", batch_size="1024")
        error = self.error(query, c)
        assert error.sqlstate == "53200", f"{error.sqlstate}: {error} ({error.diag.message_detail})"
        c.execute("SET pg_predict.batch_size = 4")
        assert math.isfinite(self.one(f"{query} WHERE id <= 8", c)), "the session does not go on"
        return error.diag.message_primary or ""

    def test_memory_comes_back_after_a_query_a_job_and_the_process(self) -> str:
        query = "SELECT sum(predict('resnet50/scores[1]', pixels)) FROM images"
        self.need_card(query)
        before = self.memory()
        c = self.connect("cuda", batch_size="256")
        self.one("SELECT predict('resnet50/scores[1]', pixels) FROM images LIMIT 1", c)
        loaded = self.memory()
        peak = [loaded]
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                peak[0] = max(peak[0], self.memory())

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            self.one(query, c)
            c.execute("SELECT predict.create_job('gpu', 'resnet50', 'images', 'id', 'gpu_scores')")
            c.execute("CALL predict.run_job('gpu')")
        finally:
            ended.set()
            watching.join()
        # What runs took above the loaded model, of which a small part may stay.
        idle = self.settled(loaded + 256)
        assert idle <= loaded + 256, f"{before} MB before, {loaded} loaded, {peak[0]} at most, {idle} after the job"
        if self.isolated:
            c.execute("SELECT predict.end_model_process()")
        else:
            self.close()
        after = self.settled(before + 32)
        assert after <= before + 32, f"{before} MB before, {after} after the process"
        return f"{before} MB before, {loaded} loaded, {peak[0]} at most, {idle} after the job, {after} after the process"

    # Runs

    def test_a_cancel_is_honoured_in_the_middle_of_a_kernel(self) -> str:
        """A run that takes seconds in one kernel. Without a GPU the same run on the CPU."""
        c = self.connect(self.device, batch_size="512")
        query = "SELECT sum(predict('long_kernel', x)) FROM generate_series(1, {}) i, LATERAL (SELECT 1::real AS x) s"
        rows, took = 512, 0.0
        c.execute("SET statement_timeout = '60s'")
        self.one(query.format(1), c)
        while took < 1.5 and rows < 1 << 20:
            rows *= 2
            took = min(self.seconds(query.format(rows), c) for _ in range(2))
        runs = rows / 512
        # Less than a third, because other work of the machine may have slowed both runs.
        wait = took / 5
        c.execute(f"SET statement_timeout = '{int(wait * 1000)}ms'")
        started = time.monotonic()
        error = self.error(query.format(rows), c)
        late = time.monotonic() - started - int(wait * 1000) / 1000
        assert error.sqlstate == "57014", f"{error.sqlstate}: {error}"
        # A machine without a GPU builds and tests other things at the same time.
        assert late < (CANCEL if self.card else 5 * CANCEL), f"the cancel took {late * 1000:.0f} ms"
        c.execute("SET statement_timeout = 0")
        assert self.one(query.format(2), c) == 2 * (1 << 18), "the next query gives a wrong answer"
        self.need_card(query.format(1))
        return f"{rows} rows in {runs:.0f} runs take {took:.2f} s; the cancel took {late * 1000:.0f} ms"

    def test_two_backends_share_a_gpu(self) -> str:
        query = "SELECT array_agg(predict('mlp', a, b, c, d, e, f, g, h, i, j) ORDER BY id) FROM features"
        wanted = self.one(query, self.connect("cpu"))
        answers: list[Any] = [None, None]

        def ask(nth: int, c: psycopg.Connection) -> None:
            try:
                for _ in range(3):
                    answers[nth] = self.one(query, c)
            except psycopg.Error as error:
                answers[nth] = error

        sessions = [self.connect(self.device), self.connect(self.device)]
        threads = [threading.Thread(target=ask, args=(nth, c)) for nth, c in enumerate(sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for answer in answers:
            assert isinstance(answer, list), answer
            assert close(answer, wanted)
        shown = sessions[0].execute("SELECT device FROM predict.stat_sessions WHERE model = 'mlp' AND pid = ANY (%s)",
                                    ([c.info.backend_pid for c in sessions],)).fetchall()  # fmt: skip
        assert shown == [("cuda" if self.card else "cpu",)] * 2, shown
        self.need_card(query)
        return f"{len(wanted)} rows, three times in each"

    def least_cosine(self, query: str) -> float:
        """Checks that a query of arrays, written as text, gives what it gives on the CPU. Returns the least cosine of two arrays."""

        def arrays(c: psycopg.Connection) -> list[list[float]]:
            return [[float(x) for x in text.strip("{}").split(",")] for text in self.one(query, c)]

        wanted, got = arrays(self.connect("cpu")), arrays(self.connect(self.device))
        worst = min(cosine(a, b) for a, b in zip(got, wanted, strict=True))
        assert worst > 0.999, worst
        self.need_card(query)
        return worst

    def test_embeddings_of_texts_are_those_of_the_cpu(self) -> str:
        worst = self.least_cosine("SELECT array_agg(embed('minilm', text)::text ORDER BY id) FROM tweets WHERE id <= 200")
        return f"200 texts, cosine at least {worst:.6f}"

    def test_scores_of_images_are_those_of_the_cpu(self) -> str:
        worst = self.least_cosine("SELECT array_agg(predict_array('resnet50', pixels)::text ORDER BY id) FROM images WHERE id <= 8")
        return f"8 images, cosine at least {worst:.6f}"

    def test_every_model_gives_the_answers_of_the_cpu(self) -> str:
        created = {name for (name,) in self.connect("cpu").execute("SELECT name FROM predict.models").fetchall()}
        compared = []
        for case in CASES:
            if case.name not in created:
                compared.append(f"{case.name}: this machine has not its locale")
                continue
            columns = ", ".join(f'"{name}"' for name in case.columns)
            query = f"SELECT predict_json('{case.name}', {columns}) FROM {case.table} WHERE id <= {ROWS} ORDER BY id"
            wanted = self.connect("cpu").execute(query).fetchall()
            got = self.connect(self.device).execute(query).fetchall()
            assert len(got) == len(wanted) > 0, case.name
            wrong = [n for n, (a, b) in enumerate(zip(got, wanted, strict=True)) if not close(a[0], b[0])]
            # A row at the border of two classes may get the other one.
            assert len(wrong) <= len(wanted) // 1000, f"{case.name}: {len(wrong)} rows, such as {got[wrong[0]]} and not {wanted[wrong[0]]}"
            compared.append(f"{case.name} {len(wanted)} rows" + (f", {len(wrong)} at a border" if wrong else ""))
            self.close()
        self.need_card("SELECT predict('linear', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)")
        return "; ".join(compared)

    def test_the_sandbox_has_the_profile_of_the_device(self) -> str:
        if not self.isolated:
            return "not asked: models run in the backend"
        c = self.connect(self.device)
        c.execute("SELECT predict('linear', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)")
        report = self.one("SELECT predict.sandbox()", c)
        assert report["seccomp"] in (f"profile {'cuda' if self.card else 'cpu'}", "not available in this kernel"), report
        self.need_card("SELECT predict('linear', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)")
        used = status_of(report["pid"])
        return f"{report}; its private memory takes {used['VmData']}, its addresses {used['VmPeak']}"


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def close(a: Any, b: Any) -> bool:
    """Whether two values of JSON are alike: numbers within the tolerance, all else exactly."""
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(close(x, y) for x, y in zip(a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    return bool(a == b)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--card", action="store_true")
    parser.add_argument("--models", type=Path, required=True)
    arguments = parser.parse_args()
    check = Check(arguments.card, arguments.models)
    tests: list[tuple[str, Callable[[], str]]] = [
        (name.removeprefix("test_").replace("_", " "), getattr(check, name)) for name in vars(Check) if name.startswith("test_")
    ]
    results = []
    with arguments.out.open("w") as out:
        for name, test in tests:
            started = time.monotonic()
            try:
                result, note = "passed", test()
            except NeedsCard as error:
                result, note = "needs a card", str(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test failed and the next one runs
                result, note = "FAILED", "".join(traceback.format_exception(error)).strip().replace("\n", " | ")
                detail = error.diag.message_detail if isinstance(error, psycopg.Error) else None
                note += f" | DETAIL: {detail}" if detail else ""
            check.close()
            results.append(result)
            line = {"test": name, "result": result, "note": note, "seconds": round(time.monotonic() - started, 1)}
            out.write(json.dumps(line) + "\n")
            out.flush()
            print(f"{result}: {name} ({line['seconds']} s): {note[-600:]}", flush=True)
    return 1 if "FAILED" in results else 3 if "needs a card" in results else 0


if __name__ == "__main__":
    sys.exit(main())
