"""The peers inside the server: functions of PL/Python that keep their session in GD.

It owns the functions `peer_*` in the database and makes them when they are first needed. The model goes to the server as
bytes, so that only the Python packages must be readable there.

Two threads are two connections, each over its half of the table.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from peer import OUT, Peer, Result, Server, parts
from workload import Workload

# Rows that a cursor fetches at a time, and rows of a pack. 1,000 to 10,000 differ by less than 5 %; packs of 8,192 fill the
# arrays that array_agg doubles, so that all packs together stay within the memory of a hash aggregate.
FETCH = 4096
PACK = 8192

# Rows that the function of one row a call is run over.
SAMPLE = 20000

# A session in GD, with the same options as everywhere, and `score`, which takes an array of PostgreSQL as array_send makes
# it (dimensions, then length and value of each element, big-endian) and columns of texts. That form is taken because
# PL/Python would make a Python object of every element of an array.
FUNCTIONS = """
CREATE OR REPLACE FUNCTION peer_load(workload text, model bytea, texts text[], numbers text[], output text, place integer)
RETURNS void LANGUAGE plpython3u AS $$
{packages}
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
options.add_session_config_entry("session.set_denormal_as_zero", "1")
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
# Parameters are gone when the call ends; what `run` needs must be local.
number_names, text_names, output_name, column = numbers, texts, output, place
width = len(numbers)
element = np.dtype([("length", ">i4"), ("value", ">f4")])
row = np.dtype([("header", "V20"), ("elements", element, width)])

def run(matrix, columns):
    if not text_names:
        feeds = {{"x": matrix}}
    else:
        feeds = {{name: matrix[:, i : i + 1] for i, name in enumerate(number_names)}}
        feeds.update((name, np.array(values, object).reshape(-1, 1)) for name, values in zip(text_names, columns))
    return session.run([output_name], feeds)[0][:, column]

def rows(arrays, columns):
    matrix = np.frombuffer(b"".join(arrays), row)["elements"]["value"].astype(np.float32)
    return run(matrix, columns)

def pack(array, columns):
    matrix = np.frombuffer(array, element, offset=28)["value"].astype(np.float32).reshape(-1, width)
    return run(matrix, columns)

GD[workload] = {{"rows": rows, "pack": pack, "texts": texts, "session": session, "output": output, "place": place, "numpy": np}}
$$;

CREATE OR REPLACE FUNCTION peer_cursor_score(workload text, query text, OUT n bigint, OUT total float8)
LANGUAGE plpython3u AS $$
known = GD[workload]
score, texts = known["rows"], known["texts"]
cursor = plpy.cursor(query)
n, total = 0, 0.0
while rows := cursor.fetch({fetch}):
    scores = score([r["x"] for r in rows], [[r[name] for r in rows] for name in texts])
    n += len(scores)
    total += float(scores.sum(dtype="float64"))
return n, total
$$;

CREATE OR REPLACE FUNCTION peer_cursor_rows(workload text, query text) RETURNS TABLE (id integer, score real)
LANGUAGE plpython3u AS $$
known = GD[workload]
score, texts = known["rows"], known["texts"]
cursor = plpy.cursor(query)
while rows := cursor.fetch({fetch}):
    scores = score([r["x"] for r in rows], [[r[name] for r in rows] for name in texts])
    yield from zip([r["id"] for r in rows], scores.tolist())
$$;

CREATE OR REPLACE FUNCTION peer_pack_sum(workload text, x bytea, c1 text[], c2 text[], c3 text[]) RETURNS float8
LANGUAGE plpython3u AS $$
return float(GD[workload]["pack"](x, (c1, c2, c3)).sum(dtype="float64"))
$$;

