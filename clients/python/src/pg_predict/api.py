"""The calls: register() a model, predict() with it, promote() a version, list models()."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
from psycopg import sql
from psycopg.types.json import set_json_loads

from . import convert, server
from . import sample as samples
from .convert import Array, Converted
from .errors import MissingLibraryError, ModelError, PgPredictError, SampleError
from .sample import Sample
from .server import ROW, Connection, Output, rows, schema, stage, transaction, value

# The most rows of the sample whose answers are compared before a version is kept.
COMPARED = 1000
# Golden rows are called so.
GOLDEN = "sample"
REFERENCE = re.compile(r"(?P<model>[^@/]+)(@(?P<version>[^/]+))?(/(?P<output>.+))?")


@dataclass(frozen=True)
class Registered:
    """A version that was registered, and what was done with it."""

    name: str
    version: int
    aliases: list[str]
    inputs: list[str]
    outputs: list[Output]
    compared_rows: int
    golden_rows: int
    baseline_rows: int

    @property
    def reference(self) -> str:
        """What calls in SQL name it by, whatever the aliases say later."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Version:
    """A line of predict.models."""

    name: str
    version: int
    aliases: list[str]
    owner: str
    bytes: int
    created_at: datetime


def register(
    conn: Connection | str,
    name: str,
    model: Any,
    sample: Any = None,
    *,
    alias: str | None = None,
    options: dict[str, Any] | None = None,
    tokenizer: Any = None,
    baseline: Any = None,
    golden_rows: int = 100,
    tolerance: float = 1e-4,
    force: bool = False,
) -> Registered:
    """Creates a version of a model out of a trained one, once its answers on the sample are the library's own.

    conn: a psycopg connection, in whose transaction all happens, or a connection string.
    model: of scikit-learn, LightGBM, XGBoost or PyTorch, or ONNX: a path, bytes or a ModelProto.
    sample: rows that it was trained on, the features alone; not needed for ONNX.
    alias: is pointed at the version; the first version of a model is its `default` anyway.
    options: of predict.create_model(), over those that are found out (features, on_null).
    tokenizer: of an ONNX model that takes tokens: a tokenizer.json, or a fast tokenizer.
    baseline: the rows that drift is measured from; the sample by default, False for none. Kept where the version becomes the default.
    golden_rows: so many rows of the sample become the check `sample` of the model, where the version becomes the default.
    tolerance: how far answers may be from the library's, as |a - b| / max(1, |a|).
    force: the alias is set though the version fails checks of the model.
    """
    converted = convert.to_onnx(model, sample, tokenizer)
    options = converted.options | (options or {})
    with transaction(conn) as connection:
        at = schema(connection)
        version = server.create(connection, name, converted.model, json.dumps(options), converted.tokenizer, converted.external)
        reference, outputs = f"{name}@{version}", server.outputs(connection, name, version)
        aliases = value(connection, "SELECT aliases FROM predict.models WHERE name = %s AND version = %s", (name, version))
        becomes_default = alias == "default" or "default" in aliases
        compared = compare(connection, at, reference, converted, outputs, tolerance)
        golden = based = 0
        if becomes_default and converted.sample is not None:
            if golden_rows > 0:
                golden = add_golden(connection, reference, converted, outputs, golden_rows, tolerance)
            if baseline is not False:
                based = set_baseline(connection, reference, converted.sample, baseline)
        if alias is not None and alias not in aliases:
            rows(connection, "SELECT predict.set_alias(%s, %s, %s, %s)", (name, alias, version, force))
        aliases = value(connection, "SELECT aliases FROM predict.models WHERE name = %s AND version = %s", (name, version))
        inputs = [r[0] for r in rows(connection, "SELECT name FROM predict.model_inputs WHERE model = %s AND version = %s ORDER BY position", (name, version))]
        return Registered(name, version, list(aliases), list(options.get("features", inputs)), outputs, compared, golden, based)


