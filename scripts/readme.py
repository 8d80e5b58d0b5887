#!/usr/bin/env python3
"""Owns `make readme`: runs the SQL of README.md and of the manual in order, in one psql session, against the output printed below
each block.

usage: scripts/cluster.sh run scripts/readme.py [--update] [FILE..]

Without files: README.md, then the pages of docs/ in the order of docs/SUMMARY.md. What a page makes, the next ones have.

A block that opens with ```sql is followed by a block that opens with ```text, or with no language, which holds what psql
prints, to the letter, errors included (blank lines at its end do not count). A block whose output is nobody's business stands
below the line `<!-- readme: succeeds -->`: it must raise no error. A block with neither is a failure, so that nothing in
the manual goes unchecked. `--update` writes what psql printed into the file.

The database is fresh and holds what the demo's does: the extension, the tables of models/sql/load.sql and the models of
models/sql/create.sql; the psql variables `models` and `generated` name the folders models/ and target/models. Its server is
the one that PGHOST and PGPORT name.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "readme"
SUCCEEDS = "<!-- readme: succeeds -->"
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>\w*)[^\n`]*\n(?P<body>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A piece of SQL in the manual, where it stands, and where its printed output stands, if it has one."""

    line: int
    sql: str
    succeeds: bool
    output: tuple[int, int] | None


def blocks(text: str) -> list[Block]:
    """The SQL blocks of a manual, in order."""
    fences = list(FENCE.finditer(text))
    found = []
    for position, fence in enumerate(fences):
        if fence["language"] != "sql":
            continue
        after = fences[position + 1] if position + 1 < len(fences) else None
        output = None
        if after and after["language"] in ("", "text") and not text[fence.end() : after.start()].strip():
            output = after.span("body")
        before = text[: fence.start()].rstrip().rsplit("\n", 1)[-1].strip()
        found.append(Block(text.count("\n", 0, fence.start()) + 1, fence["body"], before == SUCCEEDS, output))
    return found


def psql(*arguments: str, database: str = DATABASE, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs psql; what it says on either channel comes back as one text, in the order of its saying."""
    return subprocess.run(
        ["psql", "-X", "-d", database, "-v", f"models={ROOT / 'models'}", "-v", f"generated={ROOT / 'target' / 'models'}", *arguments],
        input=script,
        stdin=subprocess.DEVNULL if script is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PGCLIENTENCODING": "UTF8", "LC_ALL": "C.UTF-8", "PGTZ": "UTC", "PGAPPNAME": "readme", "PAGER": "cat", "COLUMNS": "0"},
        check=False,
    )


def prepare() -> None:
    """Makes the database anew, with the demo's tables and models."""
    steps = [
        ("making the database", ("-q", "-v", "ON_ERROR_STOP=1", "-c", f"DROP DATABASE IF EXISTS {DATABASE}", "-c", f"CREATE DATABASE {DATABASE}"), "postgres"),
        ("creating the extension", ("-q", "-v", "ON_ERROR_STOP=1", "-c", "CREATE EXTENSION pg_predict"), DATABASE),
        ("loading the tables", ("-q", "-f", str(ROOT / "models/sql/load.sql")), DATABASE),
        ("creating the models", ("-q", "-f", str(ROOT / "models/sql/create.sql")), DATABASE),
    ]
    for what, arguments, database in steps:
        print(what, file=sys.stderr, flush=True)
        done = psql(*arguments, database=database)
        if done.returncode != 0:
            sys.exit(f"error: {what} failed:\n{done.stdout}")


def run(found: list[Block]) -> list[str]:
    """What psql prints for each block, all of them in one session, as a reader would have it."""
    mark = f"-- readme {os.urandom(8).hex()} "
    script = ["SET client_min_messages = notice;\n"]
    for number, block in enumerate(found):
        script.append(f"\\echo '{mark}{number}'\n{block.sql}\n")
    done = psql(script="".join(script))
    parts = re.split(rf"^{re.escape(mark)}\d+\n", done.stdout, flags=re.MULTILINE)[1:]
    if len(parts) != len(found):
        last = found[max(len(parts) - 1, 0)]
        sys.exit(f"error: the session ended in the block of line {last.line}, `{last.sql[:60]}` (an open quote, \\q, or a lost server?):\n{parts[-1] if parts else done.stdout}")
    return [tidy(part) for part in parts]


def tidy(text: str) -> str:
    """Without what an editor would take away: blanks at the ends of lines, and blank lines at the end."""
    return "".join(f"{line.rstrip()}\n" for line in text.rstrip().splitlines())


def raised(output: str) -> bool:
    return re.search(r"^(ERROR|FATAL|PANIC):|^psql: error|^invalid command|^\\\w+: |^server closed the connection", output, re.MULTILINE) is not None


def pages() -> list[Path]:
    """README.md and the manual, in the reader's order."""
    summary = (ROOT / "docs/SUMMARY.md").read_text(encoding="utf-8")
    ordered = [ROOT / "docs" / name for name in re.findall(r"\]\(([^)]+\.md)\)", summary)]
    # Those that a page takes in.
    others = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path not in ordered]
    return [ROOT / "README.md", *ordered, *others]


@dataclass
class Manual:
    """A file, its blocks and what is to be rewritten in it."""

    path: Path
    text: str
    found: list[Block]
    updates: list[tuple[tuple[int, int], str]]


def main() -> int:
    arguments = sys.argv[1:]
    update = "--update" in arguments
    names = [argument for argument in arguments if argument != "--update"]
    manuals = []
    for path in [Path(name) for name in names] or pages():
        text = path.read_text(encoding="utf-8")
        manuals.append(Manual(path, text, blocks(text), []))
    if not any(manual.found for manual in manuals):
        print("error: there is no SQL block", file=sys.stderr)
        return 1
    prepare()
    outputs = iter(run([block for manual in manuals for block in manual.found]))

    passed, failures = 0, 0
    for manual in manuals:
        for block in manual.found:
            output = next(outputs)
            place = f"{manual.path.name}:{block.line}"
            if block.output is not None:
                printed = tidy(manual.text[slice(*block.output)])
                if output == printed:
                    passed += 1
                elif update:
                    manual.updates.append((block.output, output))
                else:
                    failures += 1
                    print(f"FAILED {place}: psql prints something else")
                    sys.stdout.writelines(difflib.unified_diff(printed.splitlines(True), output.splitlines(True), "printed in the manual", "printed by psql", n=2))
            elif not block.succeeds:
                failures += 1
                print(f"FAILED {place}: the block has no output below it, nor `{SUCCEEDS}` above it; psql prints:\n{output}", end="")
            elif raised(output):
                failures += 1
                print(f"FAILED {place}: the block should succeed; psql prints:\n{output}", end="")
            else:
                passed += 1
        for (start, end), output in reversed(manual.updates):
            manual.text = manual.text[:start] + output + manual.text[end:]
        if manual.updates:
            manual.path.write_text(manual.text, encoding="utf-8")
            print(f"{len(manual.updates)} outputs rewritten in {manual.path}: read them before you keep them")
    print(f"{passed} passed, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
