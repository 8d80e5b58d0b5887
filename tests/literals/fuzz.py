"""Mutated values of type prediction_batch, text and binary, from an unprivileged role.

  fuzz.py COUNT [SEED]     run.sh calls it, with a server reachable through libpq's environment variables

Seeds are values of every kind of output and of many carried types. Their JSON is changed with an eye to its structure (types, counts,
shapes, modifiers, nesting, numbers, texts), and their bytes without one. Each value is read, printed, printed again as what was printed,
taken apart by predictions() and cast in each way; some are stored and read again by another session.

What must hold: no session is lost and the server does not restart; an error has an SQLSTATE that the manual lists or one of PostgreSQL's
own for values, never XX000; what is printed reads back as the same; no backend takes 512 MB; no statement takes long. Many values go
with one statement: a function tries them one by one.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from typing import Any

import psycopg

STEP = 250
MOST_MEMORY = 512 << 20
LONGEST = 60.0

# Those of this extension for values, and what PostgreSQL says of texts, types, casts and limits.
EXPECTED = {
    "22P02", "22P03", "22003", "54000", "53200", "42804", "42611", "42702", "42704", "XX001",
    "22001", "22007", "22008", "22009", "22021", "22023", "22026", "22030", "22P05", "2202E", "2200M", "2200N", "22032", "22000", "22015", "23514", "23502",
    "42601", "42809", "42602", "42703", "42P01", "42883", "42501", "3F000", "54001", "54011", "0A000", "42846", "42P18", "42622", "42725", "42710", "42939", "55000",
}  # fmt: skip

SETUP = """
CREATE ROLE stranger LOGIN;
CREATE TABLE box (id int, b prediction_batch);
GRANT SELECT, INSERT, DELETE ON box TO stranger;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION use(b prediction_batch) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE again text; way text;
BEGIN
    again := b::text;
    BEGIN
        IF again IS DISTINCT FROM again::prediction_batch::text THEN RETURN NEXT 'DIFF'; END IF;
    EXCEPTION WHEN OTHERS THEN
        RAISE NOTICE 'XX what is printed is not read: % % %', SQLSTATE, SQLERRM, left(again, 2000);
        RETURN NEXT 'DIFF';
    END;
    FOREACH way IN ARRAY ARRAY['SELECT $1::real[]', 'SELECT $1::float8[]', 'SELECT $1::bigint[]', 'SELECT $1::text[]', 'SELECT $1::jsonb',
        'SELECT count(p) FROM predictions($1) p(y text, c0 text)', 'SELECT count(p) FROM predictions($1) p(y jsonb)', 'SELECT count(p) FROM predictions($1) p(y real)', 'SELECT count(p) FROM predictions($1) p(y real[], c0 int)'] LOOP
        BEGIN
            EXECUTE way USING b;
            RETURN NEXT 'ok';
        EXCEPTION WHEN OTHERS THEN
            IF SQLSTATE LIKE 'XX%' THEN RAISE NOTICE '% % %', SQLSTATE, SQLERRM, left(again, 2000); END IF;
            RETURN NEXT SQLSTATE;
        END;
    END LOOP;
END $$;
CREATE FUNCTION try(inputs text[], keep bool) RETURNS TABLE (state text, n bigint) LANGUAGE plpgsql AS $$
DECLARE input text; b prediction_batch; states text[] := '{}';
BEGIN
    FOREACH input IN ARRAY inputs LOOP
        BEGIN
            b := input::prediction_batch;
            states := states || 'read'::text || ARRAY(SELECT use(b));
            IF keep THEN INSERT INTO box VALUES (1, b); END IF;
        EXCEPTION WHEN OTHERS THEN
            IF SQLSTATE LIKE 'XX%' THEN RAISE NOTICE '% % %', SQLSTATE, SQLERRM, left(input, 2000); END IF;
            states := states || SQLSTATE::text;
        END;
    END LOOP;
    RETURN QUERY SELECT s, count(*) FROM unnest(states) s GROUP BY s;
