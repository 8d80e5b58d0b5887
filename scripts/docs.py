#!/usr/bin/env python3
"""Holds the manual against what it is about.

usage: scripts/cluster.sh run -c shared_preload_libraries=pg_predict scripts/docs.py reference [--docs FOLDER]
       scripts/docs.py links SITE [--docs FOLDER]

`reference` compares the tables of docs/reference/ with the code, both ways: functions (arguments, results), types, views and their
columns, settings (default, who may set them) as the server of PGHOST has them; options and SQLSTATEs as the sources do. A
function is for users if its SQL has a comment and it is not in the schema predict_internal; an internal error is a bug, and has no row. `links` follows every link of the built site, and those of README.md, to a file and an
anchor that are there, and finds pages that SUMMARY.md lacks.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
CODE = re.compile(r"`([^`]+)`")


def query(sql: str) -> list[list[str]]:
    """Rows of a query, in a session that has loaded the library."""
    done = subprocess.run(
        ["psql", "-X", "-qAt", "-F", "\x1f", "-R", "\x1e", "-v", "ON_ERROR_STOP=1"], input=f"LOAD 'pg_predict';\n{sql}", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"error: {done.stderr}")
    return [row.split("\x1f") for row in done.stdout.rstrip("\n").split("\x1e") if row]


def cells(text: str) -> Iterator[list[str]]:
    """The rows of a page's tables, without heads."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("|") and not re.match(r"^\|[-:| ]+\|$", line) and not (i + 1 < len(lines) and re.match(r"^\|[-:| ]+\|$", lines[i + 1])):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def signature(arguments: str) -> str:
    """Arguments without casts and spaces that mean nothing."""
    plain = re.sub(r"::[a-z ]+(\[\])?", "", arguments).replace('"any"', "any").replace("double precision", "float8").replace("0.0001", "1e-4")
    return re.sub(r"\s+", " ", re.sub(r"\bIN ", "", plain)).strip()


OF_EXTENSION = "d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_predict')"


def functions(page: str) -> Iterator[str]:
    known: dict[str, tuple[str, str, bool]] = {}
    rows = query(
        f"""SELECT p.proname, pg_get_function_arguments(p.oid), coalesce(pg_get_function_result(p.oid), ''),
                   p.pronamespace <> 'predict_internal'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NOT NULL
              FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND {OF_EXTENSION}"""
    )
    for name, arguments, result, for_users in rows:
        if name not in known or for_users == "t":
            known[name] = (signature(arguments), result, for_users == "t")
    told: set[str] = set()
    for row in cells(page):
        for name, arguments in re.findall(r"`(\w+)\(([^`]*)\)`", row[0]):
            told.add(name)
            if name not in known:
                yield f"function {name}() is in the reference, and the extension has none"
                continue
            has, result, _ = known[name]
            if signature(arguments) != has:
                yield f"function {name}({signature(arguments)}) takes ({has})"
            if len(re.findall(r"`\w+\(", row[0])) > 1 or not result:
                continue
            if result.startswith("TABLE("):
                lost = [c.split()[0] for c in result[6:-1].split(", ") if f"`{c.split()[0]}" not in row[2]]
                if lost:
                    yield f"function {name}() returns the columns {', '.join(lost)} too"
            elif f"`{signature(result)}" not in row[2] and f"`{result}" not in row[2]:
                yield f"function {name}() returns {result}, and the reference says {row[2]!r}"
    for name, (arguments, _, for_users) in sorted(known.items()):
        if for_users and name not in told:
            yield f"function {name}({arguments}) is not in the reference"


def types(page: str) -> Iterator[str]:
    rows = query(
        f"""SELECT t.typname FROM pg_type t JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND {OF_EXTENSION}
             WHERE t.typtype = 'b' AND t.typcategory <> 'A' AND t.typnamespace <> 'predict_internal'::regnamespace"""
    )
    for (name,) in rows:
        if f"`{name}`" not in page and f"`predict.{name}`" not in page:
            yield f"type {name} is not in the reference"


def views(page: str) -> Iterator[str]:
    have: dict[str, list[str]] = {}
    for view, column in query(
        """SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE c.relnamespace = 'predict'::regnamespace AND c.relkind = 'v' ORDER BY 1, a.attnum"""
    ):
        have.setdefault(view, []).append(column)
    lines = page.splitlines()
    places = {view: next((i for i, line in enumerate(lines) if f"`predict.{view}`" in line), None) for view in have}
    begins = sorted({i for i in places.values() if i is not None})
    for view, columns in have.items():
        begin = places[view]
        if begin is None:
            yield f"view predict.{view} is not in the reference"
            continue
        end = next((i for i in begins if i > begin), len(lines))
        said = {word for code in CODE.findall("\n".join(lines[begin:end])) for word in re.findall(r"[\w*]+", code)}
        starts = tuple(word[:-1] for word in said if word.endswith("*") and len(word) > 1)
        lost = [c for c in columns if c not in said and not (starts and c.startswith(starts))]
        if lost:
            yield f"view predict.{view} has the columns {', '.join(lost)} too"
    for name in set(re.findall(r"`predict\.(\w+)`", page)) - set(have):
        yield f"view predict.{name} is in the reference, and the extension has none"


