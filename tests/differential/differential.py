"""Runs random statements with plain calls and predictions() in random places, with pg_predict.enable_batch_scan on and off.

The promise: both give the same rows, or the same error, the same number of calls of the model, and leave sequences at the same
values. A difference is printed as SQL. Arguments: the number of statements, and the seed.

`predictions((SELECT predict_batch(..) FROM ..))` is streamed only with the setting on. A query that may stop reading, such as one
with a LIMIT, or that does not read every column, may then succeed although a value that it did not read would fail. Such statements
are counted as `read less`.

A cursor that is not read to its end may have read ahead: at most a batch in each scan of a table.

Exact order is compared where a statement orders its rows by a key. Calls are compared for statements that succeed: the rows that a
models got are counted in predict.stat_models.
"""

import random
import re
import sys

import psycopg

SETUP = r"""
CREATE EXTENSION IF NOT EXISTS pg_predict;
CREATE EXTENSION IF NOT EXISTS postgres_fdw;
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS d CASCADE; CREATE SCHEMA d; SET search_path = d, public;
CREATE TABLE t (id int PRIMARY KEY, g int, x float8, y float8, s text);
INSERT INTO t SELECT i, i % 5, CASE WHEN i % 11 = 0 THEN NULL ELSE i % 13 END, i % 7, 's' || i % 4 FROM generate_series(1, 60) i;
CREATE TABLE bad (id int PRIMARY KEY, g int, x float8, y float8, s text);
INSERT INTO bad SELECT i, i % 5, CASE WHEN i % 17 = 6 THEN 1e300 ELSE i % 13 END, i % 7, 's' || i % 4 FROM generate_series(1, 60) i;
CREATE INDEX ON t (g, id); CREATE INDEX ON bad (g, id); CREATE INDEX ON bad (y);
CREATE TABLE u (id int, g int, z float8); INSERT INTO u SELECT i, i % 4, i % 3 FROM generate_series(1, 30) i;
CREATE TABLE none (id int, g int, x float8, y float8, s text);
CREATE TABLE p (id int, g int, x float8, y float8, s text) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (20); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (20) TO (40);
CREATE TABLE p3_real (id int, g int, x float8, y float8, s text);
DROP SERVER IF EXISTS d_loop CASCADE;
CREATE SERVER d_loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{host}', port '{port}', dbname '{db}', async_capable 'true');
CREATE USER MAPPING FOR PUBLIC SERVER d_loop OPTIONS (user '{user}', password_required 'false');
CREATE FOREIGN TABLE p3 PARTITION OF p FOR VALUES FROM (40) TO (100) SERVER d_loop OPTIONS (schema_name 'd', table_name 'p3_real');
INSERT INTO p3_real SELECT i, i % 5, i % 13, i % 7, 's' || i % 4 FROM generate_series(40, 60) i;
INSERT INTO p SELECT i, i % 5, i % 13, i % 7, 's' || i % 4 FROM generate_series(1, 39) i;
CREATE FOREIGN TABLE f (id int, g int, x float8, y float8, s text) SERVER d_loop OPTIONS (schema_name 'd', table_name 't');
CREATE VIEW v WITH (security_barrier) AS SELECT * FROM bad WHERE x < 100 AND g <> 2;
CREATE SEQUENCE q;
CREATE TABLE hidden (id int, g int, x float8, y float8, s text); INSERT INTO hidden SELECT * FROM bad;
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON hidden USING (CASE WHEN x < 100 THEN predict('m', x) < 15 ELSE false END);
DO $$ BEGIN CREATE ROLE d_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
GRANT USAGE ON SCHEMA d TO d_reader; GRANT SELECT ON ALL TABLES IN SCHEMA d TO d_reader; GRANT USAGE ON SEQUENCE q TO d_reader;
GRANT ALL ON t, u, none TO d_reader;
CREATE FUNCTION careful(x float8) RETURNS float8 LANGUAGE plpgsql AS $$ BEGIN RETURN predict('m', x); EXCEPTION WHEN OTHERS THEN RETURN -1; END $$;
CREATE FUNCTION walk(n int) RETURNS SETOF float8 LANGUAGE plpgsql AS $$ DECLARE r record; k int := 0; BEGIN
    FOR r IN SELECT id, predict('m', x) AS y FROM t ORDER BY id LOOP RETURN NEXT r.y; k := k + 1; EXIT WHEN k >= n; END LOOP; END $$;
"""

