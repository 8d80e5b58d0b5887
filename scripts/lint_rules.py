#!/usr/bin/env python3
"""Checks the project's own rules for its Rust code, which rustfmt and clippy cannot know.

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

# Rooms from the lowest to the highest, for each crate: a room may use those before it, and no other. A file beside the rooms is one too.
EXTENSION = ["error", "pg", "settings", "rows", "runtime", "results", "registry", "planner", "scan", "stats", "api", "lib"]
ENGINE = [
    "error", "tensor", "hash", "memory", "device", "signature", "options", "reference", "version", "batch", "text", "threads", "onnx", "trees",
    "encoding", "file_cache", "ort", "run", "validation", "tests", "lib",
]
MODEL_PROCESS = ["memory", "sandbox", "messages", "control", "codec", "spawn", "killed", "client", "server", "bin", "lib"]
BENCHES = ["address", "target", "cpu", "machine", "arguments", "statements", "figures", "measurements", "report", "measure", "main"]
CRATES = {"src": EXTENSION, "crates/engine/src": ENGINE, "crates/model_process/src": MODEL_PROCESS, "benches/src": BENCHES}
# Rooms that handle PostgreSQL's memory.
UNSAFE_ROOMS = {"pg", "rows", "runtime", "results", "planner", "scan"}
# Rooms of the model process that handle shared memory, descriptors and processes.
UNSAFE_PROCESS_ROOMS = set(MODEL_PROCESS) - {"codec", "killed", "client", "lib"}
# Rooms of the engine with the vector instructions of a processor.
UNSAFE_ENGINE_ROOMS = {"trees"}
# The number of blocks that have no safe form: denormals as zero during a run, the texts of a tensor,
# the tensors of an operator that ONNX Runtime calls, and weights in memory.
UNSAFE_FILES = {
    "crates/engine/src/ort/denormals.rs": 1, "crates/engine/src/ort/string_tensor.rs": 1, "crates/engine/src/ort/tree_operator.rs": 6,
    "crates/engine/src/ort/weights.rs": 2,
    "benches/src/measurements/raw.rs": 1,
}
REPORT = "src/pg/report.rs"
MOST_FILES = 12
MOST_LINES = 600
LONG = "//! Longer than 600 lines because"
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
    crate: str
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


def read(root: Path, crate: str, path: Path) -> Source:
    """One file of a crate, with its room and its place in the tree of modules."""
    inside = path.relative_to(root / crate)
    parts = list(inside.with_suffix("").parts)
    room = parts[0]
    module = parts[:-1] if parts[-1] == "mod" or parts == ["lib"] else parts
    text = path.read_text(encoding="utf-8")
    code = blank(text)
    tests = "tests" in parts
    product = re.sub(r"[^\n]", " ", code) if tests else without_tests(code)
    return Source(path.relative_to(root), crate, room, module, text, code, product)


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
    """engine-without-pgrx: the engine knows no PostgreSQL."""
    if source.crate == "crates/engine/src":
        for found in re.finditer(r"\bpgrx\w*", source.code):
            yield found.start(), f"`{found.group()}` in the engine, which must compile and be tested without PostgreSQL"


def check_ort(source: Source) -> Iterator[tuple[int, str]]:
    """ort-only-in-its-room: one room knows how to call ONNX Runtime."""
    if source.crate != "benches/src" and not source.path.as_posix().startswith("crates/engine/src/ort/"):
        for found in re.finditer(r"(?<![\w:])(?:::\s*)?ort\s*::|\buse\s+(?:::\s*)?ort\b|\bextern\s+crate\s+ort\b|[{,]\s*ort\s*::", source.code):
            yield found.start(), "`ort` is named outside crates/engine/src/ort/"


def check_unsafe(source: Source) -> Iterator[tuple[int, str]]:
    """unsafe-only-in-its-rooms: hand-written unsafe stays where PostgreSQL's memory is handled."""
    rooms = {"src": UNSAFE_ROOMS, "crates/model_process/src": UNSAFE_PROCESS_ROOMS, "crates/engine/src": UNSAFE_ENGINE_ROOMS}.get(source.crate, set())
    if source.room not in rooms:
        allowed = UNSAFE_FILES.get(source.path.as_posix(), 0)
        for found in list(re.finditer(r"\bunsafe\b", source.code))[allowed:]:
            yield found.start(), "`unsafe` outside the rooms of scripts/lint_rules.py that may"


