"""The templates of the pages, with what they call: numbers as text, marks, and inlined files."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from pretrain.common.command_names import as_started
from transfer.report.figures.svg import key, shorten
from transfer.report.markdown_and_terminal import describe_protocol
from transfer.report.numbers_as_text import costs, format_count, format_interval, format_seconds
from transfer.results.metrics import is_percent

TEMPLATES = Path(__file__).with_name("templates")
MOST_WORDS = 90  # characters of a difference in a column's head; the full text is below the table

MOST_OF_HEAD = 60  # characters of a label in the head of a narrow column


@cache
def environment() -> Environment:
    """Returns the environment of the templates. It is made once: compiling the templates takes
    longer than a small report.
    """
    found = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    found.filters.update(
        seconds=format_seconds,
        count=format_count,
        costs=costs,
        interval=format_interval,
        differing=lambda line: shorten(line.partition(": ")[2], MOST_WORDS),
        embedded=_embedded,
        breakable=_breakable,
        as_started=as_started,
        head=_head,
    )
    found.tests["percent"] = is_percent
    found.globals.update(
        key=lambda series: Markup(key(series)),
        describe=describe_protocol,
        inlined=lambda name: Markup((TEMPLATES / name).read_text(encoding="utf-8")),
    )
    return found


def _head(label: str) -> str:
    """Returns a column's label, in the middle cut to `MOST_OF_HEAD` characters, between words.

    The ends distinguish labels; the full text is below the table.
    """
    if len(label) <= MOST_OF_HEAD:
        return label
    begin, end = label[: MOST_OF_HEAD // 2], label[-MOST_OF_HEAD // 3 :]
    return f"{begin.rpartition(' ')[0] or begin} … {end.partition(' ')[2] or end}"


def _breakable(name: str, length: int = 8) -> Markup:
    """Returns a name that may break behind _ / . and : if it is long, to keep columns narrow."""
    if len(name) <= length:
        return Markup(escape(name))
    return Markup(re.sub(r"([_/.:])", r"\1<wbr>", str(escape(name))))


def _embedded(data: object) -> Markup:
    """Returns JSON for a `<script>`, without any `<` that could end it."""
    return Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))