TABLES = ["t", "t", "t", "bad", "p", "f", "v", "none", "hidden"]

# What may end the reading of rows before the last one, or read one input only if another has rows.
STOPS = ("LIMIT", "CURSOR", "JOIN", "LATERAL", "EXISTS", " IN (", "ALL (", "row_number", "DISTINCT ON", "INTERSECT", "EXCEPT", "FROM u,", "walk(",
         "(SELECT max(", "USING (")


class Maker:
    """Makes one statement. `r` is its source of chance."""

    def __init__(self, r):
        self.r = r
        self.order = True

    def pick(self, *choices):
        return self.r.choice(choices)

    def number(self, a, depth=2):
        """A float8 expression over the row of alias `a`."""
        r = self.r
        if depth == 0 or r.random() < 0.3:
            return self.pick(f"{a}.x", f"{a}.y", f"{a}.g::float8", "2.0::float8", "NULL::float8")
        inner = lambda: self.number(a, depth - 1)
        call = lambda: self.call(a, depth - 1)
        return self.pick(
            call, call, call,
            lambda: f"({inner()} + {inner()})",
            lambda: f"coalesce({inner()}, {call()})",
            lambda: f"greatest({inner()}, {call()})",
            lambda: f"nullif({call()}, {inner()})",
            lambda: f"CASE WHEN {self.test(a, depth - 1)} THEN {call()} ELSE {inner()} END",
            lambda: f"CASE WHEN {a}.x < 100 THEN {call()} WHEN {self.test(a, depth - 1)} THEN {call()} END",
            lambda: f"(ARRAY[{call()}, {inner()}])[{a}.g]",
            lambda: f"(SELECT max({call()}) FROM u WHERE u.id < {a}.g)",
            lambda: f"abs({call()})",
            lambda: f"careful({inner()})",
        )()

    def call(self, a, depth=0):
        r = self.r
        argument = self.number(a, depth) if r.random() < 0.3 else self.pick(f"{a}.x", f"{a}.y")
        return self.pick(
            lambda: f"predict('m', {argument})",
            lambda: f"predict('m/y', {argument})",
            lambda: f"predict('two/y[2]', {a}.x, {argument})",
            lambda: f"predict('two/y[1]', {argument}, {a}.y)",
            lambda: f"predict('two/y[2]', {argument}, {a}.y)",
            lambda: f"predict('strict', {argument})",
            lambda: f"(predict_array('two', {a}.y, {argument}))[1]",
        )()

    def test(self, a, depth=1):
        inner = lambda: self.number(a, depth)
        return self.pick(
            lambda: f"{inner()} > {self.r.randrange(30)}",
            lambda: f"{a}.g <> {self.r.randrange(5)} AND {inner()} < {self.r.randrange(30)}",
            lambda: f"({a}.y > 3 OR {inner()} > 8)",
            lambda: f"{inner()} IS NOT NULL",
            lambda: f"{inner()} = ANY ('{{}}'::float8[])",
            lambda: f"{inner()} IN (SELECT z FROM u WHERE id > {self.pick(5, 100)})",
            lambda: f"({a}.g, {inner()}) > (2, 5)",
            lambda: f"EXISTS (SELECT FROM u WHERE u.g = {a}.g AND predict('m', u.z) > {self.r.randrange(5)})",
            lambda: f"{inner()} > ALL (SELECT z FROM u WHERE u.id < {a}.g)",
            lambda: f"{a}.x < 100",
            lambda: f"{a}.id % 3 = 1",
        )()

    def scored(self, alias="a", where=None):
        """A streamed predictions() with the columns of t, some of which may be outputs of the model."""
        r = self.r
        table = r.choice(TABLES)
        inner = self.pick(
            table, table, table, table,
            f"(SELECT * FROM {table} WHERE id % 2 = 0)",
            f"(SELECT * FROM {table} ORDER BY id LIMIT {r.randrange(1, 40)})",
            f"(SELECT id, g, {self.call('c')} AS x, y, s FROM {table} c OFFSET 0)",
            f"(SELECT id, g, x * 2 AS x, {self.call('c')} AS y, s || '!' AS s FROM {table} c)",
            f"(SELECT id, g, nextval('q')::float8 AS x, y, s FROM {table} ORDER BY id OFFSET 0)",
            f"(SELECT * FROM {table} UNION ALL SELECT id + 100, g, x, y, s FROM f)",
            f"(SELECT c.*, u.z FROM {table} c JOIN u ON u.id = c.id)",
            f"(SELECT c.* FROM {table} c LEFT JOIN u ON u.id = c.id)",
            f"(SELECT max(id) AS id, g, max(x) AS x, 1.5::float8 AS y, min(s) AS s FROM {table} GROUP BY g)",
            f"(SELECT id, g, x, y, s FROM {table} WHERE {self.test(table)})",
        )
        model = self.pick("m", "m", "m", "shapes", "shapes", "lenient", "strict", "m/y", "shapes/total")
        clause = where or (f" WHERE {self.test('b')}" if r.random() < 0.3 else "")
        row = self.pick("b", "b", "b", "b ORDER BY b.id, b.y")
        return (f"predictions((SELECT predict_batch('{model}', {row}) FROM {inner} b{clause})) AS {alias}(id int, g int, x float8, y float8, s text)")

    def scored_query(self):
        """A SELECT of the columns of a predictions(), as many definition lists declare them."""
        r = self.r
        table = r.choice(TABLES)
        order = " ORDER BY b.id" if r.random() < 0.5 and table != "f" else ""
        self.order = bool(order)
        where = f" WHERE {self.test('b')}" if r.random() < 0.5 else ""
        of_row = ["id int", "id bigint", "id text", "id numeric(6,2)", "g int", "g smallint", "x float8", "x real", "x numeric", "s text", "s varchar(2)",
                  "s int", "id real"]
        outputs = {"m": ["y float8", "y real", "y numeric(4,1)", "y int", "y real[]", "y jsonb", "y text"],
                   "lenient": ["y float8", "y real"],
                   "shapes": ["label bigint", "label int", "label real", "total real", "total float8[]", "pair real[]", "grid real[]", "pair json"],
                   "shapes/pair": ["pair real[]", "pair jsonb", "total real"]}
        model = r.choice(list(outputs))
        arguments, declared = self.pick(
            ("b", r.sample(of_row, r.randrange(4)) + r.sample(outputs[model], r.randrange(3))),
            ("b", r.sample(of_row, r.randrange(4)) + r.sample(outputs[model], r.randrange(3))),
            ("b.x" if model in ("m", "lenient") else f"b.x, {self.number('b')}", r.sample(outputs[model], r.randrange(1, 3))),
        )
        seen, columns = set(), []
        for column in declared or ["id int"]:
            if column.split()[0] not in seen:
                seen.add(column.split()[0])
                columns.append(column)
        wanted = self.pick("a.*", "a.*", "a", "count(*)", f"a.{columns[0].split()[0]}")
        if wanted == "count(*)":
            self.order = True
        return (f"SELECT {wanted} FROM predictions((SELECT predict_batch('{model}', {arguments}{order}) FROM {table} b{where})) AS a({', '.join(columns)})"
                + (f" LIMIT {r.randrange(0, 12)}" if order and wanted != "count(*)" and r.random() < 0.3 else ""))

    def grouped(self):
        """A SELECT of a predict_batch() for each group. The rows of a group have no order, so its values are sorted."""
        r = self.r
        key = self.pick("a.g", "a.id / 3", "a.id / 3", "a.id % 7", "a.x > 100")
        where = f" WHERE {self.test('a')}" if r.random() < 0.5 else ""
        clause = self.pick("", "", "", " FILTER (WHERE a.id > 3)")
        having = self.pick("", "", "", " HAVING count(*) > 1")
        from_ = self.source()
        if r.random() < 0.4:
            model = self.pick("m", "lenient", "shapes", "strict")
            y = self.pick("b.y::text", "b.y") if model in ("m", "lenient", "strict") else "b.label"
            columns = "id int, g int, s text, label bigint" if model == "shapes" else "id int, g int, s text, y real"
            scored = f"SELECT {key} AS k, predict_batch('{model}', a){clause} AS p FROM {from_}{where} GROUP BY 1{having}"
            return f"SELECT c.k, b.id, b.g, b.s, {y} FROM ({scored}) c, predictions(c.p) AS b({columns}) ORDER BY 1, 2, 3, 5"
        argument = self.number("a")
        model, cast = self.pick(("m", "float8[]"), ("m", "real[]"), ("strict", "text[]"), ("lenient", "real[]"), ("m/y", "float8[]"))
        more = self.pick("", "", f", sum({self.call('a')})", f", cardinality((predict_batch('m', {argument}))::real[])",
                         ", (predict_batch('shapes/label', a.g, a.id))::jsonb || (predict_batch('shapes/pair', a.g, a.id))::jsonb")
        scored = f"SELECT {key} AS k, (predict_batch('{model}', {argument}){clause})::{cast} AS y{more} AS n FROM {from_}{where} GROUP BY 1{having}"
        if not more:
            scored = scored.replace(" AS y AS n", " AS y, 1 AS n")
        n = "(SELECT string_agg(v::text, ',' ORDER BY v::text) FROM jsonb_array_elements(c.n) v)" if "jsonb" in more else "c.n"
        return f"SELECT c.k, (SELECT array_agg(v ORDER BY v) FROM unnest(c.y) v), {n} FROM ({scored}) c ORDER BY 1"

    def source(self):
        """A FROM item with the alias a, with the columns of t."""
        if self.r.random() < 0.3:
            return self.scored()
        table = self.r.choice(TABLES)
        return self.pick(
            table, table, table, table,
            f"(SELECT * FROM {table} WHERE id % 2 = 0)",
            f"(SELECT * FROM {table} ORDER BY id LIMIT {self.r.randrange(1, 40)})",
            f"(SELECT id, g, {self.call('b')} AS x, y, s FROM {table} b OFFSET 0)",
            f"(SELECT id, g, x, nextval('q')::float8 AS y, s FROM {table} ORDER BY id OFFSET 0)",
            f"(SELECT id, g, {self.call('b')} AS x, y, s FROM (SELECT * FROM {table} ORDER BY y OFFSET 0) b OFFSET 0)",
            f"(SELECT * FROM {table} UNION ALL SELECT id + 100, g, x, y, s FROM f)",
            f"(SELECT * FROM f UNION ALL SELECT * FROM f UNION ALL SELECT * FROM {table})",
            f"(SELECT DISTINCT ON (g) * FROM {table} ORDER BY g, id)",
        ) + " a"

    def query(self):
        """A SELECT whose rows are in a fixed order."""
        r = self.r
        where = f" WHERE {self.test('a')}" if r.random() < 0.5 else ""
        if r.random() < 0.2:
            where += f"{' AND' if where else ' WHERE'} {self.test('a')}"
        from_ = self.source()
        kind = r.random()
        if r.random() < 0.15:
            return self.scored_query()
        if r.random() < 0.12:
            return self.grouped()
        if r.random() < 0.04:
            where = " WHERE b.g = u.g" + self.pick("", f" AND {self.test('b')}")
            join, on = self.pick((", ", ""), (" LEFT JOIN LATERAL ", " ON true"))
            scored = self.scored(where=where)
            while "nextval" in scored:
                # PostgreSQL may keep the rows for each u.g, or call a volatile function again.
                scored = self.scored(where=where)
            return f"SELECT u.id, a.id, a.y FROM u{join}{scored}{on} ORDER BY 1, 2, 3"
        limit = f" LIMIT {r.randrange(1, 12)}" + self.pick("", "", f" OFFSET {r.randrange(4)}") if r.random() < 0.3 else ""
        n, m = self.number("a"), self.number("a")
        if kind < 0.35:
            return f"SELECT a.id, {n}, {m} FROM {from_}{where} ORDER BY a.id, a.g, a.y{limit}"
        if kind < 0.45:
            self.order = False
            return f"SELECT a.id, {n} FROM {from_}{where}"
        if kind < 0.53:
            return (f"SELECT a.g, count(*), sum({n}), max({m}) FILTER (WHERE {self.test('a', 0)}) FROM {from_}{where}"
                    f" GROUP BY " + self.pick("a.g", "a.g", "ROLLUP (a.g)") + self.pick("", f" HAVING sum({self.call('a')}) > 20")
                    + f" ORDER BY a.g{limit}")
        if kind < 0.62:
            window = self.pick(
                f"lag({n}) OVER w", f"lead({n}, 2) OVER w", f"nth_value({n}, 3) OVER w", f"first_value({n}) OVER w",
                f"sum({n}) OVER w", f"sum({n}) OVER (PARTITION BY a.g ORDER BY a.id ROWS BETWEEN 2 PRECEDING AND 1 PRECEDING)",
                f"count(*) FILTER (WHERE {self.test('a', 0)}) OVER w")
            return (f"SELECT a.id, {window}, row_number() OVER w FROM {from_}{where}"
                    f" WINDOW w AS (PARTITION BY a.g ORDER BY a.id, a.y) ORDER BY a.id, a.y, 3{limit}")
        if kind < 0.70:
            self.order = False
            return (f"SELECT * FROM (SELECT a.id, {n} AS n, row_number() OVER (PARTITION BY a.g ORDER BY a.id, a.y) AS k FROM {from_}{where}) b"
                    f" WHERE k <= {r.randrange(1, 4)}" + self.pick("", " AND n > 3"))
        if kind < 0.78:
            join = self.pick("JOIN", "LEFT JOIN", "FULL JOIN")
            on = self.pick("a.id = u.id", "a.g = u.g", f"a.id = u.id AND {self.call('a')} > 5")
            if join == "FULL JOIN":
                on = "a.id = u.id"
            empty = self.pick("u", "u", "(SELECT * FROM u WHERE id < 0 OFFSET 0)")
            return f"SELECT a.id, u.id, {n}, u.z FROM {from_} {join} {empty} u ON {on}{where} ORDER BY 1, 2, a.y, u.z, 3"
        if kind < 0.83:
            return f"SELECT a.id, l.k, l.n FROM {from_}, LATERAL (SELECT u.id AS k, {n} AS n FROM u WHERE u.g = a.g ORDER BY u.id LIMIT 2) l{where} ORDER BY 1, 2, a.y"
        if kind < 0.88:
            self.order = False
            materialized = self.pick("MATERIALIZED", "NOT MATERIALIZED")
            return f"WITH c AS {materialized} (SELECT a.id, a.g, {n} AS n FROM {from_}{where}) SELECT * FROM c" + self.pick("", " WHERE n > 4", " UNION ALL SELECT * FROM c WHERE g = 1")
        if kind < 0.92:
            self.order = False
            op = self.pick("UNION", "EXCEPT", "INTERSECT", "UNION ALL")
            return f"SELECT {n} FROM {from_}{where} {op} SELECT {self.call('b')} FROM t b WHERE b.id < 20"
        if kind < 0.95:
            return f"SELECT a.id, generate_series(1, ({self.call('a')})::int % 3) FROM {from_} WHERE a.x < 100 ORDER BY 1, 2, a.y"
        if kind < 0.97:
            return f"WITH RECURSIVE c(k, n) AS (SELECT 1, 1::float8 UNION ALL SELECT k + 1, predict('m', n) FROM c WHERE k < {r.randrange(2, 9)}) SELECT * FROM c ORDER BY k{limit}"
        return f"SELECT * FROM walk({r.randrange(1, 30)})"

    def statements(self):
        """The statements of one transaction; the rows of all of them are compared."""
        r = self.r
        kind = r.random()
        role = ["SET LOCAL ROLE d_reader"] if r.random() < 0.25 else []
        if kind < 0.7:
            query = self.query()
            # Only sorted groups share batches.
            sorted_groups = ["SET LOCAL enable_hashagg = off"] if "GROUP BY 1" in query and r.random() < 0.8 else []
            return role + sorted_groups + [query]
        if kind < 0.82:
            scroll = self.pick("", "SCROLL ", "NO SCROLL ")
            query = self.query()
            while not self.order:
                # Which row comes first is anybody's guess.
                self.order = True
                query = self.query()
            if scroll == "SCROLL " and ("nextval" in query or "careful" in query):
                # PostgreSQL evaluates volatile functions again when it goes back; a batched cursor keeps its rows.
                scroll = ""
            moves = ["FORWARD 1", f"FORWARD {r.randrange(1, 9)}", f"FORWARD {r.randrange(1, 30)}"]
            if scroll == "SCROLL ":
                moves += ["BACKWARD 3", "FORWARD 5"]
            if r.random() < 0.3:
                moves.append("ALL")
            return role + [f"DECLARE c {scroll}CURSOR FOR {query}"] + [f"FETCH {m} FROM c" for m in moves]
        if kind < 0.88:
            query = f"SELECT a.id, {self.number('a')} FROM {self.source()} WHERE a.id > $1 AND {self.test('a')} ORDER BY a.id, a.y"
            plan = self.pick("force_generic_plan", "force_custom_plan")
            return role + [f"SET LOCAL plan_cache_mode = {plan}", f"PREPARE s(int) AS {query}", "EXECUTE s(3)", "EXECUTE s(30)", "DEALLOCATE s"]
        table = "t"
        self.order = False
        dml = self.pick(
            f"UPDATE {table} a SET y = {self.number('a')} WHERE {self.test('a')} RETURNING a.id, a.y, {self.call('a')}",
            f"DELETE FROM {table} a WHERE {self.test('a')} RETURNING a.id, {self.call('a')}",
            f"INSERT INTO none SELECT a.id, a.g, {self.number('a')}, nextval('q'), a.s FROM t a WHERE {self.test('a')} ORDER BY a.id RETURNING id, x, y",
            f"UPDATE {table} a SET y = u.z + {self.number('a')} FROM u WHERE u.id = a.id AND {self.test('a')} RETURNING a.id, a.y",
            f"INSERT INTO t SELECT a.id + {self.pick(0, 40)}, a.g, {self.number('a')}, 1, a.s FROM t a ON CONFLICT (id) DO UPDATE SET y = predict('m', excluded.y) RETURNING id, y",
            f"MERGE INTO t USING (SELECT a.id + 30 AS id, {self.number('a')} AS n FROM t a) k ON t.id = k.id WHEN MATCHED AND k.n > 5 THEN UPDATE SET y = k.n WHEN NOT MATCHED THEN INSERT (id, y) VALUES (k.id, predict('m', k.n))",
            f"INSERT INTO none SELECT a.id, a.g, a.y, a.x, a.s FROM {self.scored()} WHERE {self.test('a')} RETURNING id, x, y",
            f"UPDATE t SET y = a.y FROM {self.scored()} WHERE a.id = t.id RETURNING t.id, t.y",
            f"MERGE INTO t USING (SELECT a.id + 30 AS id, a.y AS n FROM {self.scored()}) k ON t.id = k.id WHEN MATCHED AND k.n > 5 THEN UPDATE SET y = k.n WHEN NOT MATCHED THEN INSERT (id, y) VALUES (k.id, k.n)",
            f"CREATE TABLE made AS {self.scored_query()}",
            f"WITH gone AS (DELETE FROM t WHERE g = 1 RETURNING *) SELECT a.id, a.y FROM predictions((SELECT predict_batch('m', gone) FROM gone)) AS a(id int, y real)",
            f"WITH gone AS (DELETE FROM u WHERE predict('m', z) > 2 RETURNING *) SELECT id, {self.call('a').replace('a.x', 'a.z').replace('a.y', 'a.z')} FROM gone a",
        )
        self.order = False
        return role + [dml, "SELECT id, y FROM t ORDER BY id", "SELECT id, x, y FROM none ORDER BY id, x, y"]


