"""Sends signals to model processes at random moments of queries, jobs and creations.

  kills.py COUNT [SEED]     run.sh calls it, with a server reachable through libpq's environment variables

What must hold: the statement ends within a second of the signal, with its result or with an expected error. The session and the
server go on, the next query gives the right answer, nothing wrong is committed, and no process is left behind.
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
SIGNALS = [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGSTOP, signal.SIGTERM]
# 38000: the process ended. 22023 and 53400: the process that validates a model ended, or had no memory.
EXPECTED = {"38000", "22023", "53400", "53200"}
CHECK = "SELECT sum(predict('double', x)) FROM t"
ANSWER = 2.0 * sum(range(1, 41))
STATEMENTS = {
    "query": "SELECT count(*), sum(predict('one_node', x)) FROM t",
    "aggregate": "SELECT count(*) FROM predictions((SELECT predict_batch('one_node', t) FROM t)) AS p(id int, y real)",
    "table": "CREATE TABLE kept AS SELECT id, predict('double', x) AS y FROM generate_series(1, 400000) i(id), LATERAL (SELECT id::real AS x) s",
    "creation": f"SELECT predict.create_model_from_file('again', '{MODELS}/tap_words.onnx')",
    "job": "CALL predict.run_job('j')",
}


def children(pid: int) -> list[int]:
    """The living children of a process."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(") ")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(parent) == pid and state != "Z":
                found.append(int(folder.name))
    return found


def connect() -> psycopg.Connection:
    return psycopg.connect(autocommit=True)


def main() -> None:
    count = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**31)
    rng = random.Random(seed)
    print(f"seed {seed}")
    control, session = connect(), connect()
    for name in ("double", "one_node"):
        control.execute("SELECT predict.create_model_from_file(%s, %s)", (name, f"{MODELS}/tap_{name}.onnx"))
    control.execute("CREATE TABLE t AS SELECT i AS id, i::real AS x FROM generate_series(1, 40) i; ANALYZE t")
    control.execute("SELECT predict.create_job('j', 'one_node', 't', 'id', 'scores')")
    started = control.execute("SELECT pg_postmaster_start_time()").fetchone()
    outcomes: Counter[str] = Counter()
    latest = 0.0
    for nth in range(count):
        kind = rng.choice(list(STATEMENTS))
        which = rng.choice(SIGNALS)
        pid = session.info.backend_pid
        sent = [0.0]

        def strike(pid: int = pid, which: signal.Signals = which, wait: float = rng.uniform(0, 0.6), sent: list[float] = sent) -> None:
            time.sleep(wait)
            for child in children(pid):
                try:
                    os.kill(child, which)
                    sent[0] = time.monotonic()
                except ProcessLookupError:
                    pass

        thread = threading.Thread(target=strike)
        session.execute("SET statement_timeout = '20s'")
        thread.start()
        try:
            session.execute(STATEMENTS[kind])
            outcome = "ended"
        except psycopg.Error as error:
            assert not session.closed, f"{kind}, {which.name}: the session was lost: {error}"
            outcome, message = error.sqlstate or "lost", str(error).splitlines()[0]
            assert outcome in EXPECTED, f"{kind}, {which.name}: {outcome} {error}"
        ended = time.monotonic()
        thread.join()
        if sent[0] and outcome != "ended":
            latest = max(latest, ended - sent[0])
            assert ended - sent[0] < 1, f"{kind}, {which.name}: {ended - sent[0]:.2f} s after the signal: {message}"
        outcomes[outcome] += 1
        answer = session.execute(CHECK).fetchone()
        assert answer == (ANSWER,), f"{kind}, {which.name}: the next query gives {answer}"
        left = children(pid)
        if not left:
            # The signal ended the process only after the answer: its thread that takes signals had to wait for a core.
            answer = session.execute(CHECK).fetchone()
            left = children(pid)
        assert answer == (ANSWER,) and len(left) == 1, f"{kind}, {which.name}: {answer}, processes {left}"
        kept = session.execute("SELECT to_regclass('kept')::text").fetchone()[0]
        if kept:
            wrong = session.execute("SELECT count(*) FROM kept WHERE y IS DISTINCT FROM 2.0 * id").fetchone()[0]
            rows = session.execute("SELECT count(*) FROM kept").fetchone()[0]
            assert (wrong, rows) == (0, 400000), f"{kind}, {which.name}: {wrong} of {rows} rows are wrong"
            session.execute("DROP TABLE kept")
    assert control.execute("SELECT pg_postmaster_start_time()").fetchone() == started, "the server restarted"
    pid = session.info.backend_pid
    left = children(pid)
    session.close()
    time.sleep(0.5)
    alive = [child for child in left if Path(f"/proc/{child}").exists()]
    assert not alive, f"processes are left behind: {alive}"
    print(f"{count} signals, latest end after {latest * 1000:.0f} ms: {dict(outcomes)}")


main()