def compare(connection: Connection, at: sql.Identifier, reference: str, converted: Converted, outputs: list[Output], tolerance: float) -> int:
    """Compares the answers of a version with the library's own; one that differs is an error. Gives how many rows were compared."""
    if converted.sample is None or not any(e is not None for e in converted.expected):
        return 0
    chosen = converted.sample.spread(COMPARED)
    known = [(o, e[chosen]) for o, e in zip(outputs, converted.expected, strict=False) if e is not None]
    stage(connection, "pg_predict_sample", converted.sample.take(chosen), COMPARED)
    definition = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(o.name), sql.SQL(o.sql_type)) for o, _ in known)
    query = sql.SQL(
        "SELECT p.* FROM {at}.predictions((SELECT {at}.predict_batch({reference}, r) FROM pg_temp.pg_predict_sample r)) AS p({row} bigint, {outputs}) ORDER BY 1"
    ).format(at=at, reference=sql.Literal(reference), row=sql.Identifier(ROW), outputs=definition)
    answers = rows(connection, query)
    rows(connection, "DROP TABLE pg_temp.pg_predict_sample")
    margin = close_calls([e for _, e in known], tolerance, len(answers))
    for i, (output, expected) in enumerate(known, start=1):
        exact = expected.ndim == 1 and expected.dtype.kind != "f"
        bad = [row for row, answer in enumerate(answers) if not same(answer[i], expected[row], tolerance) and not (margin[row] and exact)]
        if bad:
            row = max(bad, key=lambda r: apart(answers[r][i], expected[r]))
            raise ModelError(
                f'output "{output.name}" differs from the model itself by more than the tolerance of {tolerance} in {len(bad)} of {len(answers)} rows, '
                f"most in row {chosen[row]}: {answers[row][i]!r} in PostgreSQL, {expected[row]!r} by the model. No version was kept. "
                "If the difference is acceptable, pass a larger tolerance."
            )
    return len(answers)


def close_calls(expected: list[Array | None], tolerance: float, count: int) -> Array:
    """Rows whose two best classes are as probable within the tolerance: their label may be either."""
    close = np.zeros(count, bool)
    for e in expected:
        if e is not None and e.ndim == 2 and e.shape[1] > 1 and e.dtype.kind == "f":
            best = np.sort(e[:count], axis=1)
            close |= best[:, -1] - best[:, -2] <= 2 * tolerance
    return close


def same(answer: Any, expected: Any, tolerance: float) -> bool:
    """Whether two answers of one row agree: numbers within the tolerance, anything else exactly."""
    if answer is None:
        return False
    wanted = np.asarray(expected)
    if wanted.dtype.kind not in "fiub":
        return str(answer) == str(expected)
    if isinstance(answer, str):
        return answer == str(wanted.item())
    got, numbers = flat(answer), wanted.astype(np.float64).ravel()
    if got.shape != numbers.shape:
        return False
    return bool(np.all((np.abs(got - numbers) <= tolerance * np.maximum(1, np.abs(numbers))) | (np.isnan(got) & np.isnan(numbers)) | (got == numbers)))


def flat(answer: Any) -> Array:
    """The numbers of an answer, whatever the lists are in which they stand."""
    if isinstance(answer, (list, tuple)):
        return np.concatenate([flat(item) for item in answer]) if answer else np.empty(0)
    return np.array([np.nan if answer is None else answer], np.float64)


def apart(answer: Any, expected: Any) -> float:
    """How far two answers of one row are apart, as |a - b| / max(1, |b|); infinitely if they are not numbers of one shape."""
    wanted = np.asarray(expected)
    if answer is None or isinstance(answer, str) or wanted.dtype.kind not in "fiub":
        return float("inf")
    got, numbers = flat(answer), wanted.astype(np.float64).ravel()
    if got.shape != numbers.shape:
        return float("inf")
    alike = (got == numbers) | (np.isnan(got) & np.isnan(numbers))
    with np.errstate(invalid="ignore"):
        far = np.where(alike, 0, np.abs(got - numbers) / np.maximum(1, np.abs(numbers)))
    return float(np.max(np.where(np.isnan(far), np.inf, far), initial=0))


