"""The command line: pg-predict push | list | promote | score."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import psycopg

from . import __version__, api
from .convert import need
from .errors import PgPredictError


def option(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as JSON where it is."""
    key, found, value = text.partition("=")
    if not found or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="pg-predict", description="Models of pg_predict, the PostgreSQL extension for batch inference.")
    top.add_argument("--version", action="version", version=f"pg-predict {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dsn", default=os.environ.get("PG_PREDICT_DSN", ""), help="connection string (default: PG_PREDICT_DSN, else what PGHOST and so on say)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    push = commands.add_parser("push", parents=[common], help="create a version of an ONNX file")
    push.add_argument("model", type=Path, help="model.onnx; weights that it names are taken from beside it")
    push.add_argument("--name", help="of the model (default: the file's, without .onnx)")
    push.add_argument("--alias", help="is pointed at the version")
    push.add_argument("--force", action="store_true", help="set the alias though checks fail")
    push.add_argument("--tokenizer", type=Path, help="tokenizer.json of a model that takes tokens")
    push.add_argument("--option", type=option, action="append", default=[], metavar="KEY=VALUE", help="of predict.create_model(), as JSON or text; may be repeated")
    push.add_argument("--sample", type=Path, help="CSV of rows that become golden rows and the baseline, where the version becomes the default")
    commands.add_parser("list", parents=[common], help="list the versions")
    promote = commands.add_parser("promote", parents=[common], help="point an alias at a version")
    promote.add_argument("name")
    promote.add_argument("number", type=int, metavar="version")
    promote.add_argument("--alias", default="default")
    promote.add_argument("--force", action="store_true", help="though checks fail")
    score = commands.add_parser("score", parents=[common], help="score the rows of a query and print them as CSV")
    score.add_argument("model", help="name[@version | @alias][/output]")
    score.add_argument("query")
    score.add_argument("--columns", help="of the rows, separated by commas (default: those that the model does not take)")
    return top


def run(arguments: argparse.Namespace) -> None:
    if arguments.command == "push":
        sample = None
        if arguments.sample is not None:
            sample = need("pandas", "pandas").read_csv(arguments.sample)
        name = arguments.name or arguments.model.name.removesuffix(".onnx")
        done = api.register(
            arguments.dsn,
            name,
            arguments.model,
            sample,
            alias=arguments.alias,
            options=dict(arguments.option),
            tokenizer=arguments.tokenizer,
            force=arguments.force,
        )
        print(f"{done.reference} ({', '.join(done.aliases) or 'no alias'})")
    elif arguments.command == "list":
        for v in api.models(arguments.dsn):
            print(f"{v.name}@{v.version}\t{','.join(v.aliases)}\t{v.owner}\t{v.bytes}\t{v.created_at:%Y-%m-%d %H:%M:%S}")
    elif arguments.command == "promote":
        api.promote(arguments.dsn, arguments.name, arguments.number, arguments.alias, force=arguments.force)
        print(f"{arguments.name}@{arguments.number} is {arguments.alias}")
    else:
        columns = arguments.columns.split(",") if arguments.columns else None
        table = api.predict(arguments.dsn, arguments.model, arguments.query, columns=columns, to="arrow")
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(table.column_names)
        for batch in table.to_batches():
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def main() -> int:
    """Exit status 0, 1 for an error (told in a line or three, without a traceback), 2 for a wrong command line."""
    arguments = parser().parse_args()
    try:
        run(arguments)
    except (PgPredictError, psycopg.Error, OSError) as error:
        print(f"pg-predict: {str(error).strip()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
