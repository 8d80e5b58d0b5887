"""Random queries, cancels, and signals to model processes, for a long time: memory stays flat, and nothing is left behind.

  soak.py SECONDS [SEED]     run.sh calls it, with a server reachable through libpq's environment variables

Several sessions stay connected all the time, so that a leak adds up. What must hold at the end: the server never restarted, no
session was lost, every answer was right, every error was an expected one, and the memory and the number of descriptors of each
backend and of its model process are no higher in the last quarter than in the second one, apart from noise.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psycopg

MODELS = Path(__file__).resolve().parent.parent / "models"
SESSIONS = 3
# 38000: the process ended. 57014: cancelled. 22023, 53400 and 53200: the process that validates a model ended.
EXPECTED = {"38000", "57014", "22023", "53400", "53200"}
SIGNALS = [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGSTOP]
# What a quarter may differ from another in kB: allocators keep some memory or give it back.
NOISE_KB = 24 * 1024
# Statements with the row that they must give.
STATEMENTS = [
    ("SELECT sum(predict('double', x)) FROM t", (2.0 * 20000 * 20001 / 2,)),
    ("SELECT count(*), sum(y::float8) FROM predictions((SELECT predict_batch('double', t) FROM t)) AS p(id int, y real)", (20000, 2.0 * 20000 * 20001 / 2)),
    ("SELECT predict('triple', 5::real)", (15.0,)),
    ("SELECT count(*) FROM (SELECT id % 50 AS g, predict_batch('double', x)::real[] AS b FROM t GROUP BY 1) s WHERE cardinality(b) = 400", (50,)),
    ("SELECT predict_text('words/translation', 'Größe') IS NOT NULL", (True,)),
    ("SELECT count(*) FROM t WHERE predict('triple', x) > 30000", (10000,)),
    ("SELECT sum(predict('slow', x::real)) IS NOT NULL FROM generate_series(1, 20) x", (True,)),
    ("SELECT predict.end_model_process() IS NOT NULL", (True,)),
    (f"SELECT predict.create_model_from_file('made', '{MODELS}/tap_triple.onnx') > 0", (True,)),
]


def connect() -> psycopg.Connection:
    return psycopg.connect(autocommit=True)


def children(pid: int) -> list[int]:
    """The processes that a backend started and that still run."""
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def usage(pid: int) -> tuple[int, int] | None:
    """The memory of a process in kB, without what it shares with the server, and its number of descriptors. None if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        # A process that has ended but was not waited for has no memory.
        kb = next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
        return kb, len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return None


class Soak:
    def __init__(self, seconds: float, seed: int) -> None:
        self.until = time.monotonic() + seconds
        self.began = time.monotonic()
        self.seconds = seconds
        self.seed = seed
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []
        self.pids: list[int] = []
        # (time, what, kB, descriptors)
        self.samples: list[tuple[float, str, int, int]] = []

    def going(self) -> bool:
        return time.monotonic() < self.until and not self.faults

    def reset(self, session: psycopg.Connection) -> None:
        """Takes the timeout back, which may be cancelled too."""
        while True:
            try:
                session.execute("RESET statement_timeout")
                return
            except psycopg.errors.QueryCanceled:
                self.outcomes["57014"] += 1

    def query(self, nth: int) -> None:
        try:
            self.queries(nth)
        except Exception as error:  # noqa: BLE001 - a thread that ends early must not go unnoticed
            self.faults.append(f"a session ended: {error!r}")

    def queries(self, nth: int) -> None:
        """One session: random statements until the time is over."""
        rng = random.Random(self.seed * 1000 + nth)
        session = connect()
        self.pids.append(session.info.backend_pid)
        session.execute("SET client_min_messages = error")
        while self.going():
            statement, right = rng.choice(STATEMENTS)
            try:
                if rng.random() < 0.1:
                    session.execute(f"SET statement_timeout = {rng.choice([1, 5, 20, 100])}")
                got = session.execute(statement).fetchone()
                self.outcomes["right"] += 1
                if got != right:
                    self.faults.append(f"{statement} gave {got}")
            except psycopg.Error as error:
                code = error.sqlstate or "lost"
                self.outcomes[code] += 1
                if session.broken or code not in EXPECTED:
                    self.faults.append(f"{statement}: {code} {error}")
                    return
            self.reset(session)
        # A cancel that was sent at the end may still arrive.
        time.sleep(1)
        self.reset(session)
        session.close()

    def disturb(self) -> None:
        """Cancels sessions, and sends signals to their model processes."""
        rng = random.Random(self.seed)
        control = connect()
        while self.going():
            time.sleep(rng.uniform(0, 0.4))
            pid = rng.choice(self.pids)
            if rng.random() < 0.4:
                control.execute("SELECT pg_cancel_backend(%s)", (pid,))
                continue
            for child in children(pid):
                try:
                    os.kill(child, rng.choice(SIGNALS))
                    self.outcomes["signals"] += 1
                except ProcessLookupError:
                    pass
        control.close()

    def watch(self) -> None:
        try:
            self.sample()
        except Exception as error:  # noqa: BLE001 - a thread that ends early must not go unnoticed
            self.faults.append(f"the watch ended: {error!r}")

    def sample(self) -> None:
        while self.going():
            time.sleep(min(2.0, self.seconds / 100))
            now = (time.monotonic() - self.began) / self.seconds
            for pid in self.pids:
                for process, what in [(pid, f"backend {pid}")] + [(child, "model process") for child in children(pid)]:
                    if used := usage(process):
                        self.samples.append((now, what, *used))

    def most(self, what: str, start: float, end: float, place: int) -> int:
        return max((s[place] for s in self.samples if s[1] == what and start <= s[0] < end), default=0)


