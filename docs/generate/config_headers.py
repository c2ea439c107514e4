"""The comment that opens each shipped config, taken apart: what it is, source, hardware, numbers.

A header is prose with labels ("Source: ...", "Hardware: ..."), which a label ends at the next one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LABEL = re.compile(
    r"(?:^|(?<=[.;)] ))"
    r"(Reproduces|[Ss]ources?(?: of the (?:settings|parts))?|Hardware(?: and hours)?|"
    r"Data|Weights|Cost|Model|"
    r"Differs|How to scale|Own data|CIFAR|Initialisation[^:]{0,30}|"
    r"Published(?:\([^)]*\)|[^:.()]){0,90}): "
)
NOT_RUN = re.compile(
    r"[;,. ]*\b((?:[Nn]ot (?:reproduced|run)|this suite has not been run)[^.;]*)(?:\.|;|$)"
)


@dataclass(frozen=True)
class Header:
    """What a config's header says; a text is empty if it says nothing of it.

    Attributes:
        title: everything before the first label.
        source: the source of the recipe; hardware: what it is meant for, and its hours.
        published: numbers of others, with their kind.
        own: numbers of ours, measured with this config.
        not_run: the sentence which says that we have not run it.
        pages: names of the pages of docs/results that the header mentions.
    """

    title: str
    source: str
    hardware: str
    published: str
    own: str
    not_run: str
    pages: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Returns the header of a config."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return parse_header(" ".join(lines))


def parse_header(text: str) -> Header:
    """Returns a header's text, taken apart."""
    found = NOT_RUN.search(text)
    plain = " ".join(NOT_RUN.sub(". ", text).split())
    places = [*LABEL.finditer(plain)]
    ends = [match.start() for match in places[1:]] + [len(plain)]
    parts: dict[str, list[str]] = {}
    for match, end in zip(places, ends):
        kind, said = _kind(match.group(1))
        value = plain[match.end() : end].strip(" .;")
        parts.setdefault(kind, []).append(f"{said}: {value}" if said else value)
    title, measured = _measured(plain[: places[0].start()] if places else plain)
    joined = {kind: "; ".join(values) for kind, values in parts.items()}
    published, beside = _measured(joined.get("published", ""))
    return Header(
        title=title.strip(" ."),
        source=joined.get("source", ""),
        hardware=joined.get("hardware", ""),
        published=published,
        own=measured or beside or _measured(joined.get("cost", ""))[1],
        not_run=found.group(1).strip() if found else "",
        pages=tuple(re.findall(r"docs/results/(\w+)\.md", text)),
    )


def _kind(label: str) -> tuple[str, str]:
    """Returns a label's field, and what else it says: the metric of published numbers."""
    words = re.match(r"(\w+?)s?\b(?: numbers?\b)?,? ?(.*)", label)
    assert words, label
    kind = words.group(1).lower()
    return kind, words.group(2) if kind == "published" else ""


def _measured(text: str) -> tuple[str, str]:
    """Returns a text before and from "measured from ..." or "Random weights, seed 0, one run: ..."
    on.
    """
    match = re.search(r"[;,. ]*\b([Mm]easured from .*|Random weights\b[^.:]*, one run: .*)$", text)
    return (text[: match.start()], match.group(1).strip(" .")) if match else (text, "")