CREATE OR REPLACE FUNCTION peer_pack_scores(workload text, x bytea, c1 text[], c2 text[], c3 text[]) RETURNS real[]
LANGUAGE plpython3u AS $$
return GD[workload]["pack"](x, (c1, c2, c3)).tolist()
$$;
"""

# What people write: one row a call.
ROW = """
CREATE OR REPLACE FUNCTION peer_row_{name}({parameters}) RETURNS real LANGUAGE plpython3u AS $$
known = GD["{name}"]
np = known["numpy"]
return float(known["session"].run([known["output"]], {feeds})[0][0, known["place"]])
$$
"""


class PlPython:
    """Two connections whose backends stay, as do their sessions."""

    def __init__(self, server: Server):
        self.server = server
        self.connections: list[psycopg.Connection] = []
        self.loaded: set[tuple[int, str]] = set()
        self.pool = ThreadPoolExecutor(2)

    def why_not(self) -> str | None:
        """Why the server cannot run these peers, or nothing."""
        try:
            with self.server.connect() as connection:
                connection.execute("SET client_min_messages = warning")
                connection.execute("CREATE EXTENSION IF NOT EXISTS plpython3u")
                connection.execute(f"DO LANGUAGE plpython3u $$\n{packages()}\nimport numpy, onnxruntime\n$$")
        except psycopg.Error as error:
            return str(error).split("\n")[0]
        return None

    def load(self, workload: Workload, threads: int) -> list[psycopg.Connection]:
        """As many connections as threads, with the model loaded."""
        while len(self.connections) < threads:
            connection = self.server.connect()
            if not self.connections:
                connection.execute(FUNCTIONS.format(packages=packages(), fetch=FETCH))
            self.connections.append(connection)
        for place, connection in enumerate(self.connections[:threads]):
            if (place, workload.name) not in self.loaded:
                arguments = (workload.name, workload.model.read_bytes(), list(workload.texts), list(workload.numbers))
                connection.execute("SELECT peer_load(%s, %b, %s, %s, %s, %s)", [*arguments, workload.output, workload.column])
                self.loaded.add((place, workload.name))
        return self.connections[:threads]

    def prepare(self, form: Callable[[Workload, str, str], str], workload: Workload, task: str, threads: int) -> Callable[[], Result]:
        """`form` makes the statement of a task over a part of the table."""
        connections = self.load(workload, threads)
        statements = [form(workload, task, part) for part in parts(connections[0], workload.table, threads)]
        for connection in connections:
            connection.execute(form(workload, "score", "WHERE ctid < '(1,0)'"))
        if task == "write" and threads == 1:
            # Alone, CREATE TABLE AS is natural, and no slower than INSERT.
            return lambda: Result(connections[0].execute(f"CREATE TABLE {OUT} AS {statements[0]}").rowcount)

        def one(connection: psycopg.Connection, statement: str) -> Result:
            if task == "write":
                return Result(connection.execute(f"INSERT INTO {OUT} {statement}").rowcount)
            return Result(*connection.execute(statement).fetchone())

        def run() -> Result:
            results = list(self.pool.map(one, connections, statements))
            sums = [result.sum for result in results]
            return Result(sum(result.rows for result in results), None if None in sums else sum(sums))

        return run

    def prepare_row(self, workload: Workload, task: str, threads: int) -> Callable[[], Result]:
        """The sample is what the table begins with: the rows up to id 20,000."""
        connection = self.load(workload, 1)[0]
        typed = [f"{name} real" for name in workload.numbers] + [f"{name} text" for name in workload.texts]
        if workload.texts:
            numbers = [f'"{name}": np.array([[{name}]], np.float32)' for name in workload.numbers]
            texts = [f'"{name}": np.array([[{name}]], object)' for name in workload.texts]
            feeds = f"{{{', '.join(numbers + texts)}}}"
        else:
            feeds = f'{{"x": np.array([[{", ".join(workload.numbers)}]], np.float32)}}'
        connection.execute(ROW.format(name=workload.name, parameters=", ".join(typed), feeds=feeds))
        call = f"peer_row_{workload.name}({', '.join(workload.columns)})"
        query = f"SELECT count(*), sum({call}::float8) FROM (SELECT * FROM {workload.table} LIMIT {{}}) t"
        beyond = f"SELECT count(*) FROM (SELECT id FROM {workload.table} LIMIT {SAMPLE}) t WHERE id > {SAMPLE}"
        if connection.execute(beyond).fetchone()[0]:
            raise RuntimeError(f"{workload.table} does not begin with the ids up to {SAMPLE}")
        connection.execute(query.format(100))
        return lambda: Result(*connection.execute(query.format(SAMPLE)).fetchone())


def packages() -> str:
    """What a function does before it imports: the packages of this virtual environment, by the path that the server's user
    can reach, and nothing of ONNX Runtime's telemetry."""
    site = Path(sysconfig.get_path("platlib")).resolve()
    return f"""import os, sys
if "{site}" not in sys.path:
    sys.path.insert(0, "{site}")
os.environ['ORT_DISABLE_TELEMETRY'] = os.environ['ORT_TELEMETRY_DISABLED'] = '1'"""


def by_cursor(workload: Workload, task: str, part: str) -> str:
    """A function that reads the table by a cursor."""
    columns = [f"array_send(ARRAY[{', '.join(workload.numbers)}]) AS x", *workload.texts]
    if task == "write":
        columns.insert(0, "id")
    query = f"SELECT {', '.join(columns)} FROM {workload.table} {part}".replace("'", "''")
    if task == "score":
        return f"SELECT * FROM peer_cursor_score('{workload.name}', '{query}')"
    return f"SELECT * FROM peer_cursor_rows('{workload.name}', '{query}')"


def by_packs(workload: Workload, task: str, part: str) -> str:
    """A function over packs of rows that SQL aggregates."""
    texts = [f"array_agg({name}) AS c{i}" for i, name in enumerate(workload.texts, 1)]
    texts += [f"NULL::text[] AS c{i}" for i in range(len(texts) + 1, 4)]
    key = "array_agg(id) AS ids, " if task == "write" else ""
    packs = (
        f"SELECT count(*) AS n, {key}array_agg(ARRAY[{', '.join(workload.numbers)}]) AS x, {', '.join(texts)} "
        f"FROM {workload.table} {part} GROUP BY id / {PACK}"
    )
    arguments = f"'{workload.name}', array_send(x), c1, c2, c3"
    if task == "score":
        return f"SELECT sum(n)::bigint, sum(peer_pack_sum({arguments})) FROM ({packs}) p"
    return f"SELECT unnest(ids) AS id, unnest(peer_pack_scores({arguments})) AS score FROM ({packs}) p"


def peers(plpython: PlPython) -> list[Peer]:
    """The peers of this file."""
    return [
        Peer("plpython_cursor", "PL/Python over a cursor", lambda *what: plpython.prepare(by_cursor, *what), creates=(1,)),
        Peer("plpython_packs", "PL/Python over packs of rows", lambda *what: plpython.prepare(by_packs, *what), creates=(1,)),
        Peer("plpython_row", "PL/Python, one row a call", plpython.prepare_row, tasks=("score",), threads=(1,)),
    ]
