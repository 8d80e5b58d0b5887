"""Loads the tables and creates the models that check.py and throughput.py read.

  load.py --models FOLDER --images COUNT --features COUNT

scripts/gpu_check.sh calls it after models/sql/load.sql and create.sql, with a server reachable through libpq's environment
variables. The server reads the large models from FOLDER, where models.py made them.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "reference"))

from cases import CASES, MODELS  # noqa: E402

MINILM = ROOT / "target" / "packages" / "minilm"
TABLES = ROOT / "target" / "gpu" / "tables"
BENCHES = ROOT / "benches" / "models"
SEED = 1
NUMBERS = "abcdefghij"
PIXELS = 3 * 224 * 224


def copy(connection: psycopg.Connection, table: str) -> None:
    """Fills a table from its file, whose first line names the columns."""
    with (TABLES / f"{table}.csv").open(newline="") as file:
        reader = csv.reader(file)
        columns = ", ".join(next(reader))
        with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as rows:
            for row in reader:
                rows.write_row(row)


def tables(connection: psycopg.Connection, images: int, features: int) -> None:
    matrix = ", ".join(f"f{n} real" for n in range(1, 27))
    connection.execute(f"CREATE TABLE credit_matrix (id integer PRIMARY KEY, {matrix})")
    connection.execute("CREATE TABLE reviews (id integer PRIMARY KEY, product text, review text, score text, split text)")
    connection.execute("CREATE TABLE tweets (id integer PRIMARY KEY, mean_sentiment double precision, text text)")
    for table in ("credit_matrix", "reviews", "tweets"):
        copy(connection, table)
    connection.execute(f"SELECT setseed({1 / (1 + SEED)})")
    numbers = ", ".join(f"random()::real AS {name}" for name in NUMBERS)
    connection.execute(f"CREATE TABLE features AS SELECT n::integer AS id, {numbers} FROM generate_series(1, {features}) n")
    # Pixels are stored as they are: random ones cannot be compressed.
    connection.execute("CREATE TABLE images (id integer PRIMARY KEY, pixels bytea STORAGE EXTERNAL)")
    noise = random.Random(SEED)
    with connection.cursor().copy("COPY images FROM STDIN WITH (FORMAT binary)") as rows:
        rows.set_types(["int4", "bytea"])
        for nth in range(1, images + 1):
            rows.write_row((nth, noise.randbytes(PIXELS)))
    connection.execute("VACUUM ANALYZE")


def models(connection: psycopg.Connection, folder: Path) -> None:
    for case in CASES:
        if not case.file.is_relative_to(MODELS) and case.name != "recs":
            create = "SELECT predict.create_model(%s, %s, %s)"
            try:
                connection.execute(create, (case.name, case.file.read_bytes(), Jsonb(case.options)))
            except psycopg.Error as error:
                # One model needs a locale that few machines without users have.
                if case.name != "reviews" or "locale" not in f"{error} {error.diag.message_hint}":
                    raise
                print(f"reviews: not created: {error.diag.message_primary}", flush=True)
    for name in ("linear", "mlp", "lgbm"):
        connection.execute("SELECT predict.create_model(%s, %s)", (name, (BENCHES / f"{name}.onnx").read_bytes()))
    tokenizer = (MINILM / "tokenizer.json").read_text()
    create = "SELECT predict.create_model('minilm', %s, '{\"pooling\": \"mean\"}', %s)"
    connection.execute(create, ((MINILM / "model.onnx").read_bytes(), tokenizer))
    for name in ("resnet50", "long_kernel", "many_weights"):
        connection.execute("SELECT predict.create_model_from_file(%s, %s)", (name, str(folder / f"{name}.onnx")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--features", type=int, required=True)
    arguments = parser.parse_args()
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("SET pg_predict.validation_timeout = '10min'")
        tables(connection, arguments.images, arguments.features)
        models(connection, arguments.models)


if __name__ == "__main__":
    main()
