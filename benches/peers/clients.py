"""The peers that take the rows out of the server, score them in a process of their own and send the scores back: `adbc`,
`copy` and `pandas`.

It owns the processes for two threads. It must not touch the server's tables other than by what a peer reads and writes.

A run with one thread is a pipeline: this thread reads and converts a batch while a second one, with one session of one
thread, runs the batch before. That is how the extension works too, whose backend reads on while the model runs. Two threads
are two processes, each such a pipeline over its half of the table.
"""

from __future__ import annotations

import io
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import adbc_driver_postgresql.dbapi
import numpy as np
import pandas
import psycopg
import pyarrow as pa
import pyarrow.csv
import sqlalchemy

from peer import OUT, Peer, Result, Server, parts
from workload import BATCH, Workload, session

# Batches that may wait for the model, so that a fast reader does not fill the memory.
AHEAD = 4

# What a reader gives: the keys (where they are written) and the feeds.
Batch = tuple[np.ndarray | None, dict[str, np.ndarray]]
# What the model makes of it.
Scored = tuple[np.ndarray | None, np.ndarray]


class Adbc:
    """ADBC gives Arrow batches, whose columns are numpy arrays without a copy."""

    # About as many rows as one run of a model takes; 256 KB to 16 MB differ by less than 5 %.
    HINT = 1 << 20

    def __init__(self, server: Server):
        uri = f"postgresql:///{server.database}?host={server.socket}&port={server.port}&user={server.user}"
        self.reading = adbc_driver_postgresql.dbapi.connect(uri, autocommit=True)
        self.writing = adbc_driver_postgresql.dbapi.connect(uri, autocommit=True)

    def batches(self, workload: Workload, part: str, key: bool) -> Iterator[Batch]:
        """The rows of a part of the table."""
        with self.reading.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(self.HINT)})
            cursor.execute(workload.select(part, key))
            for whole in cursor.fetch_record_batch():
                for start in range(0, whole.num_rows, BATCH):
                    columns = whole.slice(start, BATCH).columns
                    ids = columns.pop(0).to_numpy() if key else None
                    width = len(workload.numbers)
                    numbers = [column.to_numpy() for column in columns[:width]]
                    yield ids, workload.feeds(numbers, [strings(column) for column in columns[width:]])

    def write(self, scored: Iterator[Scored]) -> None:
        """Sends the scores as they come."""
        schema = pa.schema([("id", pa.int32()), ("score", pa.float32())])
        batches = (pa.record_batch([pa.array(ids), pa.array(scores)], schema) for ids, scores in scored)
        with self.writing.cursor() as cursor:
            cursor.adbc_ingest(OUT, pa.RecordBatchReader.from_batches(schema, batches), mode="append")


