#!/usr/bin/env python3
"""Checks that the README and the tutorial are easy to read.

usage: scripts/readability.py [CHECKOUT]

Computes the Flesch-Kincaid grade of the prose of each page, and ends with 1 if a grade is above the limit. Prose is paragraphs
and list items. Code blocks, tables, headings, images, comments and the targets of links are left out. Inline code counts as one
word of one syllable, because the formula has no meaning for identifiers. Needs what tests/lint/requirements.txt pins.
tests/lint breaks the rule on purpose.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import textstat

PAGES = ("README.md", "docs/tutorial.md")
LIMIT = 10.0


def prose(markdown: str) -> str:
    """The sentences of a page; each paragraph and each list item ends with a full stop."""
    text = re.sub(r"^(`{3,}).*?^\1`*[ \t]*$", "\n", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^(?:#|\||[ \t]*[-|: ]+$).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"`[^`]+`", "code", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"(?<=\w)[.!?](?=\w)", "", text)
    items = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text)
    sentences = [" ".join(re.sub(r"^\s*(?:[-*]|\d+\.) ", "", item).split()).rstrip(".:;") for item in items]
    return "\n".join(f"{sentence}." for sentence in sentences if sentence)


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    failed = False
    for page in PAGES:
        text = prose((root / page).read_text(encoding="utf-8"))
        if not text:
            print(f"{page}:1: readable: the page has no prose")
            failed = True
            continue
        grade = textstat.flesch_kincaid_grade(text)
        if grade > LIMIT:
            print(f"{page}:1: readable: the Flesch-Kincaid grade is {grade:.1f}, above {LIMIT:g}; shorten the sentences and the words")
            failed = True
        else:
            print(f"{page}: Flesch-Kincaid grade {grade:.1f}, at most {LIMIT:g}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