def add_golden(connection: Connection, reference: str, converted: Converted, outputs: list[Output], most: int, tolerance: float) -> int:
    """Keeps rows of the sample as golden rows: with the library's answers, where it gives all of them."""
    sample = converted.sample
    assert sample is not None
    stage(connection, "pg_predict_sample", sample.take(sample.spread(most)), most)
    count = rows(connection, f"SELECT predict.add_checks(%s, 'SELECT * FROM pg_temp.pg_predict_sample ORDER BY \"{ROW}\"', %s, %s)", (reference, GOLDEN, tolerance))
    rows(connection, "DROP TABLE pg_temp.pg_predict_sample")
    return int(count[0][0])


def set_baseline(connection: Connection, reference: str, sample: Sample, baseline: Any) -> int:
    """Keeps how the sample, or other rows, are distributed."""
    if baseline is not None and baseline is not True:
        given = samples.read(baseline)
        sample = given.select(sample.names, "the model") if given.named else given
    stage(connection, "pg_predict_baseline", sample, sample.rows)
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in sample.names)
    count = value(connection, "SELECT predict.set_baseline(%s, %s)", (reference, f"SELECT {columns} FROM pg_temp.pg_predict_baseline"))
    rows(connection, "DROP TABLE pg_temp.pg_predict_baseline")
    return int(count)


def promote(conn: Connection | str, name: str, version: int, alias: str = "default", *, force: bool = False) -> None:
    """Points an alias at a version that passes the checks of the model, or at any with `force`."""
    with transaction(conn) as connection:
        rows(connection, "SELECT predict.set_alias(%s, %s, %s, %s)", (name, alias, version, force))


def models(conn: Connection | str) -> list[Version]:
    """The versions that the caller may see."""
    with transaction(conn) as connection:
        schema(connection)
        found = rows(connection, "SELECT name, version, aliases, owner, bytes, created_at FROM predict.models ORDER BY name, version")
        return [Version(*row) for row in found]


def predict(
    conn: Connection | str,
    model: str,
    data: Any,
    *,
    columns: Sequence[str] | None = None,
    to: Literal["pandas", "polars", "arrow"] = "pandas",
) -> Any:
    """Scores the rows of a query where they are, or a table of the client's that is sent, and gives them back in their order.

    model: a reference, name[@version | @alias][/output].
    data: a query (text or psycopg.sql), a pandas, Polars or Arrow table, a mapping of columns, or an array.
    columns: those of the rows that come back beside the outputs; by default those that the model does not take.
    to: what comes back.
    """
    if to not in ("pandas", "polars", "arrow"):
        raise PgPredictError(f'to is "pandas", "polars" or "arrow", and not {to!r}')
    with transaction(conn) as connection:
        at = schema(connection)
        outputs, taken = resolve(connection, model)
        if isinstance(data, str):
            query: sql.Composable = sql.SQL(data.strip().rstrip(";"))
        elif isinstance(data, sql.Composable):
            query = data
        else:
            query = send(connection, data, taken)
        names = columns_of(connection, query)
        known = dict(names)
        lost = [c for c in columns or [] if c not in known]
        if lost:
            raise PgPredictError(f"the rows have no column {samples.listed(lost)}; they have {samples.listed(list(known))}")
        lower = {t.lower() for t in taken}
        kept = list(columns) if columns is not None else [n for n in known if n.lower() not in lower and n != ROW]
        clash = [o.name for o in outputs if o.name in kept]
        if clash:
            raise PgPredictError(f"the output {samples.listed(clash)} has the name of a column: leave it out of `columns`, or rename it in the query")
        parts = [(n, known[n]) for n in kept] + [(o.name, o.sql_type) for o in outputs]
        definition = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(t)) for n, t in parts)
        scored = sql.SQL("SELECT p.* FROM {at}.predictions((SELECT {at}.predict_batch({model}, r) FROM ({query}) r)) AS p({definition})").format(
            at=at, model=sql.Literal(model), query=query, definition=definition
        )
        table = read_arrow(connection, scored)
    if to == "arrow":
        return table
    if to == "polars":
        return convert.need("polars", "polars").from_arrow(table)
    convert.need("pandas", "pandas")
    return table.to_pandas()


