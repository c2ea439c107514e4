"""The site: its pages, its links, and its build if MkDocs is installed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate.mkdocs_hooks import OUTSIDE, site_links
from tests.docs.markdown_files import ROOT


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    docs = ROOT / "docs"
    pages = {str(p.relative_to(docs)) for p in [*docs.glob("*.md"), *docs.glob("results/*.md")]}
    assert listed == pages | set(OUTSIDE.values())


def test_links_become_those_of_the_site() -> None:
    cases = {
        ("README.md", "[a](docs/report.md#two-rows)"): "[a](report.md#two-rows)",
        ("README.md", "![p](docs/images/report.png)"): "![p](images/report.png)",
        ("README.md", "[NOTICE](NOTICE)"): "`NOTICE`",
        ("README.md", "[x](https://a.org/b.md)"): "[x](https://a.org/b.md)",
        ("CONTRIBUTING.md", "[g](docs/guarantees.md)"): "[g](guarantees.md)",
        ("docs/results/ladder.md", "[b](../../benchmarks/README.md)"): "[b](../speed.md)",
        ("docs/results/first_run.md", "[f](first_run)"): "`f`",
        ("docs/results/detection.md", "[`c`](../../configs/a.yaml)"): "`c`",
        ("docs/report.md", "[here](#cost)"): "[here](#cost)",
        ("docs/report.md", "```\n[a](../README.md)\n```"): "```\n[a](../README.md)\n```",
    }
    assert {case: site_links(case[1], case[0]) for case in cases} == cases


@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="mkdocs is not installed")
def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "index.html").is_file() and (tmp_path / "results/ladder.html").is_file()