def main() -> None:
    seconds = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 31)
    print(f"# seed {seed}", flush=True)
    control = connect()
    for name in ("double", "triple", "words"):
        control.execute("SELECT predict.create_model_from_file(%s, %s)", (name, f"{MODELS}/tap_{name}.onnx"))
    control.execute("SELECT predict.create_model_from_file('slow', %s)", (f"{MODELS}/slow.onnx",))
    control.execute("CREATE TABLE t AS SELECT i AS id, i::real AS x FROM generate_series(1, 20000) i; ANALYZE t")
    started = control.execute("SELECT pg_postmaster_start_time()").fetchone()
    soak = Soak(seconds, seed)
    threads = [threading.Thread(target=soak.query, args=(n,)) for n in range(SESSIONS)]
    for thread in threads:
        thread.start()
    while len(soak.pids) < SESSIONS and not soak.faults:
        time.sleep(0.05)
    threads += [threading.Thread(target=soak.disturb), threading.Thread(target=soak.watch)]
    for thread in threads[SESSIONS:]:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(60.0, seconds / 10))
        kb = {what: soak.samples and [s[2] for s in soak.samples if s[1] == what][-1:] for what in {s[1] for s in soak.samples}}
        print(f"# {time.monotonic() - soak.began:.0f} s: {dict(soak.outcomes)}, kB {kb}", flush=True)
    if soak.faults:
        raise SystemExit("not ok - " + "\n".join(soak.faults))
    if control.execute("SELECT pg_postmaster_start_time()").fetchone() != started:
        raise SystemExit("not ok - the server restarted")
    for what in sorted({s[1] for s in soak.samples}):
        for place, unit, noise in ((2, "kB", NOISE_KB), (3, "descriptors", 8)):
            before, after = soak.most(what, 0.25, 0.5, place), soak.most(what, 0.75, 1.1, place)
            print(f"# {what}: at most {before} {unit} in the second quarter, {after} in the last")
            if after > before + noise:
                raise SystemExit(f"not ok - {what}: the {unit} grow")
    left = [pid for pid in soak.pids for child in children(pid) if Path(f"/proc/{child}").exists()]
    if left:
        raise SystemExit(f"not ok - left behind: processes {left}")
    if not all(soak.most(f"backend {pid}", start, start + 0.25, 2) for pid in soak.pids for start in (0.25, 0.7)):
        raise SystemExit("not ok - the memory was not measured")
    if soak.outcomes["right"] < seconds or not soak.outcomes["signals"]:
        raise SystemExit("not ok - hardly anything ran")
    print(f"ok - {dict(soak.outcomes)}")


if __name__ == "__main__":
    main()