END $$;
"""


def tensor(element: str, shape: list[int]) -> dict[str, Any]:
    return {"name": "y", "kind": "tensor", "element": element, "shape": shape, "declared": [-1, *shape]}


def document(outputs: list[Any], rows: list[Any], carried: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"format": 1, "model": "m", "version": 1, "outputs": outputs, "selected": 0, "carried": carried or [], **more, "rows": rows}


def carried(*types: str) -> list[dict[str, str]]:
    return [{"name": f"c{i}", "type": t} for i, t in enumerate(types)]


SEEDS = [
    document([tensor("float32", [])], [[["7"], [1.5]], [["8"], None], [[None], ["NaN"]]], carried("int4")),
    document([tensor("float64", [2])], [[["a", "1.50"], [[1, 2]]], [["\u00e9\"\\", None], [[0.1, 1e300]]]], carried("text", "numeric(6,2)")),
    document([tensor("int64", [2, 2]), dict(tensor("bool", []), name="ok")], [[[], [[[1, 2], [3, 9223372036854775807]], True]]], element={"position": 3}),
    document([tensor("string", [2])], [[["{1,2}", "(1,\"a\")", "happy"], [["a", ""]]]], carried("int4[]", "pair", "mood")),
    document([dict(tensor("uint64", [0, 3]))], [[["2020-01-01 00:00:00+00", "[1,5)", "{\"a\": 1}"], [[]]]], carried("timestamptz", "int4range", "jsonb")),
    document([{"name": "y", "kind": "open", "element": "float16", "shape": [None, 2], "declared": [-1, -1, 2]}], [[["5"], [[[1, 2], [3, 4]]]], [["6"], [[]]]], carried("positive")),
    document([{"name": "y", "kind": "map", "key": "string", "declared": []}], [[["\\x00ff"], [{"a": 1, "b": "Infinity"}]], [[None], [{}]]], carried("bytea"), element={"text": "a"}),
    document([{"name": "y", "kind": "map", "key": "int64", "declared": []}], [[["1 day 02:00:00", "abc"], [{"1": 0.25, "-2": 3}]]], carried("interval", "char(5)"), element={"integer": 1}),
    document([{"name": "y", "kind": "nested", "of": "sequence(tensor(float32))", "declared": []}], [[["1.2.3.4", "t"], [[[1, 2], {"k": [None, "x"]}]]]], carried("inet", "bool")),
    document([tensor("int8", []), dict(tensor("bfloat16", [3]), name="z")], [], carried("name", "uuid", "money", "xml", "bit(3)", "varchar(3)[]"), unbound=True),
]  # fmt: skip

PRINTED = [json.dumps(seed) for seed in SEEDS]

NUMBERS = [0, 1, -1, 2, 6, 7, 64, 65, 127, 128, 255, 256, 1599, 1600, 1663, 1664, 1665, 32767, 32768, 65536, 30000000, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 10**12, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31), -(2**63), -(2**63) - 1, 0.5, 1e39, 1e308, 1e-320, -0.0]  # fmt: skip
TEXTS = ["", "a", "NaN", "Infinity", "-Infinity", "nan", "\0", "a\0b", "\u00e9\u4e2d\U0001f600", "x" * 63, "x" * 64, "x" * 300, "\n\"'\\--/*", "{", "[]", "%s", "1e400", "0", "-1", "y", "c0", "rows", "\ud800"]  # fmt: skip
TYPES = ["record", "record[]", "anyelement", "anyarray", "cstring", "internal", "unknown", "trigger", "void", "any", "pg_class", "pg_stats", "pg_class[]", "int4", "int8", "int2", "float4", "float8", "bool", "text", "text[]", "name", "\"char\"", "numeric", "numeric(5,2)", "numeric(1000,1000)", "numeric(0)", "varchar(10)", "char(10485760)", "char(3)", "bit(3)", "bit(83886080)", "varbit", "interval", "interval day", "interval second(9)", "timestamp(3)", "timestamptz", "timetz", "date", "time", "oid", "regclass", "regtype", "regproc", "xid", "tid", "cid", "pg_lsn", "int2vector", "oidvector", "point", "path", "polygon", "inet", "macaddr", "tsvector", "tsquery", "jsonb", "json", "jsonpath", "xml", "uuid", "bytea", "money", "int4range", "int4multirange", "mood", "mood[]", "pair", "pair[]", "positive", "positive[]", "prediction_batch", "prediction_batch[]", "predict_internal.batch_handle", "nosuch", "setof int", "int[3][4]", "pg_catalog.int4", "box%TYPE", "box.b%TYPE", "information_schema.cardinal_number", "gtsvector", "pg_node_tree", "pg_ndistinct", "refcursor", "", "int4;", "(((", "int4)"]  # fmt: skip
VALUES = ["", "1", "-1", "a", "t", "{1,2}", "{}", "{{1,2},{3,4}}", "[1,5)", "(1,2)", "(1,\"a\")", "()", "{\"(1,a)\",NULL}", "2020-01-01", "infinity", "NaN", "1e400", "0.1", "\\x00", "\\x0", "101", "1 day", "[]", "{}", "null", "happy", "00000000-0000-0000-0000-000000000001", "1.2.3.4/8", "pg_class", "9" * 400, "[" * 200, "{" * 200, "x" * 5000]  # fmt: skip
JUNK = ["null", "true", "false", "[]", "{}", "[[]]", "[[], []]", "{\"a\": 1}", "[null]", "\"x\""]


class Fuzz:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.states: Counter[str] = Counter()
        self.peak = 0
        self.slowest = 0.0

    def place(self, value: Any) -> tuple[Any, ...]:
        """The way to some part of a value."""
        r = self.random
        at: list[Any] = []
        while isinstance(value, (dict, list)) and value and (not at or r.random() < 0.75):
            at.append(r.choice(list(value)) if isinstance(value, dict) else r.randrange(len(value)))
            value = value[at[-1]]
        return tuple(at)

    def junk(self) -> Any:
        r = self.random
        return json.loads(r.choice(JUNK)) if r.random() < 0.2 else r.choice([*NUMBERS, *TEXTS])

    def another(self, value: Any, key: Any) -> Any:
        r = self.random
        if key == "type" and r.random() < 0.9:
            return r.choice(TYPES)
        if isinstance(value, str) and r.random() < 0.7:
            return r.choice(TEXTS + VALUES)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and r.random() < 0.8:
            return r.choice(NUMBERS)
        if isinstance(value, list) and r.random() < 0.8:
            value = list(value)
            match r.randrange(6):
                case 0 if value:
                    value.pop(r.randrange(len(value)))
                case 1 if value:
                    value.insert(r.randrange(len(value) + 1), r.choice(value))
                case 2 if value:
                    value *= r.choice([2, 3, 50])
                case 3:
                    value = [value]
                case 4:
                    value.append(self.junk())
                case _:
                    r.shuffle(value)
            return value
        if isinstance(value, dict) and value and r.random() < 0.8:
            value = dict(value)
            key = r.choice(list(value))
            match r.randrange(4):
                case 0:
                    del value[key]
                case 1:
                    value[r.choice([*TEXTS, "typmod", "definition", "element", "format", "unbound", "axis", "tokens"])] = self.junk()
                case 2:
                    value[key] = self.junk()
                case _:
                    value = dict(r.sample(list(value.items()), len(value)))
            return value
        return self.junk()

    def structure(self) -> str:
        r = self.random
        value: Any = json.loads(r.choice(PRINTED))
        for _ in range(r.choice([1, 1, 1, 2, 3, 6])):
            at = self.place(value)
            if not at:
                continue
            outer = value
            for step in at[:-1]:
                outer = outer[step]
            outer[at[-1]] = self.another(outer[at[-1]], at[-1])
        match r.randrange(400):
            case 0:
                value["carried"] = [{"name": f"c{i}", "type": "int4"} for i in range(r.choice([1600, 1663, 1664, 1665, 33000]))]
            case 1:
                value["outputs"] = [dict(tensor("float32", []), name=f"y{i}") for i in range(r.choice([1600, 1664, 1665]))]
            case 2:
                value["outputs"] = [tensor("float32", [1] * r.choice([6, 7, 64, 65, 1000]))]
            case 3:
                n = r.choice([6, 7, 64, 65, 126, 130, 5000])
                return json.dumps(value).replace('"rows": [', '"rows": [' + "[" * n + "]" * n + ",", 1)
            case 4:
                inner = r.choice(PRINTED)
                value["carried"], value["rows"] = carried("prediction_batch"), [[[inner], None]]
        if r.random() < 0.3 and isinstance(value, dict) and isinstance(value.get("carried"), list):
            # Values that may be of the types that the columns now have.
            value["rows"] = [[[r.choice(VALUES) for _ in value["carried"][:50]], None] for _ in range(3)]
        return json.dumps(value, ensure_ascii=r.random() < 0.5)

    def bytes(self) -> str:
        r = self.random
        data = bytearray(r.choice(PRINTED).encode())
        for _ in range(r.choice([1, 1, 2, 4, 16])):
            at = r.randrange(len(data))
            match r.randrange(5):
                case 0:
                    data[at] = r.randrange(1, 128)
                case 1:
                    del data[at : at + r.choice([1, 1, 4, 20])]
                case 2:
                    data[at:at] = bytes(data[at : at + r.choice([1, 3, 10, 40])]) * r.choice([1, 1, 2, 20])
                case 3:
                    data[at:at] = r.choice([b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"\\u0000", b"e999", b"-", b"0", b"1" * 30, b" " * 50])
                case _:
                    del data[at:]
            if not data:
                break
        return data.decode("utf-8", "replace")

    def one(self) -> str:
        text = self.structure() if self.random.random() < 0.7 else self.bytes()
        # Not every text can be sent as one.
        return text.replace("\0", "").encode("utf-8", "replace").decode()


def own_memory(connection: psycopg.Connection[Any]) -> int:
    with open(f"/proc/{connection.info.backend_pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def started(connection: psycopg.Connection[Any]) -> Any:
    # A crash of any process starts the others anew, the checkpointer too; the postmaster stays.
    return connection.execute("SELECT backend_start, pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'").fetchone()


def main() -> None:
    count = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 31)
    print(f"seed {seed}", flush=True)
    fuzz = Fuzz(seed)
    owner = psycopg.connect(autocommit=True)
    owner.execute(SETUP)
    before = started(owner)

    def connect() -> psycopg.Connection[Any]:
        connection = psycopg.connect(autocommit=True, user="stranger")
        connection.add_notice_handler(lambda notice: (notice.message_primary or "").startswith("XX") and print(f"seed {seed}: {notice.message_primary}", flush=True))
        connection.execute("SET statement_timeout = '120s'")
        return connection

    def wrong(why: str) -> None:
        sys.exit(f"seed {seed}: {why}")

    def ask(connection: psycopg.Connection[Any], query: str, *parameters: Any, binary: bool = False) -> list[Any]:
        begin = time.monotonic()
        rows = connection.execute(query, parameters, binary=binary).fetchall()
        fuzz.slowest = max(fuzz.slowest, time.monotonic() - begin)
        fuzz.peak = max(fuzz.peak, own_memory(connection))
        return rows

    writer, reader = connect(), connect()
    oid = owner.execute("SELECT 'prediction_batch'::regtype::oid").fetchone()[0]  # type: ignore[index]
    begin, shown, done = time.monotonic(), time.monotonic(), 0
    while done < count:
        texts = [fuzz.one() for _ in range(min(STEP, count - done))]
        done += len(texts)
        keep = fuzz.random.random() < 0.2
        try:
            for state, n in ask(writer, "SELECT * FROM try(%s::text[], %s)", texts, keep):
                fuzz.states[state] += n
            if keep:
                # Another session reads what was stored.
                for state, n in ask(reader, "SELECT s, count(*) FROM box, use(b) s GROUP BY s"):
                    fuzz.states[state] += n
                ask(writer, "WITH gone AS (DELETE FROM box RETURNING 1) SELECT count(*) FROM gone")
            # As binary values, some of them no UTF-8: one statement for each.
            for text in texts[: len(texts) // 25]:
                data = bytearray(text.encode())
                if fuzz.random.random() < 0.5 and data:
                    data[fuzz.random.randrange(len(data))] = fuzz.random.randrange(256)
                try:
                    result = writer.pgconn.exec_params(b"SELECT count(*) FROM use($1)", [bytes(data)], param_types=[oid], param_formats=[1])
                    state = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"read").decode()
                    if state.startswith("XX"):
                        print(f"seed {seed}: {result.error_message!r} {bytes(data)[:2000]!r}", flush=True)
                    # A text within it, of a carried column, is one.
                    if state == "22P02" and b"type prediction_batch" in result.error_message and b'"prediction_batch"' not in data:
                        wrong(f"a binary value is called a text: {bytes(data)!r}")
                    fuzz.states[state] += 1
                finally:
                    fuzz.peak = max(fuzz.peak, own_memory(writer))
        except psycopg.OperationalError as e:
            for text in texts:
                print(f"seed {seed}: one of: {text[:500]}", flush=True)
            wrong(f"a session was lost, or a statement did not end: {e}")
        unexpected = {s for s in fuzz.states if s not in EXPECTED and s not in ("ok", "read")}
        if unexpected:
            wrong(f"unexpected: {unexpected}; the last values begin with {texts[0][:200]}")
        if fuzz.peak > MOST_MEMORY:
            wrong(f"a backend took {fuzz.peak >> 20} MB")
        if fuzz.slowest > LONGEST:
            wrong(f"a statement took {fuzz.slowest:.0f} s")
        if time.monotonic() - shown > 60:
            shown = time.monotonic()
            print(f"{done} values, {done / (shown - begin):.0f} a second, peak {fuzz.peak >> 20} MB", flush=True)
    if started(owner) != before:
        wrong("the server restarted")
    seconds = time.monotonic() - begin
    read = fuzz.states["read"]
    print(f"{done} values in {seconds:.0f} s, {read} of them were read, no restart; the largest backend took {fuzz.peak >> 20} MB, the longest statement {fuzz.slowest:.2f} s")
    print("outcomes: " + ", ".join(f"{s} {n}" for s, n in fuzz.states.most_common()))
    if read < done // 20 or len(fuzz.states) < 5:
        wrong("too few values were read: the mutations prove nothing")


main()
