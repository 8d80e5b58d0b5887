"""The peer `spark`: Spark on this machine reads over JDBC and runs the model with predict_batch_udf.

It owns the JVM, which starts with the first run and stays. JDBC knows no unix sockets: where the server does not listen on
TCP, a forwarder in a process of its own stands between, which copies bytes and nothing else.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from peer import Peer, Result, Server
from workload import BATCH, Workload

# Where Debian's libpostgresql-jdbc-java puts it.
JAR = Path("/usr/share/java/postgresql.jar")


def why_not() -> str | None:
    """Why Spark cannot run, or nothing."""
    if importlib.util.find_spec("pyspark") is None:
        return "pyspark is not installed"
    if not shutil.which("java"):
        return "there is no Java"
    if not JAR.exists():
        return "there is no PostgreSQL JDBC driver"
    told = subprocess.run(["java", "-version"], capture_output=True, text=True)
    return None if told.returncode == 0 else f"java does not start: {told.stderr.strip()}"


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copies one direction until it ends."""
    buffer = memoryview(bytearray(1 << 20))
    try:
        while count := source.recv_into(buffer):
            sink.sendall(buffer[:count])
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def forward(listener: socket.socket, path: str) -> None:
    """Connects every caller with the server's socket."""
    while True:
        caller, _ = listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(path)
        for pair in ((caller, server), (server, caller)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


class Spark:
    """One Spark session of two local cores."""

    def __init__(self, server: Server):
        self.server = server
        self.spark = None
        self.address = ""

    def start(self) -> None:
        """Starts the JVM; Spark's Python workers are the interpreter of this environment."""
        from pyspark.sql import SparkSession

        os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        # The workers import this folder's modules.
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        builder = SparkSession.builder.master("local[2]").appName("peers")
        settings = {
            "spark.jars": str(JAR),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.log.level": "ERROR",
            "spark.driver.memory": "2g",
            "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH),
            "spark.sql.shuffle.partitions": "2",
        }
        for key, value in settings.items():
            builder = builder.config(key, value)
        self.spark = builder.getOrCreate()
        self.address = self.listening()

    def listening(self) -> str:
        """A TCP address of the server."""
        with self.server.connect() as connection:
            addresses = connection.execute("SHOW listen_addresses").fetchone()[0]
        if addresses in ("*", "0.0.0.0", "localhost", "127.0.0.1"):
            return f"127.0.0.1:{self.server.port}"
        listener = socket.create_server(("127.0.0.1", 0))
        path = f"{self.server.socket}/.s.PGSQL.{self.server.port}"
        multiprocessing.get_context("spawn").Process(target=forward, args=(listener, path), daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def prepare(self, workload: Workload, task: str, threads: int) -> Callable[[], Result]:
        from pyspark.ml.functions import predict_batch_udf
        from pyspark.sql.functions import count, struct, sum as total
        from pyspark.sql.types import FloatType

        if self.spark is None:
            self.start()

        # Spark calls it once in each Python worker and keeps what it gives.
        def make() -> Callable:
            return lambda inputs: workload.infer(workload.feeds(inputs, []))

        model = predict_batch_udf(make, return_type=FloatType(), batch_size=BATCH, input_tensor_shapes=[[len(workload.columns)]])
        with self.server.connect() as connection:
            last = connection.execute(f"SELECT max(id) FROM {workload.table}").fetchone()[0]
        reading = {
            "url": f"jdbc:postgresql://{self.address}/{self.server.database}",
            "user": self.server.user,
            "driver": "org.postgresql.Driver",
            "dbtable": workload.table,
            "partitionColumn": "id",
            "lowerBound": 1,
            "upperBound": last + 1,
            "numPartitions": threads,
            "fetchsize": 10000,
        }
        rows = self.spark.read.format("jdbc").options(**reading).load()
        scores = rows.select(model(struct(*workload.columns)).alias("score"))

        # A query of its own for each run: Spark keeps what a stage of an earlier run of the same query gave.
        def run() -> Result:
            return Result(*scores.agg(count("score"), total(scores.score.cast("double"))).collect()[0])

        # The first run compiles.
        run()
        return run


def peers(server: Server) -> list[Peer]:
    """The peers of this file."""
    prepare = Spark(server).prepare
    return [Peer("spark", "Spark on two cores over JDBC, predict_batch_udf", prepare, ("score",), ("linear",), (2,))]
