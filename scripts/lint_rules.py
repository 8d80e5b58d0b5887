#!/usr/bin/env python3
"""Owns the project's own rules for src/, those that rustfmt and clippy cannot know, and checks them.

usage: scripts/lint_rules.py [CHECKOUT]

Prints one line for each break, `FILE:LINE: RULE: what is wrong`, and ends with 1 when there is one. It looks at code only:
comments and the insides of strings do not count, and what is compiled for tests alone (`#[cfg(test)]`, `#[test]`, a file or
folder called tests) may panic. tests/lint breaks each rule on purpose.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What a room may use of the others. `engine` is a crate of its own and may use nothing of ours; `error` and `guc` may be used
# by every other room, and themselves use what is below the registry.
BELOW = {
    "lib": {"api", "scan", "cost", "registry", "stats", "pg", "error", "guc"},
    "api": {"cost", "registry", "stats", "pg", "error", "guc"},
    "scan": {"cost", "registry", "stats", "pg", "error", "guc"},
    "cost": {"registry", "pg", "error", "guc"},
    "registry": {"pg", "error", "guc"},
    "stats": {"pg", "error", "guc"},
    "error": {"pg", "guc"},
    "guc": {"pg", "error"},
    "pg": {"error", "guc"},
    "engine": set(),
    "bin": set(),
}
ROOMS = set(BELOW) - {"lib", "bin"}
BANNED_NAMES = {"utils", "common", "helpers", "types"}
PANICS = {
    ".unwrap()": r"\.\s*unwrap\s*\(\s*\)",
    ".expect()": r"\.\s*expect\s*\(",
    "panic!": r"\bpanic!",
    "error!": r"\berror!",
    "todo!": r"\btodo!",
    "unimplemented!": r"\bunimplemented!",
}


@dataclass(frozen=True)
class Break:
    """A place where a rule is broken."""

    path: Path
    line: int
    rule: str
    what: str


@dataclass(frozen=True)
class Source:
    """A Rust file: its text, and its code with comments, strings and (in `product`) tests blanked, line for line."""

    path: Path
    room: str
    module: list[str]
    text: str
    code: str
    product: str


# One comment, string or character literal. A nested block comment is closed by hand in `blank`.
LITERAL = re.compile(
    r"""//[^\n]* | /\* | (?:\b(?:br|cr|r)(?P<hashes>\#*)") | (?:\b[bc])?" | (?:\bb)?'(?:[^'\\\n]|\\(?:[^u\n]|u\{[^}]*\}|x..))'""",
    re.VERBOSE,
)


def blank(text: str) -> str:
    """The code of a Rust file with every comment and literal replaced by spaces; line ends stay."""
    kept, at = [], 0
    for start, end in literals(text):
        kept.append(text[at:start])
        kept.append(re.sub(r"[^\n]", " ", text[start:end]))
        at = end
    return "".join(kept) + text[at:]


def literals(text: str) -> Iterator[tuple[int, int]]:
    """Where the comments, strings and character literals are."""
    at = 0
    while found := LITERAL.search(text, at):
        start, at, token = found.start(), found.end(), found.group()
        if token == "/*":
            depth = 1
            while depth and (mark := re.compile(r"/\*|\*/").search(text, at)):
                depth += 1 if mark.group() == "/*" else -1
                at = mark.end()
            at = len(text) if depth else at
        elif found["hashes"] is not None:
            close = text.find('"' + found["hashes"], at)
            at = len(text) if close < 0 else close + 1 + len(found["hashes"])
        elif token.endswith('"'):
            close = re.compile(r'(?:[^"\\]|\\.)*"', re.DOTALL).match(text, at)
            at = close.end() if close else len(text)
        yield start, at


def without_tests(code: str) -> str:
    """`code` with what is compiled for tests alone blanked too."""
    for found in re.finditer(r"#\s*\[\s*(?:cfg\s*\(\s*(?:test|all\s*\(\s*test\b|any\s*\(\s*test\b)|test\s*\]|pg_test\b)", code):
        brace, semicolon = code.find("{", found.end()), code.find(";", found.end())
        if brace < 0 or 0 <= semicolon < brace:
            end = semicolon + 1 if semicolon >= 0 else len(code)
        else:
            end = closing(code, brace)
        code = code[: found.start()] + re.sub(r"[^\n]", " ", code[found.start() : end]) + code[end:]
    return code


