"""The Markdown files of the repository, and what is in them: links, code spans, commands."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    [
        *ROOT.glob("*.md"),
        ROOT / "benchmarks" / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "results").glob("*.md"),
    ]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SHELL = ("", "bash", "sh")
BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Words:
    """A command of a code block, as the shell would split it."""

    line: str
    words: tuple[str, ...]


def name_of(path: Path) -> str:
    """The file's name in test ids."""
    return str(path.relative_to(ROOT))


def prose_of(text: str) -> str:
    """The text without its code blocks."""
    return FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """What is marked as code within sentences and tables."""
    return SPAN.findall(prose_of(text))


def links(text: str) -> list[str]:
    """Targets of the links and pictures."""
    return LINK.findall(SPAN.sub("", prose_of(text)))


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub and MkDocs make them."""
    heads = re.findall(r"^#+ (.*)$", prose_of(text), re.M)
    plain = (re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads)
    return {re.sub(r"\s+", "-", head) for head in plain}


def commands(text: str) -> Iterator[Words]:
    """The commands of the shell's code blocks, continued lines joined, comments left out."""
    for language, block in FENCE.findall(text):
        if language not in SHELL:
            continue
        waiting = ""  # lines of a text in quotes that is not closed yet
        for line in block.replace("\\\n", " ").splitlines():
            waiting += line
            try:
                yield from split(waiting)
            except ValueError:
                waiting += " "
                continue
            waiting = ""


def split(line: str) -> list[Words]:
    """The commands of a line, at `;`, `&&`, `|` and brackets; ValueError for an open quote."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()")
    lexer.whitespace_split = True
    # "()" is an empty tuple in quotes, which the lexer has taken off.
    ends = lambda word: set(word) <= set(";&|()") and word != "()"
    groups = itertools.groupby(list(lexer), ends)
    return [Words(line, tuple(group)) for punctuation, group in groups if not punctuation]


def expanded(word: str) -> list[str]:
    """A word with its braces expanded, `{a,b}` and `{0..9}`, as bash does."""
    match = BRACES.search(word)
    if not match:
        return [word]
    inner = match.group(1)
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if numbers:
        first, last = map(int, numbers.groups())
        parts = [str(number) for number in range(first, last + 1)]
    else:
        parts = [part.strip() for part in inner.split(",")]
    return [
        whole
        for part in parts
        for whole in expanded(word[: match.start()] + part + word[match.end() :])
    ]
