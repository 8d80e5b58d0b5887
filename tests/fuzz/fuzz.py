"""Random calls against a real server: arguments, options and tokenizers of every kind, good and bad.

  fuzz.py SECONDS [SEED]     run.sh calls it, with a server reachable through libpq's environment variables

What must hold: the backend lives, an error has one of the SQLSTATEs that the manual lists (never XX000), rows in are rows out,
and whatever form a row has, it gets the same answer. The seed is printed: with it, and enough seconds, a run is the same again.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "models"

TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "[UNK]": 1, "red": 2, "green": 3, "blue": 4}, "unk_token": "[UNK]"},
}  # fmt: skip

EXPECTED = {
    "0A000", "22003", "22004", "22023", "22P02", "38000", "42611", "42702", "42704", "42804", "53200", "53400", "54000", "55000",
    # PostgreSQL's own, before a call of ours: a literal that is none, operators and functions that are not there.
    "22007", "22008", "22P03", "42601", "42846", "42883", "42P18", "42725", "2202E", "22021", "22P05", "42P22", "42809",
}  # fmt: skip

NUMBERS = ["0", "1", "-1", "2.5", "'NaN'", "'Infinity'", "'-Infinity'", "1e30", "1e300", "-0.0", "32767", "2147483647", "9223372036854775807", "18446744073709551615", "NULL"]
SCALARS = ["real", "float8", "numeric", "smallint", "integer", "bigint", "boolean", "text", "date", "jsonb", "uuid", "bytea", "varchar(2)"]
TEXTS = ["''", "'red'", "'green blue red red'", "'\u00e9\u4e2d\U0001f600'", "repeat('red ', 3000)", "NULL", "E'\\t\\n'", "'1'", "'true'", "'{}'", "'[1]'", "'\\x00ff'"]


class Fuzz:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.codes: Counter[str] = Counter()
        self.connect()

    def connect(self) -> None:
        self.connection = psycopg.connect(autocommit=True)
        self.connection.execute("SET client_min_messages = error")
        self.connection.execute("SET statement_timeout = '60s'")

    def ask(self, query: str) -> list[tuple[Any, ...]] | None:
        """The rows of a query; none where it fails as it may. What must not be ends the run."""
        try:
            rows = self.connection.execute(query.encode()).fetchall()
        except psycopg.Error as e:
            code = e.sqlstate or "lost"
            self.codes[code] += 1
            if self.connection.broken or code not in EXPECTED:
                print(f"not ok - {code}: {e}\n{query[:2000]}", flush=True)
                raise SystemExit(1) from e
            return None
        self.codes["fine"] += 1
        return rows

    def scalar(self) -> str:
        kind = self.random.choice(SCALARS)
        value = self.random.choice(TEXTS if kind in ("text", "bytea", "jsonb", "varchar(2)") else NUMBERS)
        return f"{value}::{kind}" if self.random.random() < 0.9 else value

    def shape(self) -> list[int]:
        return [self.random.choice([0, 1, 1, 2, 2, 3, 4, 9]) for _ in range(self.random.choice([0, 1, 1, 1, 2, 2, 3, 6, 7]))]

    def array(self) -> str:
        kind = self.random.choice(["real", "float8", "integer", "bigint", "smallint", "numeric", "boolean", "text"])
        values = ["true", "false", "NULL"] if kind == "boolean" else ["1", "0", "2", "-1", "NULL", "1", "7"] if kind in ("integer", "bigint", "smallint") else ["1", "0", "2.5", "NaN", "NULL", "1e30", "-1"]

        def level(shape: list[int]) -> str:
            if not shape:
                return self.random.choice(values) if self.random.random() < 0.2 else values[0]
            return "{" + ",".join(level(shape[1:]) for _ in range(shape[0])) + "}"

        return f"'{level(self.shape() or [1])}'::{kind}[]"

    def content(self) -> str:
        size = self.random.choice([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 100])
        return "'\\x" + self.random.randbytes(size).hex() + "'::bytea"

    def argument(self) -> str:
        return self.random.choice([self.scalar, self.scalar, self.array, self.array, self.content, lambda: self.random.choice(TEXTS)])()

    def row(self) -> str:
        """A row with some of the names that the models know."""
        names = self.random.sample(["x", "h0", "rate", "a", "b", "c", "text", "text_pair", "place", "f32", "i64", "u64", "s", "h", "u", "X", "id", "age", "income"], self.random.randint(1, 6))
        return "(SELECT r FROM (SELECT " + ", ".join(f'{self.argument()} AS "{n}"' for n in names) + ") r)"

    def call(self, model: str) -> None:
        """One row, as a plain call and through the aggregate: both fail, or both give the same."""
        given = self.row() if self.random.random() < 0.3 else ", ".join(self.argument() for _ in range(self.random.choice([1, 1, 1, 2, 3, 3])))
        plain = self.ask(f"SELECT predict_json('{model}', {given})::text")
        batch = self.ask(f"SELECT b::text::prediction_batch::jsonb -> 0, jsonb_array_length(b::jsonb) FROM (SELECT predict_batch('{model}', {given}) AS b) q")
        if batch is not None and batch[0][1] != 1:
            raise SystemExit(f"not ok - one row in, {batch[0][1]} out: {model} {given}")
        if plain is not None and batch is not None and plain[0][0] is not None:
            single, together = json.loads(plain[0][0]), batch[0][0]
            if any(name not in together for name in single):
                raise SystemExit(f"not ok - outputs differ: {model} {given}: {plain} {batch}")

    def rows(self, model: str) -> None:
        """Several rows of one type: as many come back, in step with their keys."""
        kind = self.random.choice(["real[]", "float8[]", "integer[]", "bigint[]", "bytea", "text", "bigint", "real"])
        values = []
        for n in range(self.random.randint(1, 40)):
            shape = [self.random.choice([1, 2, 2, 3])]
            made = {
                "bytea": lambda: "\\x" + self.random.randbytes(4 * self.random.choice([1, 2, 3])).hex(),
                "text": lambda: " ".join(self.random.choices(["red", "green", "blue", "pink"], k=self.random.randint(0, 9))),
                "bigint": lambda: str(self.random.randint(-12, 12)),
                "real": lambda: str(self.random.uniform(-5, 5)),
            }.get(kind, lambda: "{" + ",".join(str(self.random.randint(0, 9)) for _ in range(shape[0])) + "}")()
            values.append(f"({n}, {'NULL' if self.random.random() < 0.1 else repr(made)}::{kind})")
        size = self.random.choice([0, 1, 2, 7])
        self.ask(f"SELECT set_config('pg_predict.batch_size', '{size}', false)")
        got = self.ask(f"SELECT jsonb_array_length((predict_batch('{model}', v ORDER BY n))::jsonb) FROM (VALUES {', '.join(values)}) t(n, v)")
        self.ask("SELECT set_config('pg_predict.batch_size', '0', false)")
        if got is not None and got[0][0] != len(values):
            raise SystemExit(f"not ok - {len(values)} rows in, {got[0][0]} out of {model}")

    def anything(self, depth: int = 0) -> Any:
        """Any JSON."""
        kind = self.random.randrange(8 if depth < 3 else 6)
        if kind == 6:
            return [self.anything(depth + 1) for _ in range(self.random.randint(0, 3))]
        if kind == 7:
            return {self.random.choice(["x", "a", "type", ""]): self.anything(depth + 1) for _ in range(self.random.randint(0, 3))}
        return [None, True, self.random.choice([0, 1, -1, 2, 1e30, 1 << 63]), self.random.choice(["", "x", "mean", "none", "null", "NaN"]), 0.5, "force"][kind]

    def mutated(self, value: Any) -> Any:
        """A JSON value with something in it changed, dropped or put twice."""
        if isinstance(value, dict) and value and self.random.random() < 0.8:
            key = self.random.choice(list(value))
            if self.random.random() < 0.2:
                return {k: v for k, v in value.items() if k != key}
            return value | {key: self.mutated(value[key])}
        if isinstance(value, list) and value and self.random.random() < 0.5:
            place = self.random.randrange(len(value))
            return value[:place] + [self.mutated(value[place])] + value[place + 1 :]
        return self.anything()

    def creation(self, models: dict[str, bytes]) -> None:
        """A version with options and a tokenizer that may be wrong; one that is made must be usable or say why not."""
        keys = ["features", "on_null", "on_error", "defaults", "constants", "shapes", "pad", "batch", "batch_size", "threads", "max_length", "pooling", "normalize", "nonsense"]
        likely: dict[str, list[Any]] = {
            "features": [["x"], ["a", "b", "c"], ["text"]], "on_null": ["nan", "error"], "on_error": ["null"], "defaults": [{"x": 1}], "constants": [{"rate": 1}, {"h0": 0}, {"x": [1, 2]}],
            "shapes": [{"x": [2]}, {"x": [None]}], "pad": [{"x": 0}], "batch": ["none", "force", "auto"], "batch_size": [1, 3], "threads": [1], "max_length": [1, 3], "pooling": ["mean", "cls"], "normalize": [True],
        }  # fmt: skip
        options = {}
        for key in self.random.sample(keys, self.random.randint(0, 3)):
            options[key] = self.random.choice(likely[key]) if key in likely and self.random.random() < 0.7 else self.anything()
        if self.random.random() < 0.05:
            options = self.anything()
        name = self.random.choice(list(models))
        tokenizer = "NULL"
        if name == "tokens" or self.random.random() < 0.1:
            made = copy.deepcopy(TOKENIZER)
            for _ in range(self.random.randint(0, 2)):
                made = self.mutated(made)
            tokenizer = "'" + json.dumps(made).replace("'", "''").replace("\\u0000", "") + "'"
        made = self.ask(f"SELECT predict.create_model('made', '\\x{models[name].hex()}', '{json.dumps(options)}', {tokenizer})")
        if made is None:
            return
        described = self.ask("SELECT predict.describe('made')")
        for _ in range(3):
            self.call("made")
            self.rows("made")
        if described:
            self.ask(described[0][0])
        self.ask("SELECT predict.drop_model('made')")


def main() -> None:
    seconds = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    print(f"# seed {seed}", flush=True)
    fuzz = Fuzz(seed)
    names = ["linear", "named", "open", "text", "grid", "types", "state", "rate", "ragged", "nonzero", "rank7", "pieces", "narrow", "told", "table", "tokens", "zipmap_text", "centred"]
    models = {name: (MODELS / f"{name}.onnx").read_bytes() for name in names}
    for name, content in models.items():
        tokenizer = f"'{json.dumps(TOKENIZER)}'" if name == "tokens" else "NULL"
        fuzz.connection.execute(f"SELECT predict.create_model('{name}', '\\x{content.hex()}', '{{}}', {tokenizer})".encode())
    until = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < until:
        rounds += 1
        chance = fuzz.random.random()
        if chance < 0.5:
            fuzz.call(fuzz.random.choice(names))
        elif chance < 0.9:
            fuzz.rows(fuzz.random.choice(names))
        else:
            fuzz.creation(models)
    print(f"# {rounds} rounds: " + ", ".join(f"{code} {n}" for code, n in fuzz.codes.most_common()))
    if fuzz.codes["fine"] < rounds // 10:
        raise SystemExit("not ok - hardly anything works: the calls are not what they should be")
    print("ok - the backend lived, and every error was one that the manual lists")


if __name__ == "__main__":
    main()