def run(connection, settings, statements, order):
    """What the statements give: their rows, or the error, the rows that models got, and the sequence's value."""
    rows, error = [], None
    before = calls(connection)
    connection.execute("BEGIN")
    connection.execute("SELECT setval('d.q', 1)")
    for setting in settings:
        connection.execute(setting)
    try:
        for statement in statements:
            cursor = connection.execute(statement)
            if cursor.description:
                got = [tuple(repr(v) if not isinstance(v, float) else f"{v:.5g}" for v in row) for row in cursor.fetchall()]
                rows.append(got if order else sorted(got))
    except psycopg.Error as e:
        if connection.closed:
            raise SystemExit(f"the session died: {e}\n" + ";\n".join(settings + statements))
        # Of several rows and calls that fail another may be the first: an Append takes rows as asynchronous scans give them.
        error = "a value is wrong" if e.sqlstate in ("22003", "22004") else f"{e.sqlstate}: {e.diag.message_primary}"
    connection.execute("ROLLBACK")
    connection.execute("DEALLOCATE ALL")
    sequence = connection.execute("SELECT last_value FROM d.q").fetchone()[0]
    return error if error else (calls(connection) - before, sequence, rows)


def calls(connection):
    """The rows that models got from this server so far."""
    return connection.execute("SELECT coalesce(sum(rows), 0)::bigint FROM predict.stat_models").fetchone()[0]


