"""What is said to the server: in the caller's transaction, as the caller, and never committed behind the caller's back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from .errors import PgPredictError, ServerError
from .sample import Column, Sample

Connection = psycopg.Connection[Any]

# Bytes of a piece of a model on its way.
PIECE = 8 << 20
# The column that tells the rows of a sample apart.
ROW = "pg_predict_row"

SQL_TYPES = {
    "float16": "real", "bfloat16": "real", "float32": "real", "float64": "double precision", "int8": "smallint", "int16": "smallint", "uint8": "smallint",
    "int32": "integer", "uint16": "integer", "int64": "bigint", "uint32": "bigint", "uint64": "numeric", "bool": "boolean", "string": "text",
}  # fmt: skip


@dataclass(frozen=True)
class Output:
    """An output of a version, and the SQL type that it comes in."""

    name: str
    type: str
    row_shape: list[int] | None

    @property
    def sql_type(self) -> str:
        base = SQL_TYPES.get(self.type)
        if base is None or self.row_shape is None:
            return "jsonb"
        return base if not self.row_shape else base + "[]"


@contextmanager
def transaction(conn: Connection | str) -> Iterator[Connection]:
    """A block that happens whole or not at all: a savepoint of the caller's transaction, which stays the caller's to commit, or a
    transaction of its own where `conn` is a connection string or commits by itself."""
    try:
        if isinstance(conn, str):
            with psycopg.connect(conn) as own:
                yield own
        else:
            if conn.closed:
                raise PgPredictError("the connection is closed")
            if not conn.autocommit:
                # Begins the transaction, where there is none, so that the block is a savepoint of it and does not commit.
                rows(conn, "SELECT")
            with conn.transaction():
                yield conn
    except psycopg.Error as error:
        raise ServerError(error) from error


def rows(conn: Connection, query: sql.Composable | str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query, parameters or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def value(conn: Connection, query: sql.Composable | str, parameters: Sequence[Any] = ()) -> Any:
    found = rows(conn, query, parameters)
    return found[0][0] if found else None


def schema(conn: Connection) -> sql.Identifier:
    """Where predict_batch() and predictions() are."""
    name = value(conn, "SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_predict'")
    if name is None:
        raise PgPredictError("this database has no pg_predict: CREATE EXTENSION pg_predict")
    return sql.Identifier(name)


def upload(conn: Connection, parts: dict[str, bytes]) -> None:
    """Sends the parts of a model in pieces, into a temporary table that goes with the transaction."""
    rows(conn, "DROP TABLE IF EXISTS pg_temp.pg_predict_upload")
    rows(conn, "CREATE TEMP TABLE pg_predict_upload (part text, n integer, data bytea) ON COMMIT DROP")
    with conn.cursor() as cursor, cursor.copy("COPY pg_temp.pg_predict_upload FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["text", "int4", "bytea"])
        for part, content in parts.items():
            for n, at in enumerate(range(0, max(len(content), 1), PIECE)):
                copy.write_row((part, n, memoryview(content)[at : at + PIECE]))


PART = "(SELECT pg_catalog.string_agg(data, '' ORDER BY n) FROM pg_temp.pg_predict_upload WHERE part = '{}')"


def create(conn: Connection, name: str, model: bytes, options: str, tokenizer: str | None, external: bytes | None) -> int:
    """Creates a version; gives its number."""
    upload(conn, {"model": model} | ({} if external is None else {"external": external}))
    query = f"SELECT predict.create_model(%s, {PART.format('model')}, %s::jsonb, %s::jsonb, {PART.format('external')})"
    version = int(value(conn, query, (name, options, tokenizer)))
    rows(conn, "DROP TABLE pg_temp.pg_predict_upload")
    return version


def outputs(conn: Connection, model: str, version: int) -> list[Output]:
    query = "SELECT name, type, row_shape FROM predict.model_outputs WHERE model = %s AND version = %s ORDER BY position"
    return [Output(*row) for row in rows(conn, query, (model, version))]


def sql_type(c: Column) -> str:
    """The type of a column that holds the values as the model will get them."""
    if c.kind == "tensor":
        return {"f": "real[]", "i": "bigint[]", "u": "bigint[]", "b": "boolean[]"}[c.values.dtype.kind]
    return {"number": "real", "integer": "bigint", "boolean": "boolean", "text": "text"}[c.kind]


def python_values(c: Column, most: int) -> list[Any]:
    values = c.values[:most]
    if c.kind == "tensor":
        values = values.astype(np.float32) if values.dtype.kind == "f" else values
        return [row.ravel().tolist() if row.ndim > 6 else row.tolist() for row in values]
    if c.kind == "number":
        return Sample.single(Column(c.name, c.kind, values)).tolist()  # type: ignore[no-any-return]
    return values.tolist()  # type: ignore[no-any-return]


def stage(conn: Connection, table: str, sample: Sample, most: int, more: dict[str, tuple[str, list[Any]]] | None = None) -> None:
    """Makes a temporary table of the first rows of a sample, numbered, and with more columns where there are."""
    columns = [(ROW, "bigint", list(range(min(sample.rows, most))))]
    columns += [(c.name, sql_type(c), python_values(c, most)) for c in sample.columns]
    columns += [(name, type_, values) for name, (type_, values) in (more or {}).items()]
    rows(conn, sql.SQL("DROP TABLE IF EXISTS pg_temp.{}").format(sql.Identifier(table)))
    definition = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(type_)) for name, type_, _ in columns)
    rows(conn, sql.SQL("CREATE TEMP TABLE {} ({}) ON COMMIT DROP").format(sql.Identifier(table), definition))
    with conn.cursor() as cursor, cursor.copy(sql.SQL("COPY pg_temp.{} FROM STDIN").format(sql.Identifier(table))) as copy:
        for row in zip(*(values for _, _, values in columns), strict=True):
            copy.write_row(row)
