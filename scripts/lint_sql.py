#!/usr/bin/env python3
"""Owns the rules for sql/, the install script: nothing in it may be captured by an object of another role.

usage: scripts/lint_sql.py [CHECKOUT]

Prints one line for each break, `FILE:LINE: RULE: what is wrong`, and ends with 1 when there is one. pgspot reads the same script
and is believed, but for the functions named here as doors. Needs what tests/lint/requirements.txt pins. tests/lint breaks each
rule on purpose.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pglast import ast, enums, parse_plpgsql, parse_sql
from pglast.parser import split
from pglast.visitors import Visitor

PATH = "SET LOCAL search_path = pg_catalog, pg_temp"
FIXED = ["pg_catalog", "pg_temp"]
# What everybody calls with a query of his or her own, which runs under the search_path of the session: these take note of it, by
# qualified names alone and no operator, and hand on.
DOORS = {"add_checks", "alter_job", "compare", "create_job", "drift", "report", "run_job", "set_baseline", "stage"}
FIX_IN_PROCEDURE = r"PERFORM pg_catalog\.set_config\('search_path', 'pg_catalog, pg_temp', true\);"


@dataclass(frozen=True)
class Statement:
    """A statement of the script, where it stands, and its text."""

    path: Path
    line: int
    text: str
    node: ast.Node


def files(root: Path) -> list[Path]:
    """The files of the script in the order in which they are installed."""
    order = re.findall(r'extension_sql_file!\("\.\./(sql/\w+/\w+\.sql)"', (root / "src" / "lib.rs").read_text(encoding="utf-8"))
    return [root / name for name in order]


def statements(root: Path) -> Iterator[Statement]:
    for path in files(root):
        # The placeholder is as long as what stands for it, so that lines and places stay.
        text = path.read_text(encoding="utf-8").replace("@extschema@", '"_extens_"')
        for place in split(text, only_slices=True):
            piece = text[place]
            blank = re.match(r"(?:\s|--[^\n]*\n)*", piece)
            start = place.start + (blank.end() if blank else 0)
            for raw in parse_sql(piece):
                yield Statement(path.relative_to(root), text.count("\n", 0, start) + 1, piece, raw.stmt)


class Names(Visitor):
    """Whatever is looked for along the search_path: calls, operators, types and relations without a schema."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.open: list[str] = []

    def visit_FuncCall(self, _ancestors, node):  # noqa: N802
        name = [part.sval for part in node.funcname]
        self.calls.append(name[-1])
        if len(name) < 2:
            self.open.append(f"{name[0]}()")

    def visit_A_Expr(self, _ancestors, node):  # noqa: N802
        if len(node.name) < 2:
            self.open.append(f"operator {node.name[0].sval}")

    def visit_RangeVar(self, _ancestors, node):  # noqa: N802
        if not node.schemaname:
            self.open.append(f"relation {node.relname}")

    def visit_TypeName(self, _ancestors, node):  # noqa: N802
        if node.names and len(node.names) < 2:
            self.open.append(f"type {node.names[0].sval}")


def option(node: ast.CreateFunctionStmt, name: str):
    return next((o.arg for o in node.options or () if o.defname == name), None)


def settings(node: ast.CreateFunctionStmt) -> Iterator[ast.VariableSetStmt]:
    for each in node.options or ():
        if each.defname == "set":
            yield each.arg


def has_fixed_path(node: ast.CreateFunctionStmt) -> bool:
    return any(s.name == "search_path" and [a.val.sval for a in s.args or ()] == FIXED for s in settings(node))


def is_text(node: ast.CreateFunctionStmt) -> bool:
    """Whether names in the function's body are looked for when it runs; C has none, RETURN and BEGIN ATOMIC are read at once."""
    language = option(node, "language")
    return node.sql_body is None and (language is None or language.sval != "c")


def name_of(node: ast.CreateFunctionStmt) -> str:
    return node.funcname[-1].sval


def check_path(all_: list[Statement]) -> Iterator[tuple[Statement, str]]:
    """install-looks-in-pg-catalog: the script begins with the search_path that nobody else can write to, and keeps it."""
    if not re.search(re.escape(PATH) + r"\s*\Z", all_[0].text):
        yield all_[0], f"the install script does not begin with {PATH}"
    for each in all_[1:]:
        if isinstance(each.node, ast.VariableSetStmt):
            yield each, "the install script changes a setting"


def check_new(all_: list[Statement]) -> Iterator[tuple[Statement, str]]:
    """install-makes-anew: what somebody made before is never taken over."""
    for each in all_:
        for attribute, said in (("replace", "OR REPLACE"), ("if_not_exists", "IF NOT EXISTS")):
            if getattr(each.node, attribute, False):
                yield each, f"{said} in the install script takes over what somebody else has made"


