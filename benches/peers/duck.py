"""The peers inside DuckDB: `duckdb` reads the server's table through DuckDB's postgres extension, `duckdb_copy` reads a copy
that DuckDB keeps in its own columns.

Both run the model in a vectorised UDF over Arrow arrays, 2,048 rows a call, which is DuckDB's vector and cannot be set.
It owns one DuckDB database in memory, and must not read the server in any other way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import duckdb_extension_postgres_scanner
import pyarrow as pa

from clients import strings
from peer import OUT, Peer, Result, Server
from workload import Workload, session


class Duck:
    """One DuckDB, with the server attached as `pg`."""

    def __init__(self, server: Server):
        self.server = server
        self.database: duckdb.DuckDBPyConnection | None = None
        self.known: set[str] = set()

    def start(self) -> duckdb.DuckDBPyConnection:
        """Opens DuckDB when it is first needed. The extension is the one of the installed package: nothing is fetched."""
        if self.database is None:
            self.database = duckdb.connect(config={"autoinstall_known_extensions": False})
            folder = Path(duckdb_extension_postgres_scanner.__file__).parent
            self.database.execute(f"LOAD '{next(folder.rglob('*.duckdb_extension'))}'")
            self.database.execute(f"ATTACH '{self.server.conninfo}' AS pg (TYPE postgres)")
        return self.database

    def teach(self, workload: Workload, intra: int) -> str:
        """Makes the model known as a function, whose session has `intra` threads, and gives its name."""
        name = f"score_{workload.name}_{intra}"
        if name in self.known:
            return name
        session(workload.model, intra)
        width = len(workload.numbers)

        def score(columns: tuple[pa.Array | pa.ChunkedArray, ...]) -> pa.Array:
            flat = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in columns]
            texts = [strings(column) for column in flat[width:]]
            return pa.array(workload.infer(workload.feeds([column.to_numpy() for column in flat[:width]], texts), intra))

        # DuckDB counts the parameters, so the function must name them.
        names = ", ".join(f"c{i}" for i in range(len(workload.columns)))
        function = eval(f"lambda {names}: score(({names}))", {"score": score})
        types = ["FLOAT"] * width + ["VARCHAR"] * len(workload.texts)
        self.database.create_function(name, function, types, "FLOAT", type="arrow")
        self.known.add(name)
        return name

    def prepare(self, copied: bool, workload: Workload, task: str, threads: int) -> Callable[[], Result]:
        database = self.start()
        # Two threads of DuckDB write to PostgreSQL no faster than one: there the model gets the threads.
        duck, intra = (1, threads) if task == "write" else (threads, 1)
        name = self.teach(workload, intra)
        if copied:
            database.execute(f"CREATE TABLE IF NOT EXISTS {workload.table} AS SELECT * FROM pg.{workload.table}")
        table = workload.table if copied else f"pg.{workload.table}"
        call = f"{name}({', '.join(workload.columns)})"
        database.execute(f"SELECT {call} FROM {table} LIMIT 1").fetchall()

        def score() -> Result:
            rows, total = database.execute(f"SELECT count(*), sum({call}::DOUBLE) FROM {table}").fetchone()
            return Result(rows, total)

        def write() -> Result:
            return Result(database.execute(f"INSERT INTO pg.{OUT} SELECT id, {call} FROM {table}").fetchone()[0])

        def run() -> Result:
            # A setting of microseconds, here because the peers of this file share one DuckDB.
            database.execute(f"SET threads = {duck}")
            if task == "score":
                return score()
            # The table was made anew behind DuckDB's back.
            database.execute("CALL pg_clear_cache()")
            return write()

        return run


def peers(server: Server) -> list[Peer]:
    """The peers of this file."""
    duck = Duck(server)
    return [
        Peer("duckdb", "DuckDB over the PostgreSQL table, Arrow UDF", lambda *what: duck.prepare(False, *what)),
        Peer("duckdb_copy", "DuckDB over its own copy, Arrow UDF", lambda *what: duck.prepare(True, *what), tasks=("score",)),
    ]