class Copy:
    """COPY by psycopg's libpq layer: its `Copy.read` takes half as long again for the same bytes.

    Numbers come in COPY's binary format, where every row is as long as the other. Texts are not, so a table with texts
    comes as CSV, which pyarrow parses.
    """

    def __init__(self, server: Server):
        self.reading = psycopg.pq.PGconn.connect(server.conninfo.encode())
        if self.reading.status != psycopg.pq.ConnStatus.OK:
            raise RuntimeError(self.reading.get_error_message())
        self.writing = server.connect()

    def messages(self, query: str) -> Iterator[bytearray]:
        """The bytes of COPY, some BATCH rows at a time, whole rows each: the server sends one message a row."""
        result = self.reading.exec_(query.encode())
        if result.status != psycopg.pq.ExecStatus.COPY_OUT:
            raise RuntimeError(result.get_error_message())
        get, size = self.reading.get_copy_data, 1
        failed = ""
        try:
            while size > 0:
                rows = bytearray()
                for _ in range(BATCH):
                    size, data = get(0)
                    if size <= 0:
                        break
                    rows += data
                yield rows
        finally:
            # Where the reader stopped early, the rest must be taken before the connection can be used again.
            while size > 0:
                size, _ = get(0)
            while result := self.reading.get_result():
                if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
                    failed = result.get_error_message()
        if failed:
            raise RuntimeError(failed)

    def batches(self, workload: Workload, part: str, key: bool) -> Iterator[Batch]:
        """The rows of a part of the table."""
        read = self.csv if workload.texts else self.binary
        return read(workload, workload.select(part, key), key)

    def binary(self, workload: Workload, query: str, key: bool) -> Iterator[Batch]:
        """Fixed width: a count of fields, then length and value of each, big-endian; header and trailer around."""
        value = [("length", ">i4"), ("value", ">f4")]
        id_ = [("id length", ">i4"), ("id", ">i4")] if key else []
        row = np.dtype([("fields", ">i2"), *id_, ("numbers", value, len(workload.numbers))])
        header = 19
        for data in self.messages(f"COPY ({query}) TO STDOUT (FORMAT binary)"):
            count, rest = divmod(len(data) - header, row.itemsize)
            rows = np.frombuffer(data, row, count, header)
            header = 0
            # What may be left is the trailer.
            if rest not in (0, 2) or (rows["numbers"]["length"] != 4).any():
                raise RuntimeError("a NULL came, which this parser does not know")
            if count:
                ids = rows["id"].astype(np.int32) if key else None
                yield ids, workload.feeds(rows["numbers"]["value"].astype(np.float32), [])

    def csv(self, workload: Workload, query: str, key: bool) -> Iterator[Batch]:
        """Text, parsed by pyarrow with the types of the columns known."""
        types = {"id": pa.int32()} if key else {}
        types |= dict.fromkeys(workload.numbers, pa.float32()) | dict.fromkeys(workload.texts, pa.dictionary(pa.int32(), pa.string()))
        reading = pyarrow.csv.ReadOptions(use_threads=False, column_names=list(types), block_size=1 << 24)
        converting = pyarrow.csv.ConvertOptions(column_types=types)
        for data in self.messages(f"COPY ({query}) TO STDOUT (FORMAT csv)"):
            if data:
                table = pyarrow.csv.read_csv(io.BytesIO(data), reading, convert_options=converting).combine_chunks()
                column = {name: table[name].chunk(0) for name in types}
                numbers = [column[name].to_numpy() for name in workload.numbers]
                texts = [strings(column[name]) for name in workload.texts]
                yield column["id"].to_numpy() if key else None, workload.feeds(numbers, texts)

    def write(self, scored: Iterator[Scored]) -> None:
        """Sends the scores as they come, in COPY's binary format."""
        row = np.dtype([("fields", ">i2"), ("id length", ">i4"), ("id", ">i4"), ("score length", ">i4"), ("score", ">f4")])
        with self.writing.cursor().copy(f"COPY {OUT} (id, score) FROM STDIN (FORMAT binary)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for ids, scores in scored:
                rows = np.empty(len(ids), row)
                rows["fields"], rows["id length"], rows["score length"] = 2, 4, 4
                rows["id"], rows["score"] = ids, scores
                copy.write(rows.tobytes())
            copy.write(b"\xff\xff")


def strings(column: pa.Array) -> np.ndarray:
    """A column of texts as numpy objects; each text is made once, which takes half the time of one object a row."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    return column.dictionary.to_numpy(zero_copy_only=False).take(column.indices.to_numpy())


def scored(batches: Iterator[Batch], infer: Callable[[dict[str, np.ndarray]], np.ndarray], pool: ThreadPoolExecutor) -> Iterator[Scored]:
    """The scores in the order of the rows; the model runs on the pool while the next batch is read."""
    waiting = deque()
    for ids, feeds in batches:
        waiting.append((ids, pool.submit(infer, feeds)))
        if len(waiting) > AHEAD:
            ids, future = waiting.popleft()
            yield ids, future.result()
    for ids, future in waiting:
        yield ids, future.result()


def pipeline(client: Adbc | Copy, workload: Workload, task: str, part: str, pool: ThreadPoolExecutor) -> Result:
    """One task over a part of the table."""
    result = Result(0, 0.0 if task == "score" else None)
    stream = scored(client.batches(workload, part, task == "write"), workload.infer, pool)
    if task == "score":
        for _, scores in stream:
            result.rows += len(scores)
            result.sum += float(scores.sum(dtype=np.float64))
        return result

    def counted() -> Iterator[Scored]:
        for ids, scores in stream:
            result.rows += len(scores)
            yield ids, scores

    client.write(counted())
    return result


CLIENTS = {"adbc": Adbc, "copy": Copy}


class Worker:
    """What runs pipelines in one process; connections and sessions stay."""

    def __init__(self, server: Server):
        self.server = server
        self.pool = ThreadPoolExecutor(1)
        self.clients: dict[str, Adbc | Copy] = {}

    def warm(self, name: str, workload: Workload) -> None:
        """Connects, loads the model and runs it over the first page."""
        if name not in self.clients:
            self.clients[name] = CLIENTS[name](self.server)
        session(workload.model)
        self.run(name, workload, "score", "WHERE ctid < '(1,0)'")

    def run(self, name: str, workload: Workload, task: str, part: str) -> Result:
        return pipeline(self.clients[name], workload, task, part, self.pool)


def work(pipe: Connection, server: Server) -> None:
    """The second process's loop; it ends when the first one closes the pipe."""
    worker = Worker(server)
    while True:
        try:
            what, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(getattr(worker, what)(*arguments))
        except Exception as error:
            pipe.send(error if isinstance(error, RuntimeError) else RuntimeError(f"{type(error).__name__}: {error}"))


class Clients:
    """The peers `adbc` and `copy`: a worker here and, for two threads, two in processes of their own."""

    def __init__(self, server: Server):
        self.server = server
        self.worker = Worker(server)
        self.pipes: list[Connection] = []

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for _ in range(2):
            ours, theirs = context.Pipe()
            context.Process(target=work, args=(theirs, self.server), daemon=True).start()
            theirs.close()
            self.pipes.append(ours)

    def ask(self, questions: list[tuple]) -> list:
        """Asks each process one thing and waits for all answers."""
        for pipe, question in zip(self.pipes, questions):
            pipe.send(question)
        answers = [pipe.recv() for pipe in self.pipes]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def prepare(self, name: str, workload: Workload, task: str, threads: int) -> Callable[[], Result]:
        if threads == 1:
            self.worker.warm(name, workload)
            return lambda: self.worker.run(name, workload, task, "")
        if not self.pipes:
            self.start()
        self.ask([("warm", name, workload)] * 2)
        with self.server.connect() as connection:
            halves = parts(connection, workload.table, 2)

        def run() -> Result:
            answers = self.ask([("run", name, workload, task, half) for half in halves])
            sums = [answer.sum for answer in answers]
            return Result(sum(answer.rows for answer in answers), None if None in sums else sum(sums))

        return run


class Pandas:
    """What most people write first: read_sql, then one run over everything."""

    def __init__(self, server: Server):
        self.engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=server.connect)

    def prepare(self, workload: Workload, task: str, threads: int) -> Callable[[], Result]:
        self.score(workload, threads, "WHERE ctid < '(1,0)'")
        return lambda: self.score(workload, threads, "")

    def score(self, workload: Workload, threads: int, part: str) -> Result:
        with self.engine.connect() as connection:
            frame = pandas.read_sql(sqlalchemy.text(workload.select(part)), connection)
        if workload.texts:
            numbers = [frame[name].to_numpy(np.float32) for name in workload.numbers]
            feeds = workload.feeds(numbers, [frame[name].to_numpy(object) for name in workload.texts])
        else:
            feeds = {"x": frame.to_numpy(np.float32)}
        scores = workload.infer(feeds, threads)
        return Result(len(scores), float(scores.sum(dtype=np.float64)))


def peers(server: Server) -> list[Peer]:
    """The peers of this file."""
    clients = Clients(server)
    return [
        Peer("adbc", "ADBC into Arrow, numpy, ONNX Runtime", lambda *what: clients.prepare("adbc", *what)),
        Peer("copy", "COPY by psycopg, numpy, ONNX Runtime", lambda *what: clients.prepare("copy", *what)),
        Peer("pandas", "pandas.read_sql, ONNX Runtime", Pandas(server).prepare, tasks=("score",)),
    ]
