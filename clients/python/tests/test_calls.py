"""What the calls promise beside converting: transactions, versions, what comes back, errors and the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import polars as pl
import psycopg
import pytest
from onnx import TensorProto, helper, numpy_helper

import pg_predict

LATE = Path(__file__).resolve().parents[3] / "models" / "late.onnx"
QUERY = """
    SELECT id, 1::real AS month, 1::real AS day, sched AS sched_dep_time, sched + 200 AS sched_arr_time, 1000::real AS distance, 10::real AS hour,
           'UA' AS carrier, 'EWR' AS origin, 'IAH' AS dest
      FROM (SELECT id, (500 + 10 * id)::real AS sched FROM generate_series(1, {}) id) s"""


@pytest.fixture
def conn() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect() as connection:
        yield connection
        connection.rollback()


def linear(weights: list[float], external: str | None = None) -> onnx.ModelProto:
    w = numpy_helper.from_array(np.array(weights, np.float32).reshape(-1, 1), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(weights)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [w],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_nothing_is_committed_for_the_caller(conn: psycopg.Connection[Any]) -> None:
    pg_predict.register(conn, "mine", linear([1, 2]), {"a": [1.0], "b": [2.0]})
    with psycopg.connect() as other:
        assert pg_predict.models(other) == []
    conn.rollback()
    assert pg_predict.models(conn) == []


def test_a_failure_leaves_the_transaction_usable(conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE TEMP TABLE t AS SELECT 1 AS a")
    with pytest.raises(pg_predict.ServerError) as caught:
        pg_predict.register(conn, "mine", linear([1, 2]), options={"no such": 1})
    assert caught.value.sqlstate == "22023" and "no such" in str(caught.value)
    assert conn.execute("SELECT a FROM t").fetchone() == (1,)


def test_a_connection_string_commits_when_all_is_done() -> None:
    try:
        done = pg_predict.register("", "mine", linear([1, 2]), {"a": [1.0, 2.0], "b": [2.0, 3.0]})
        assert [v.name for v in pg_predict.models("")] == ["mine"] and done.reference == "mine@1"
        with pytest.raises(pg_predict.ModelError):
            pg_predict.register("", "mine", b"no model")
        assert len(pg_predict.models("")) == 1
    finally:
        with psycopg.connect() as connection:
            connection.execute("SELECT predict.drop_model('mine')")


def test_golden_rows_and_baseline_are_of_the_default_version(conn: psycopg.Connection[Any]) -> None:
    sample = pd.DataFrame({"a": np.arange(50.0), "b": np.arange(50.0)})
    pg_predict.register(conn, "m", linear([1, 2]), sample, golden_rows=10)
    assert conn.execute("SELECT name, rows::int FROM predict.checks WHERE model = 'm'").fetchall() == [("sample", 10)]
    # Another version answers otherwise: it is made, and an alias refused unless forced.
    second = pg_predict.register(conn, "m", linear([3, 2]), sample)
    assert (second.aliases, second.golden_rows, second.baseline_rows) == ([], 0, 0)
    with pytest.raises(pg_predict.ServerError, match="fails its checks"):
        pg_predict.promote(conn, "m", 2, "staging")
    with pytest.raises(pg_predict.ServerError, match="force"):
        pg_predict.register(conn, "m", linear([3, 2]), sample, alias="staging")
    pg_predict.promote(conn, "m", 2, "staging", force=True)
    third = pg_predict.register(conn, "m", linear([3, 3]), sample, alias="default", baseline=sample[:20])
    assert third.aliases == ["default"] and third.golden_rows == 50 and third.baseline_rows == 20
    assert {(v.version, tuple(v.aliases)) for v in pg_predict.models(conn)} == {(1, ()), (2, ("staging",)), (3, ("default",))}


def test_rows_of_a_query_come_back_in_order_with_their_keys(conn: psycopg.Connection[Any]) -> None:
    pg_predict.register(conn, "late", LATE)
    query = QUERY.format(100_000) + ";"
    frame = pg_predict.predict(conn, "late", query)
    assert list(frame.columns) == ["id", "label", "probabilities"] and list(frame["id"]) == list(range(1, 100_001))
    wanted = conn.execute(f"SELECT (predict_array('late/probabilities', r))::real[] FROM ({QUERY.format(5)}) r").fetchall()  # type: ignore[arg-type]
    np.testing.assert_allclose(np.stack(frame["probabilities"][:5].tolist()), np.array([w[0] for w in wanted]), atol=1e-6)
    other = pg_predict.predict(conn, "late@1/label", query, columns=["carrier", "id"], to="polars")
    assert isinstance(other, pl.DataFrame) and other.schema == {"carrier": pl.String, "id": pl.Int32, "label": pl.Int64}
    table = pg_predict.predict(conn, "late", QUERY.format(0), to="arrow")
    assert table.num_rows == 0 and str(table.schema.field("probabilities").type) == "list<item: float>"


def test_a_table_is_sent_and_comes_back(conn: psycopg.Connection[Any]) -> None:
    sample = pd.DataFrame({"a": [1.0, 2.0, np.nan], "b": [10.0, 20.0, 30.0], "key": ["x", "y", "z"]})
    pg_predict.register(conn, "m", linear([1, 2]), sample[["a", "b"]], options={"on_null": "nan"}, baseline=False)
    got = pg_predict.predict(conn, "m", sample)
    assert list(got["key"]) == ["x", "y", "z"] and np.allclose(np.stack(got["y"]).ravel()[:2].astype(float), [21.0, 42.0])
    assert len(pg_predict.predict(conn, "m", np.ones((5, 2)))) == 5
    assert len(pg_predict.predict(conn, "m", pl.DataFrame({"a": [1.0], "b": [2.0]}))) == 1


def test_what_is_wrong_is_said(conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    pg_predict.register(conn, "late", LATE)
    for call, words in (
        (lambda: pg_predict.predict(conn, "nobody", "SELECT 1 AS a"), 'model "nobody" does not exist'),
        (lambda: pg_predict.predict(conn, "late@7", "SELECT 1 AS a"), "7"),
        (lambda: pg_predict.predict(conn, "late/nothing", "SELECT 1 AS a"), 'no output "nothing"'),
        (lambda: pg_predict.predict(conn, "late", "SELECT 1 AS month"), "DETAIL"),
        (lambda: pg_predict.predict(conn, "late", "SELECT FROM WHERE"), "syntax error"),
        (lambda: pg_predict.predict(conn, "late", QUERY.format(1), columns=["nothing"]), 'no column "nothing"'),
        (lambda: pg_predict.predict(conn, "late", QUERY.format(1), to="numpy"), "pandas"),
        (lambda: pg_predict.register(conn, "m", tmp_path / "none.onnx"), "there is no file"),
        (lambda: pg_predict.register(conn, "m", b""), "not ONNX"),
        (lambda: pg_predict.register(conn, "m", object()), "is not known"),
        (lambda: pg_predict.register(conn, "m", LATE, tokenizer=5), "tokenizer"),
    ):
        with pytest.raises(pg_predict.PgPredictError, match=words):
            call()
    assert len(pg_predict.models(conn)) == 1


def test_weights_in_files_go_with_the_model(conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    weights = list(np.linspace(-1, 1, 2000))
    path = tmp_path / "model.onnx"
    onnx.save_model(linear(weights), str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    row = np.linspace(0, 1, 2000, dtype=np.float32)
    assert pg_predict.register(conn, "external", path).version == 1
    got = conn.execute("SELECT predict('external', %s::real[])", (row.tolist(),)).fetchone()
    assert got is not None and abs(got[0] - float(row @ np.array(weights, np.float32))) < 1e-2
    (tmp_path / "model.onnx.data").rename(tmp_path / "elsewhere")
    with pytest.raises(pg_predict.ModelError, match='"model.onnx.data" are not in'):
        pg_predict.register(conn, "external", path)


def test_a_large_model_is_sent_in_pieces(conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of more than 1 GB, with smaller limits: pieces of the graph, and of weights that were split from it."""
    from pg_predict import convert, server

    monkeypatch.setattr(server, "PIECE", 1000)
    monkeypatch.setattr(convert, "MOST_BYTES", 50_000)
    model = linear([0.5] * 10_000)
    assert model.ByteSize() < 50_000
    monkeypatch.setattr(convert, "MOST_BYTES", 41_000 - 2000)
    with pytest.raises(pg_predict.ModelError, match="create_model_from_file"):
        pg_predict.register(conn, "large", model)
    monkeypatch.setattr(convert, "MOST_BYTES", 40_050)
    assert model.ByteSize() > 40_050
    pg_predict.register(conn, "large", model)
    assert model.ByteSize() > 40_050, "the caller's model is as it was"
    stored = conn.execute("SELECT predict('large', array_agg(1::real)) FROM generate_series(1, 10000)").fetchone()
    assert stored == (5000.0,)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pg_predict.cli", *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    path.write_bytes(linear([1, 2]).SerializeToString())
    sample = tmp_path / "sample.csv"
    sample.write_text("a,b\n1,2\n3,4\n")
    try:
        assert command("push", str(path), "--option", 'features=["a", "b"]', "--option", "on_null=error", "--sample", str(sample)).stdout == "two@1 (default)\n"
        assert command("push", str(path), "--name", "two", "--alias", "staging", "--option", 'features=["a", "b"]').stdout == "two@2 (staging)\n"
        assert [line.split("\t")[:2] for line in command("list").stdout.splitlines()] == [["two@1", "default"], ["two@2", "staging"]]
        assert command("promote", "two", "2").stdout == "two@2 is default\n"
        scored = command("score", "two@1", "SELECT id, id::real AS a, 1::real AS b FROM generate_series(1, 2) id")
        assert scored.stdout == "id,y\n1,3.0\n2,4.0\n"
        for arguments, status, words in (
            (("push", str(path), "--option", "features=[1]"), 1, "pg-predict: "),
            (("push", str(tmp_path / "none.onnx")), 1, "there is no file"),
            (("promote", "two", "9"), 1, "pg-predict: "),
            (("list", "--dsn", "host=/nowhere"), 1, "pg-predict: "),
            (("push",), 2, "usage"),
        ):
            failed = command(*arguments)
            assert failed.returncode == status and words in failed.stderr and "Traceback" not in failed.stderr, failed
    finally:
        with psycopg.connect() as connection:
            connection.execute("SELECT predict.drop_model('two')")


def test_a_role_needs_only_what_the_functions_need() -> None:
    with psycopg.connect(autocommit=True) as admin:
        admin.execute("CREATE ROLE pgp_data_scientist LOGIN")
        try:
            with psycopg.connect(user="pgp_data_scientist") as conn:
                with pytest.raises(pg_predict.ServerError) as caught:
                    pg_predict.register(conn, "theirs", linear([1, 2]))
                assert caught.value.sqlstate == "42501"
                admin.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA predict TO pgp_data_scientist")
                done = pg_predict.register(conn, "theirs", linear([1, 2]), {"a": [1.0, 2.0], "b": [0.0, 1.0]}, alias="staging")
                assert done.golden_rows == 2 and sorted(done.aliases) == ["default", "staging"]
                assert len(pg_predict.predict(conn, "theirs", {"a": [1.0], "b": [1.0]})) == 1
                conn.rollback()
        finally:
            admin.execute("DROP OWNED BY pgp_data_scientist")
            admin.execute("DROP ROLE pgp_data_scientist")