def resolve(connection: Connection, reference: str) -> tuple[list[Output], list[str]]:
    """The outputs of what a reference names, and the names of what it takes."""
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise PgPredictError(f"{reference!r} is no reference: name[@version | @alias][/output]")
    name, version, wanted = match["model"], match["version"] or "default", match["output"]
    query = "SELECT version, options FROM predict.models WHERE name = %s AND (version::text = %s OR %s = ANY (aliases))"
    found = rows(connection, query, (name, version, version))
    if not found:
        # The server says what is missing.
        rows(connection, "SELECT predict.describe(%s)", (f"{name}@{version}",))
        raise PgPredictError(f"there is no {reference}")
    number, options = found[0]
    outputs = server.outputs(connection, name, number)
    if wanted is not None:
        outputs = [o for o in outputs if o.name == wanted]
        if not outputs:
            raise PgPredictError(f'{name}@{version} has no output "{wanted}"; an element of an output is taken from what comes back')
    inputs = [r[0] for r in rows(connection, "SELECT name FROM predict.model_inputs WHERE model = %s AND version = %s", (name, number))]
    return outputs, (options or {}).get("features") or inputs


def columns_of(connection: Connection, query: sql.Composable) -> list[tuple[str, str]]:
    """The columns of a query, with their SQL types."""
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("SELECT * FROM ({}) q LIMIT 0").format(query))
        found = [(c.name, c.type_code) for c in cursor.description or []]
    return [(name, value(connection, "SELECT pg_catalog.format_type(%s, NULL)", (oid,))) for name, oid in found]


def send(connection: Connection, data: Any, taken: list[str]) -> sql.Composable:
    """Sends a table of the client's; gives the query that reads it."""
    table = samples.read(data)
    if not table.named and len(table.columns) == len(taken):
        table = Sample(tuple(samples.Column(n, c.kind, c.values) for n, c in zip(taken, table.columns, strict=True)), table.rows, True)
    if any(n == ROW for n in table.names):
        raise SampleError(f'a column cannot be called "{ROW}"', ROW)
    stage(connection, "pg_predict_rows", table, table.rows)
    return sql.SQL("SELECT {} FROM pg_temp.pg_predict_rows ORDER BY {}").format(sql.SQL(", ").join(map(sql.Identifier, table.names)), sql.Identifier(ROW))


def read_arrow(connection: Connection, query: sql.Composed) -> Any:
    """The rows of a query as an Arrow table."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingLibraryError(f"pyarrow is needed to read predictions ({error}): pip install 'pg-predict[arrow]'") from error
    types = {
        16: pyarrow.bool_(), 20: pyarrow.int64(), 21: pyarrow.int16(), 23: pyarrow.int32(), 25: pyarrow.string(), 700: pyarrow.float32(), 701: pyarrow.float64(),
        1043: pyarrow.string(), 1082: pyarrow.date32(), 1114: pyarrow.timestamp("us"), 1184: pyarrow.timestamp("us", "UTC"),
        1000: pyarrow.list_(pyarrow.bool_()), 1016: pyarrow.list_(pyarrow.int64()), 1009: pyarrow.list_(pyarrow.string()),
        1021: pyarrow.list_(pyarrow.float32()), 1022: pyarrow.list_(pyarrow.float64()), 3802: pyarrow.string(),
    }  # fmt: skip
    with connection.cursor(binary=True) as cursor:
        set_json_loads(lambda text: text.decode() if isinstance(text, bytes) else text, cursor)
        cursor.execute(query)
        description = cursor.description or []
        names = [c.name for c in description]
        batches = []
        columns_types = [types.get(c.type_code) for c in description]
        while piece := cursor.fetchmany(65536):
            arrays = []
            for column, type_ in zip(zip(*piece, strict=True), columns_types, strict=True):
                nested = type_ is not None and pyarrow.types.is_list(type_) and any(x and isinstance(x[0], list) for x in column if x is not None)
                arrays.append(pyarrow.array(column, type=None if nested else type_))
            batches.append(pyarrow.Table.from_arrays(arrays, names=names))
        if not batches:
            return pyarrow.Table.from_arrays([pyarrow.array([], type=t or pyarrow.string()) for t in columns_types], names=names)
        return pyarrow.concat_tables(batches, promote_options="default")
