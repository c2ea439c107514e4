"""The page of protocols and recipes, from the comments that open the shipped configs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from docs.generate.config_headers import Header, read_header
from docs.generate.markdown_table import NOTICE, code, prose, table
from docs.generate.protocol_state import CONFIGS, state_of

INTRODUCTION = """# Protocols and recipes

This page lists every config of this repository. The texts are the comments at the top of the files.
A **protocol** is a task, a data set and all settings that change its numbers; a report compares
only results of one protocol. To use a config, give its name to `--config`; the file is found below
`configs/`.

**Published** numbers are those of other authors, with their source. The **state** says what has
been run with the config, on one or two CPU cores:

- **run here**: as it is, on the data that it names. The linked page has the results, or the number
  is given.
- **run here small**: only on other, small data, which is named, or as a small twin, which is named:
  a config with the same kind of network, file format and scores, on few small images.
- **read in format only**: the data is not at hand. The named test reads generated files in its
  official layout. If the config was run on more than that, the text says so.
- **no run is recorded**: none of these.

"Not reproduced" means that we have not run a config at its full size.

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
HEADS = ("config", "task, source, hardware", "published", "state")
OURS = re.compile(r" ?\(docs/results/\w+\.md\)|[;,]? ?(?:ours in )?docs/results/\w+\.md")


def protocols_page() -> str:
    """Returns the whole page."""
    parts = []
    for title, pattern, command in SECTIONS:
        files = sorted(CONFIGS.glob(pattern))
        parts.append(f"## {title}\n\nRun with {command}.\n\n" + table(HEADS, map(_row, files)))
    return NOTICE + INTRODUCTION + "\n".join(parts)


def _row(path: Path) -> Sequence[str]:
    header = read_header(path)
    what = [_text(header.title)]
    what += [f"*Source:* {_text(header.source)}"] if header.source else []
    what += [f"*Hardware:* {_text(header.hardware)}"] if header.hardware else []
    published = _text(OURS.sub("", header.published)) or "not stated"
    return code(path.stem), "<br>".join(what), published, _state(path, header)


def _state(path: Path, header: Header) -> str:
    """Returns the state, which links to the pages, and what the header says of our runs."""
    said = OURS.sub("", " ".join(filter(None, (header.own, header.not_run))))
    return "; ".join(filter(None, (str(state_of(path, header)), _text(said))))


def _text(header: str) -> str:
    """Returns a text of a config's header as Markdown, with links to the pages of results."""
    return re.sub(r"docs/(results/([\w\\]+)\.md)", r"[\2](\1)", prose(header))