def check_functions(all_: list[Statement]) -> Iterator[tuple[Statement, str]]:
    """function-fixes-its-path: what a function's body names is looked for in pg_catalog alone."""
    for each in all_:
        node = each.node
        if not isinstance(node, ast.CreateFunctionStmt) or not is_text(node) or has_fixed_path(node):
            continue
        name = name_of(node)
        security = option(node, "security")
        if name not in DOORS or (security is not None and security.boolval):
            yield each, f"{name}() has no SET search_path = pg_catalog, pg_temp"
            continue
        body = option(node, "as")[0].sval
        if re.search(r"\bCOMMIT;", body):
            # A procedure that commits cannot have the clause, and what it sets ends with the transaction.
            between = r"(?:\s*(?:END LOOP;|END IF;|WHILE NOT \w+ LOOP))*\s*"
            if not re.search(r"\nBEGIN\n\s*" + FIX_IN_PROCEDURE, body) or re.search(rf"COMMIT;(?!{between}{FIX_IN_PROCEDURE})", body):
                yield each, f"{name}() does not set search_path first in each of its transactions"
            continue
        for what in open_names(each.text):
            yield each, f"{name}() has no search_path of its own, and {what} without a schema"


def open_names(function: str) -> Iterator[str]:
    """What a function in PL/pgSQL names without a schema in its expressions."""

    def expressions(tree):
        if isinstance(tree, dict):
            if "PLpgSQL_expr" in tree:
                yield tree["PLpgSQL_expr"]["query"]
            for value in tree.values():
                yield from expressions(value)
        elif isinstance(tree, list):
            for value in tree:
                yield from expressions(value)

    for query in expressions(parse_plpgsql(function)):
        # An assignment is `variable := expression`.
        query = re.sub(r"^\s*\w+\s*:=", "", query)
        names = Names()
        try:
            names(parse_sql(query))
        except Exception:  # noqa: BLE001  an expression is not a statement
            names(parse_sql(f"SELECT {query}"))
        yield from names.open


def check_doors_inside(all_: list[Statement]) -> Iterator[tuple[Statement, str]]:
    """no-door-in-a-view: views, policies, defaults and checks call nothing that runs under somebody's search_path."""
    for each in all_:
        if isinstance(each.node, (ast.ViewStmt, ast.CreatePolicyStmt, ast.CreateStmt, ast.CreateFunctionStmt)):
            names = Names()
            names(each.node)
            for call in sorted(DOORS.intersection(names.calls)):
                yield each, f"{call}() is called, which has no search_path of its own"


def check_grants(all_: list[Statement]) -> Iterator[tuple[Statement, str]]:
    """public-changes-no-table: who may change a table may lock it and write what never happened."""
    for each in all_:
        node = each.node
        if isinstance(node, ast.GrantStmt) and node.is_grant and node.objtype == enums.ObjectType.OBJECT_TABLE:
            given = {p.priv_name for p in node.privileges or ()} or {"all"}
            if given - {"select"}:
                yield each, f"the right to {', '.join(sorted(given - {'select'}))} is granted on tables"


def check_behalf(all_: list[Statement]) -> Iterator[tuple[Statement, str]]:
    """behalf-is-closed: what is told who the caller is, is called by the registry's owner alone."""
    closed = set()
    for each in all_:
        node = each.node
        if isinstance(node, ast.GrantStmt) and not node.is_grant and node.objtype == enums.ObjectType.OBJECT_FUNCTION:
            closed |= {(f.objname[-1].sval, f.objargs[0].names[-1].sval if f.objargs else None) for f in node.objects}
    for each in all_:
        node = each.node
        first = node.parameters[0] if isinstance(node, ast.CreateFunctionStmt) and node.parameters else None
        if first is not None and first.name == "caller" and first.argType.names[-1].sval == "oid" and (name_of(node), "oid") not in closed:
            yield each, f"{name_of(node)}() takes the caller's word for who it is, and is not revoked from PUBLIC"


RULES = [check_path, check_new, check_functions, check_doors_inside, check_grants, check_behalf]


def check_pgspot(all_: list[Statement]) -> Iterator[str]:
    """What pgspot says. It cannot read a function whose body is not a text; those are read at installation, under our path."""
    script = "".join(s.text + ";\n" for s in all_ if getattr(s.node, "sql_body", None) is None)
    with tempfile.NamedTemporaryFile("w", suffix=".sql", encoding="utf-8") as file:
        file.write(script)
        file.flush()
        # PS005 is a function without a search_path: the rule above says which may, and what of them is open.
        said = subprocess.run(
            [str(Path(sys.executable).parent / "pgspot"), "--ignore", "PS005", file.name], capture_output=True, text=True, check=False
        )
    lines = [line for line in (said.stdout + said.stderr).splitlines() if line.strip()]
    if "Errors: 0 Warnings: 0 Unknown: 0" not in said.stdout:
        yield from (line for line in lines if not line.startswith("Errors:"))


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent).resolve()
    all_ = list(statements(root))
    if not all_:
        print(f"{root}/sql holds no install script; nothing was checked", file=sys.stderr)
        return 2
    breaks = []
    for rule in RULES:
        name = (rule.__doc__ or "").split(":")[0]
        breaks += [f"{each.path}:{each.line}: {name}: {what}" for each, what in rule(all_)]
    breaks += [f"sql: pgspot: {line}" for line in check_pgspot(all_)]
    for broken in breaks:
        print(broken)
    if not breaks:
        print(f"{len(all_)} statements of the install script keep {len(RULES)} rules, and pgspot has nothing against them")
    return 1 if breaks else 0


if __name__ == "__main__":
    sys.exit(main())