def closing(code: str, brace: int) -> int:
    """The place after the bracket that closes the one at `brace`."""
    depth = 0
    for at in range(brace, len(code)):
        if code[at] == "{":
            depth += 1
        elif code[at] == "}":
            depth -= 1
            if depth == 0:
                return at + 1
    return len(code)


def read(root: Path, path: Path) -> Source:
    """One file of src/, with its room and its place in the tree of modules."""
    inside = path.relative_to(root / "src")
    parts = list(inside.with_suffix("").parts)
    room = parts[0]
    module = parts[:-1] if parts[-1] == "mod" or parts == ["lib"] else parts
    text = path.read_text(encoding="utf-8")
    code = blank(text)
    tests = "tests" in parts
    product = re.sub(r"[^\n]", " ", code) if tests else without_tests(code)
    return Source(path.relative_to(root), room, module, text, code, product)


def line_of(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def first_names(code: str, at: int) -> Iterator[tuple[str, int]]:
    """The first names of a path at `at`, which may be a group: `pg::datum` has pg, `{api::x, pg::{a, b}}` has api and pg."""
    name = re.compile(r"\s*(\w+)").match(code, at)
    if name:
        yield name.group(1), name.start(1)
        return
    if not re.compile(r"\s*\{").match(code, at):
        return
    brace = code.index("{", at)
    depth, fresh = 0, False
    for place in range(brace, closing(code, brace)):
        letter = code[place]
        if letter in "{}":
            depth += 1 if letter == "{" else -1
            fresh = letter == "{" and depth == 1
        elif letter == "," and depth == 1:
            fresh = True
        elif fresh and not letter.isspace():
            fresh = False
            if name := re.compile(r"\w+").match(code, place):
                yield name.group(), place


def used_rooms(source: Source) -> Iterator[tuple[str, int]]:
    """The rooms that a file's paths lead to, and where: through `crate::`, and through enough `super::`."""
    for found in re.finditer(r"\bcrate\s*::", source.code):
        yield from first_names(source.code, found.end())
    for found in re.finditer(r"(?<![\w:])(?:super\s*::\s*)+", source.code):
        if found.group().count("super") >= len(source.module):
            yield from first_names(source.code, found.end())


def check_engine_has_no_server(source: Source) -> Iterator[tuple[int, str]]:
    """engine-without-pgrx: the engine room knows no PostgreSQL."""
    if source.room == "engine":
        for found in re.finditer(r"\bpgrx\w*", source.code):
            yield found.start(), f"`{found.group()}` in src/engine/, which must compile and be tested without PostgreSQL"


def check_ort(source: Source) -> Iterator[tuple[int, str]]:
    """ort-only-in-session: one file knows how to call ONNX Runtime, and one how to give it texts."""
    if source.path.as_posix() not in {"src/engine/session.rs", "src/engine/string_tensor.rs"}:
        for found in re.finditer(r"(?<![\w:])(?:::\s*)?ort\s*::|\buse\s+(?:::\s*)?ort\b|\bextern\s+crate\s+ort\b|[{,]\s*ort\s*::", source.code):
            yield found.start(), "`ort` is named outside the files of src/engine/ that may"


def check_unsafe(source: Source) -> Iterator[tuple[int, str]]:
    """unsafe-only-in-pg-and-scan: hand-written unsafe lives where PostgreSQL's memory is handled.

    Two blocks more, each in a file of its own: the processor's switch for denormals and ONNX Runtime's filling of a tensor of
    texts have no safe form.
    """
    if source.room not in {"pg", "scan"}:
        allowed = 1 if source.path.as_posix() in {"src/engine/float.rs", "src/engine/string_tensor.rs"} else 0
        for found in list(re.finditer(r"\bunsafe\b", source.code))[allowed:]:
            yield found.start(), "`unsafe` outside src/pg/ and src/scan/"


def check_safety_notes(source: Source) -> Iterator[tuple[int, str]]:
    """safety-notes-stay-on: nobody switches off the lint that asks for `// SAFETY:`."""
    for found in re.finditer(r"\b(?:undocumented_unsafe_blocks|unsafe_op_in_unsafe_fn)\b", source.code):
        yield found.start(), f"`{found.group()}` is denied for the whole workspace in Cargo.toml and stays so"


def check_sqlstate(source: Source) -> Iterator[tuple[int, str]]:
    """sqlstate-only-in-error: one table gives every error its SQLSTATE."""
    if source.path.as_posix() != "src/error.rs":
        for found in re.finditer(r"\bPgSqlErrorCode\b|\bERRCODE_\w+", source.code):
            yield found.start(), f"`{found.group()}`: SQLSTATEs are named in src/error.rs only"


def check_panics(source: Source) -> Iterator[tuple[int, str]]:
    """no-panic: an error is a value that src/error.rs can tell the user about."""
    for name, pattern in PANICS.items():
        for found in re.finditer(pattern, source.product):
            yield found.start(), f"`{name}` outside tests; return an error"


def check_names(source: Source) -> Iterator[tuple[int, str]]:
    """names-say-what: files and modules are nouns of the domain."""
    parts = source.path.relative_to("src").with_suffix("").parts
    for name in sorted(BANNED_NAMES.intersection(parts)):
        yield 0, f"a file or folder called `{name}`; name it after what it owns"
    for found in re.finditer(r"\bmod\s+(\w+)", source.code):
        if found.group(1) in BANNED_NAMES:
            yield found.start(), f"a module called `{found.group(1)}`; name it after what it owns"


def check_opening(source: Source) -> Iterator[tuple[int, str]]:
    """opens-with-its-duty: a file begins with what it owns."""
    if not source.text.startswith("//!"):
        yield 0, "the file does not open with `//!`: what it owns, what it must not do, its invariants"


def check_rooms(source: Source) -> Iterator[tuple[int, str]]:
    """rooms-look-down: lib -> api, scan -> cost -> registry, stats -> pg -> engine."""
    if source.room not in BELOW:
        yield 0, f"src/{source.room} is no room that DESIGN names; its place among the others is given in scripts/lint_rules.py"
        return
    if source.room == "engine":
        for found in re.finditer(r"\bpg_predict\s*::", source.code):
            yield found.start(), "the room `engine` uses the extension, which is above it"
        return
    for room, at in used_rooms(source):
        if room in ROOMS and room != source.room and room not in BELOW[source.room]:
            yield at, f"the room `{source.room}` uses `{room}`, which is not below it"


RULES = [
    check_engine_has_no_server,
    check_ort,
    check_unsafe,
    check_safety_notes,
    check_sqlstate,
    check_panics,
    check_names,
    check_opening,
    check_rooms,
]


def check_manifests(root: Path) -> Iterator[Break]:
    """The same rules where they show in a Cargo.toml."""
    engine = root / "src" / "engine" / "Cargo.toml"
    for number, line in enumerate(engine.read_text(encoding="utf-8").splitlines(), 1):
        if re.match(r"\s*[\"']?pgrx", line):
            yield Break(engine.relative_to(root), number, "engine-without-pgrx", "the engine room depends on `pgrx`")
        if re.match(r"\s*pg_predict\s*[.=]", line):
            yield Break(engine.relative_to(root), number, "rooms-look-down", "the room `engine` uses the extension, which is above it")
    workspace = root / "Cargo.toml"
    settings = workspace.read_text(encoding="utf-8")
    for lint in ("undocumented_unsafe_blocks", "unsafe_op_in_unsafe_fn"):
        if not re.search(rf'^{lint} = "(?:deny|forbid)"', settings, re.MULTILINE):
            yield Break(workspace.relative_to(root), 1, "safety-notes-stay-on", f"`{lint}` is not denied for the workspace")


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent).resolve()
    files = sorted((root / "src").rglob("*.rs"))
    if not files:
        print(f"{root}/src holds no Rust; nothing was checked", file=sys.stderr)
        return 2
    breaks = list(check_manifests(root))
    for path in files:
        source = read(root, path)
        for rule in RULES:
            name = (rule.__doc__ or "").split(":")[0]
            breaks += [Break(source.path, line_of(source.text, at), name, what) for at, what in rule(source)]
    for broken in sorted(breaks, key=lambda each: (each.path, each.line)):
        print(f"{broken.path}:{broken.line}: {broken.rule}: {broken.what}")
    if not breaks:
        print(f"{len(files)} files keep {len(RULES)} rules")
    return 1 if breaks else 0


if __name__ == "__main__":
    sys.exit(main())
