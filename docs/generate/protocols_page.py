"""The page of protocols and recipes, from the comments that open the shipped configs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from docs.generate.config_headers import Header, read_header
from docs.generate.markdown_table import NOTICE, code, prose, table

ROOT = Path(__file__).resolve().parents[2]
CONFIGS, RESULTS = ROOT / "configs", ROOT / "docs" / "results"
INTRODUCTION = """# Protocols and recipes

This page lists every config of this repository. The texts are the comments at the top of the files.
A **protocol** is a task, a data set and all settings that change its numbers; a report compares
only results of one protocol. To use a config, give its name to `--config`; the file is found below
`configs/`.

**Published** numbers are those of other authors, with their source. **Run by us** says what we have
measured with the config. "Not reproduced" means that we have not run it at its full size; the code
was tested on small data with the same layout.

"""
SECTIONS: tuple[tuple[str, str, str], ...] = (
    ("Detection and instance segmentation", "detection/*.yaml", "`tools/train_det.py`"),
    ("Semantic segmentation", "detection/semantic/*.yaml", "`tools/train_det.py`"),
    ("Classification", "classification/*.yaml", "`tools/train_cls.py`"),
    ("Pretraining", "pretrain/*.yaml", "`tools/train_ssl.py`"),
    ("MSCN's ladder", "pretrain/ladder/*.yaml", "`tools/train_ssl.py`"),
    ("What masking is worth", "pretrain/masking/*.yaml", "`tools/train_ssl.py`"),
    ("Suites", "suites/*.yaml", "`tools/run_suite.py`"),
)
HEADS = ("config", "task, source, hardware", "published", "run by us")
OURS = re.compile(r"[;,]? ?(?:ours in )?docs/results/\w+\.md")


def protocols_page() -> str:
    """The whole page."""
    parts = []
    for title, pattern, command in SECTIONS:
        files = sorted(CONFIGS.glob(pattern))
        parts.append(f"## {title}\n\nRun with {command}.\n\n" + table(HEADS, map(_row, files)))
    return NOTICE + INTRODUCTION + "\n".join(parts)


def _row(path: Path) -> Sequence[str]:
    header = read_header(path)
    what = [prose(header.title)]
    what += [f"*Source:* {prose(header.source)}"] if header.source else []
    what += [f"*Hardware:* {prose(header.hardware)}"] if header.hardware else []
    published = prose(OURS.sub("", header.published)) or "not stated"
    return code(path.stem), "<br>".join(what), published, _run(path, header)


def _run(path: Path, header: Header) -> str:
    """What we measured, with the pages on it; else that we did not."""
    kept = {name for name, protocols in protocols_of_pages().items() if path.stem in protocols}
    links = [f"[{name}](results/{name}.md)" for name in sorted({*header.pages, *kept})]
    said = " ".join(filter(None, (header.own, header.not_run)))
    return "; ".join(filter(None, (prose(said), ", ".join(links)))) or "not stated"


@cache
def protocols_of_pages() -> Mapping[str, frozenset[str]]:
    """Page of docs/results -> names of the protocols whose records are kept in a folder that the
    page links to."""
    kept: dict[str, set[str]] = {}
    for file in RESULTS.rglob("record.json"):
        folder = file.relative_to(RESULTS).parts[0]
        protocol = json.loads(file.read_text(encoding="utf-8"))["protocol"]
        kept.setdefault(folder, set()).add(protocol["name"])
    found = {}
    for page in RESULTS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        here = [names for folder, names in kept.items() if re.search(rf"\b{folder}/", text)]
        found[page.stem] = frozenset().union(*here)
    return found
