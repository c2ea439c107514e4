"""The page of checkpoint formats, from the table of formats that the converter reads."""

from __future__ import annotations

from docs.generate.markdown_table import NOTICE, code, table
from transfer.checkpoints.formats.all_formats import FORMATS
from transfer.checkpoints.formats.generic import GENERIC
from transfer.checkpoints.formats.key_format import CLASS, DDP, RELEASED, TEXT, KeyFormat

EVIDENCE = {CLASS: "class", TEXT: "text", RELEASED: "released"}
MOST_PREFIXES = 3
INTRODUCTION = """# Checkpoint formats

This page lists the {total} formats that `--weights` and `tools/convert_weights.py` read. The format
is found from the content of the file alone; `--source NAME` of the converter forces one. [The guide
on checkpoints](checkpoints.md) says what happens to the keys of a file, and what is proven.

The column **evidence** says where the tests' example of the format comes from.

- **class** ({classes} formats): names and shapes that the project's own model class gave.
- **text** ({texts} formats): our reading of the project's source code.
- **released** ({released}): files that the project released, which the tests read and score.

We had no released file of any other project. If you have one, try
`python tools/convert_weights.py FILE --check`, and please report the result.

"""
CLOSING = """
The prefix is the part of a name before the backbone's own names; at most three prefixes are shown.
DDP's `module.` may come before each of them. In BYOL's file the container is `experiment_state`;
the reader calls the online network in it `trunk`.
"""


def formats_page() -> str:
    """Returns the whole page."""
    kinds = [entry.evidence for entry in FORMATS.values()]
    text = INTRODUCTION.format(
        total=len(kinds),
        classes=kinds.count(CLASS),
        texts=kinds.count(TEXT),
        released=kinds.count(RELEASED),
    )
    heads = ("`--source`", "project", "container", "prefix of the backbone", "evidence")
    rows = [_row(entry) for entry in FORMATS.values()]
    return NOTICE + text + table(heads, rows) + CLOSING


def _row(entry: KeyFormat) -> tuple[str, ...]:
    name = code(entry.name) + (" (only by `--source`)" if entry.forced else "")
    if entry is GENERIC:
        return name, entry.title, "any", "any", EVIDENCE[entry.evidence]
    place = " > ".join(entry.containers[0])
    container = code(place) if place else "the file itself"
    return name, entry.title, container, _prefixes(entry), EVIDENCE[entry.evidence]


def _prefixes(entry: KeyFormat) -> str:
    plain = [
        prefix
        for prefix in entry.prefixes
        if not (prefix.startswith(DDP) and prefix[len(DDP) :] in entry.prefixes)
    ]
    shown = [code(prefix) if prefix else "none" for prefix in plain[:MOST_PREFIXES]]
    return ", ".join(shown) + (", ..." if len(plain) > MOST_PREFIXES else "")
