"""What a peer is: a name, what it can do, and a run of it with the clock around the whole task.

It owns the words that all peers share (the server's address, halves of a table, the table that is written) and must not
know any peer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from workload import Workload

OUT = "bench_peer_out"
ALL = ("linear", "mlp", "lgbm", "flights")


@dataclass(frozen=True)
class Server:
    """Where the server listens."""

    socket: str
    port: int
    user: str
    database: str

    @property
    def conninfo(self) -> str:
        return f"host={self.socket} port={self.port} user={self.user} dbname={self.database}"

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.conninfo, autocommit=True)


@dataclass
class Result:
    """What a run came to."""

    rows: int
    # The sum of the scores; none where they were written.
    sum: float | None = None
    seconds: float = 0.0


@dataclass
class Peer:
    """A peer. `prepare` makes everything warm and gives the run, which is timed."""

    name: str
    title: str
    prepare: Callable[[Workload, str, int], Callable[[], Result]]
    tasks: tuple[str, ...] = ("score", "write")
    workloads: tuple[str, ...] = ALL
    threads: tuple[int, ...] = (1, 2)
    # The numbers of threads with which it makes the table that it writes.
    creates: tuple[int, ...] = ()
    # What was prepared, by workload, task and threads.
    warm: dict[tuple[str, str, int], Callable[[], Result]] = field(default_factory=dict)

    def run(self, workload: Workload, task: str, threads: int, reset: Callable[[bool], None]) -> Result:
        """One run: warm first, then `reset` the table that is written, then the clock."""
        key = (workload.name, task, threads)
        if key not in self.warm:
            self.warm[key] = self.prepare(workload, task, threads)
        if task == "write":
            reset(threads not in self.creates)
        started = time.perf_counter()
        result = self.warm[key]()
        result.seconds = time.perf_counter() - started
        return result


def parts(connection: psycopg.Connection, table: str, count: int) -> list[str]:
    """WHERE clauses that cut a table into ranges of pages, which PostgreSQL scans without looking at other pages."""
    pages = connection.execute("SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::bigint", [table]).fetchone()[0]
    cuts = [pages * i // count for i in range(1, count)]
    lower = [""] + [f"ctid >= '({cut},0)'" for cut in cuts]
    upper = [f"ctid < '({cut},0)'" for cut in cuts] + [""]
    clauses = [" AND ".join(filter(None, pair)) for pair in zip(lower, upper)]
    return [f"WHERE {clause}" if clause else "" for clause in clauses]


def reset(connection: psycopg.Connection, create: bool) -> None:
    """Drops what was written before, makes an empty logged table where the peer does not, and leaves nothing to flush."""
    connection.execute("SET client_min_messages = warning")
    connection.execute(f"DROP TABLE IF EXISTS {OUT}")
    if create:
        connection.execute(f"CREATE TABLE {OUT} (id integer, score real)")
    connection.execute("CHECKPOINT")