def settings(page: str) -> Iterator[str]:
    have = {row[0]: row[1:] for row in query("SELECT name, current_setting(name), context FROM pg_settings WHERE name LIKE 'pg\\_predict.%'")}
    told: set[str] = set()
    for row in cells(page):
        name = row[0].strip("`")
        told.add(name)
        if name not in have:
            yield f"setting {name} is in the reference, and the server has none"
            continue
        default, context = have[name]
        said = row[1].strip("`")
        if said != (default or "empty"):
            yield f"setting {name} is {default or 'empty'} by default, and the reference says {said}"
        if row[3] != context:
            yield f"setting {name} is for a {context}, and the reference says {row[3]}"
    for name in sorted(set(have) - told):
        yield f"setting {name} is not in the reference"


def options(page: str) -> Iterator[str]:
    source = (ROOT / "crates/engine/src/options.rs").read_text(encoding="utf-8")
    struct = re.search(r"pub struct Options \{(.*?)\n\}", source, re.DOTALL)
    have = set(re.findall(r"^    pub (\w+):", struct[1], re.MULTILINE)) if struct else set()
    told = {row[0].strip("`") for row in cells(page)}
    yield from (f"option {name} is not in the reference" for name in sorted(have - told))
    yield from (f"option {name} is in the reference, and there is none" for name in sorted(told - have))


def errors(page: str) -> Iterator[str]:
    have = {name.lower() for name in re.findall(r"\bERRCODE_(\w+)", (ROOT / "src/pg/report.rs").read_text(encoding="utf-8"))} - {"successful_completion", "internal_error"}
    for file in sorted((ROOT / "sql").rglob("*.sql")):
        have |= set(re.findall(r"\bRAISE (?!EXCEPTION|NOTICE|WARNING|INFO|LOG|DEBUG)([a-z_]+) USING", file.read_text(encoding="utf-8")))
    told = {row[1].strip("`"): row[0] for row in cells(page)}
    yield from (f"SQLSTATE {name} is not in the reference" for name in sorted(have - set(told)))
    yield from (f"SQLSTATE {told[name]} {name} is in the reference, and nothing raises it" for name in sorted(set(told) - have))
    pairs = "".join(
        f"DO $$ BEGIN RAISE SQLSTATE '{state}'; EXCEPTION WHEN {name} THEN NULL; WHEN OTHERS THEN RAISE WARNING 'SQLSTATE {state} is not {name}'; END $$;\n"
        for name, state in told.items()
        if name in have and name != "warning"
    )
    done = subprocess.run(["psql", "-X", "-q"], input=pairs, capture_output=True, text=True, check=False)
    yield from (line.partition("WARNING:  ")[2] for line in done.stderr.splitlines() if "WARNING:  " in line)


class Page(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.anchors.add(value)
            if value and (tag, name) in (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src")):
                self.links.append(value)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")


def links(site: Path, docs: Path) -> Iterator[str]:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name in ("print.html", "404.html", "toc.html"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{path.relative_to(site)}: there is no {link}"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{path.relative_to(site)}: {link} names an anchor that is not there"
    for source in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "examples").glob("*/README.md")), ROOT / "examples/README.md", ROOT / "clients/python/README.md"]:
        for link in re.findall(r"\]\(([^)\s]+)\)", source.read_text(encoding="utf-8")):
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (source.parent / parts.path).resolve() if parts.path else source
            if not target.exists():
                yield f"{source.relative_to(ROOT)}: there is no {link}"
            elif parts.fragment and target.suffix == ".md":
                text = re.sub(r"^```.*?^```", "", target.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
                if parts.fragment not in {slug(h) for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}:
                    yield f"{source.relative_to(ROOT)}: {link} names a heading that is not there"
    listed = set(re.findall(r"\]\(([^)]+\.md)\)", (docs / "SUMMARY.md").read_text(encoding="utf-8"))) | {"SUMMARY.md"}
    for path in sorted(docs.rglob("*.md")):
        name = path.relative_to(docs).as_posix()
        if name not in listed and path.name != "README.md":
            yield f"docs/{name} is not in SUMMARY.md"


def main() -> int:
    arguments = sys.argv[1:]
    docs = ROOT / "docs"
    if "--docs" in arguments:
        at = arguments.index("--docs")
        docs = Path(arguments[at + 1])
        del arguments[at : at + 2]
    if arguments[:1] == ["links"] and len(arguments) == 2:
        found = list(links(Path(arguments[1]).resolve(), docs))
    elif arguments == ["reference"]:
        query("CREATE EXTENSION IF NOT EXISTS pg_predict")
        read = {name: (docs / "reference" / f"{name}.md").read_text(encoding="utf-8") for name in ("functions", "types", "views", "settings", "options", "errors")}
        checks = (functions, types, views, settings, options, errors)
        found = [problem for check in checks for problem in check(read[check.__name__])]
    else:
        print(__doc__, file=sys.stderr)
        return 2
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{arguments[0]}: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