# The rows of the largest batch, in each of the three partitions.
READ_AHEAD = 3 * 7


def main():
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    models = sys.argv[3]
    with psycopg.connect(autocommit=True, prepare_threshold=None) as connection:
        info = connection.info
        connection.execute(SETUP.split("CREATE TABLE hidden")[0].format(host=info.host, port=info.port, db=info.dbname, user=info.user))
        for name, file, options in (("m", "tap_double", "{}"), ("two", "pair_f32", "{}"), ("strict", "tap_double", '{"on_null": "error"}'),
                                    ("lenient", "tap_double", '{"on_error": "null"}'), ("shapes", "shapes", '{"features": ["x", "y"]}')):
            model = open(f"{models}/{file}.onnx", "rb").read()
            connection.execute("SELECT predict.drop_model(%s) FROM predict.models WHERE name = %s LIMIT 1", (name, name))
            connection.execute("SELECT predict.create_model(%s, %s, %s::jsonb)", (name, model, options))
            connection.execute("SELECT predict.grant_usage(%s, 'public')", (name,))
        # A call costs the same with and without batches, so that PostgreSQL chooses the same plans.
        connection.execute("""UPDATE predict.version SET signature = signature || '{"row_micros": 1, "single_micros": 1}'""")
        connection.execute("CREATE TABLE hidden" + SETUP.split("CREATE TABLE hidden")[1])
        connection.execute("ANALYZE; SET search_path = d, public; SET statement_timeout = '20s'")
        differences = errors = less = 0
        for i in range(count):
            r = random.Random(f"{seed}.{i}")
            maker = Maker(r)
            statements = maker.statements()
            settings = [f"SET LOCAL pg_predict.batch_size = {r.choice((0, 3, 7))}"]
            settings += r.sample(["SET LOCAL enable_hashjoin = off", "SET LOCAL enable_mergejoin = off", "SET LOCAL enable_nestloop = off",
                                  "SET LOCAL enable_sort = off", "SET LOCAL enable_hashagg = off", "SET LOCAL enable_seqscan = off",
                                  "SET LOCAL enable_material = off", "SET LOCAL pg_predict.enable_pipelining = off"], r.choice((0, 0, 1, 2)))
            if r.random() < 0.1 and not any("LIMIT" in s or "CURSOR" in s for s in statements):
                # How far workers read ahead of a LIMIT is anybody's guess.
                settings += ["SET LOCAL parallel_setup_cost = 0", "SET LOCAL parallel_tuple_cost = 0", "SET LOCAL min_parallel_table_scan_size = 0"]
            # Asynchronous scans give rows as they arrive: rows that sort alike, and those that a cursor fetches first, have no certain order.
            if maker.order or any("CURSOR" in s or "row_number" in s for s in statements):
                settings += ["SET LOCAL enable_async_append = off"]
            text = "; ".join(statements)
            on = run(connection, settings, statements, maker.order)
            off = run(connection, ["SET LOCAL pg_predict.enable_batch_scan = off", *settings], statements, maker.order)
            fails = isinstance(on, str) or isinstance(off, str)
            errors += fails
            # PostgreSQL plans a streamed predictions() as a sub-select, so it may choose other joins, which call for other rows.
            replanned = "predictions(" in text and any(stop in text for stop in STOPS)
            # One call for several equal ones is what batching may save; never may it make more, but for what is read ahead.
            ahead = READ_AHEAD if any("CURSOR" in s for s in statements) and not statements[-1].startswith("FETCH ALL") else 0
            same = on == off if fails else on[1:] == off[1:] and (replanned or on[0] <= off[0] + ahead)
            # An error of the definition list comes before those of the rows if they are streamed, and after them otherwise.
            both = isinstance(on, str) and isinstance(off, str) and "predictions(" in text
            same = same or (both and "a value is wrong" == off and on[:5] in ("42611", "42804"))
            partly = re.search(r"SELECT (count\(\*\)|a\.\w+) FROM predictions", text)
            if fails and not same and (replanned or partly) and "a value is wrong" in (on, off):
                less += 1
            elif not same:
                differences += 1
                print(f"-- statement {i} of seed {seed}\n" + ";\n".join(settings + statements) + ";")
                print(f"-- on:  {str(on)[:1500]}\n-- off: {str(off)[:1500]}\n", flush=True)
        print(f"{count} statements, {errors} of them errors, {less} read less, {differences} differences, seed {seed}")
        sys.exit(differences > 0)


main()
