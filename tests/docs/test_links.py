"""Every link of the Markdown files has a target, and every path that they name exists."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import pytest

from tests.docs.markdown_files import FILES, ROOT, anchors, expanded, links, name_of, spans

FOLDERS = ("pretrain", "transfer", "tools", "tests", "configs", "benchmarks", "docs")
PATH = re.compile(rf"({'|'.join(FOLDERS)})/[\w./{{}},*-]+")
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b|\bNAME\b|_RECIPE|/X\.")
OF_A_RUN = ("pretrain/mscn/", "pretrain/NAME/")  # folders of a suite's output


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_links(path: Path) -> None:
    wrong = []
    for link in links(path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if ":" in target:
            continue
        file = Path(posixpath.normpath(path.parent / target)) if target else path
        if not file.exists():
            wrong.append(f"{link}: there is no such file")
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            wrong.append(f"{link}: the file has no heading of this name")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_paths_in_code_spans(path: Path) -> None:
    wrong = []
    for span in spans(path.read_text(encoding="utf-8")):
        word = span.split()[0]
        if not PATH.fullmatch(word) or PLACEHOLDER.search(word) or word.startswith(OF_A_RUN):
            continue
        missing = [name for name in expanded(word) if not list(ROOT.glob(name.rstrip("/")))]
        wrong += [f"`{span}`: {name} is missing" for name in missing]
    assert not wrong, "\n".join(wrong)


def test_every_page_is_linked_from_the_readme_or_a_page_that_is() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for link in links(page.read_text(encoding="utf-8")):
            target = Path(posixpath.normpath(page.parent / link.partition("#")[0]))
            if ":" not in link and target.is_file():
                waiting.append(target)
    lost = [name_of(path) for path in FILES if path not in reached]
    assert not lost, f"no way leads from the README to {lost}"