def check_safety_notes(source: Source) -> Iterator[tuple[int, str]]:
    """safety-notes-stay-on: nobody switches off the lint that asks for `// SAFETY:`."""
    for found in re.finditer(r"\b(?:undocumented_unsafe_blocks|unsafe_op_in_unsafe_fn)\b", source.code):
        yield found.start(), f"`{found.group()}` is denied for the whole workspace in Cargo.toml and stays so"


def check_sqlstate(source: Source) -> Iterator[tuple[int, str]]:
    """sqlstate-only-in-report: one table gives every error its SQLSTATE."""
    if source.path.as_posix() != REPORT:
        for found in re.finditer(r"\bPgSqlErrorCode\b|\bERRCODE_\w+", source.code):
            yield found.start(), f"`{found.group()}`: SQLSTATEs are named in {REPORT} only"


def check_panics(source: Source) -> Iterator[tuple[int, str]]:
    """no-panic: an error is a value that src/pg/report.rs can report."""
    for name, pattern in PANICS.items():
        for found in re.finditer(pattern, source.product):
            yield found.start(), f"`{name}` outside tests; return an error"


def check_names(source: Source) -> Iterator[tuple[int, str]]:
    """names-say-what: files and modules are nouns of the domain."""
    parts = source.path.relative_to(source.crate).with_suffix("").parts
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
    """rooms-look-down: a room uses the rooms below it, so there are no circles."""
    rooms = CRATES[source.crate]
    if source.room not in rooms:
        yield 0, f"{source.crate}/{source.room} has no place among the rooms; give it one in scripts/lint_rules.py"
        return
    if source.crate == "crates/engine/src":
        for found in re.finditer(r"\bpg_predict\s*::", source.code):
            yield found.start(), "the engine uses the extension, which is above it"
    below = rooms[: rooms.index(source.room)]
    # What is compiled for tests alone may look anywhere.
    for room, at in used_rooms(source):
        if room in rooms and room != source.room and room not in below and source.product[at : at + len(room)].strip():
            yield at, f"the room `{source.room}` uses `{room}`, which is not below it"


def check_length(source: Source) -> Iterator[tuple[int, str]]:
    """files-are-short: a long file has more than one duty, or says why it is long."""
    lines = source.text.count("\n")
    if lines > MOST_LINES and LONG not in source.text:
        yield 0, f"{lines} lines; divide the file by duty, or write `{LONG} ..` at its top"


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
    check_length,
]


def check_folders(root: Path) -> Iterator[Break]:
    """A room that holds many files is more than one room."""
    for crate in CRATES:
        for folder in sorted(each for each in (root / crate).rglob("*") if each.is_dir()):
            count = len(list(folder.glob("*.rs")))
            if count > MOST_FILES:
                yield Break(folder.relative_to(root), 1, "rooms-are-small", f"{count} files; a room has at most {MOST_FILES}")


def check_manifests(root: Path) -> Iterator[Break]:
    """The same rules where they show in a Cargo.toml."""
    engine = root / "crates" / "engine" / "Cargo.toml"
    for number, line in enumerate(engine.read_text(encoding="utf-8").splitlines(), 1):
        if re.match(r"\s*[\"']?pgrx", line):
            yield Break(engine.relative_to(root), number, "engine-without-pgrx", "the engine depends on `pgrx`")
        if re.match(r"\s*pg_predict\s*[.=]", line):
            yield Break(engine.relative_to(root), number, "rooms-look-down", "the engine uses the extension, which is above it")
    workspace = root / "Cargo.toml"
    settings = workspace.read_text(encoding="utf-8")
    for lint in ("undocumented_unsafe_blocks", "unsafe_op_in_unsafe_fn"):
        if not re.search(rf'^{lint} = "(?:deny|forbid)"', settings, re.MULTILINE):
            yield Break(workspace.relative_to(root), 1, "safety-notes-stay-on", f"`{lint}` is not denied for the workspace")


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent).resolve()
    files = [(crate, path) for crate in CRATES for path in sorted((root / crate).rglob("*.rs"))]
    if not files:
        print(f"{root}/src holds no Rust; nothing was checked", file=sys.stderr)
        return 2
    breaks = [*check_manifests(root), *check_folders(root)]
    for crate, path in files:
        source = read(root, crate, path)
        for rule in RULES:
            name = (rule.__doc__ or "").split(":")[0]
            breaks += [Break(source.path, line_of(source.text, at), name, what) for at, what in rule(source)]
    for broken in sorted(breaks, key=lambda each: (each.path, each.line)):
        print(f"{broken.path}:{broken.line}: {broken.rule}: {broken.what}")
    if not breaks:
        print(f"{len(files)} files keep {len(RULES) + 1} rules")
    return 1 if breaks else 0


if __name__ == "__main__":
    sys.exit(main())
