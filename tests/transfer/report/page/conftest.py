"""A page of synthetic records, open in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transfer.report.conftest import make_writer, write_gallery
from tests.transfer.report.page.browser import Browser
from transfer.report.run import write_report


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    write = make_writer(root / "runs")
    for trial in range(2):
        write("mscn", "linear", {"top1": 9.5 + trial, "top5": 20.0}, trial)
    write("simclr", "linear", {"top1": 48.5, "top5": 70.25})
    write("zero", "linear", {"top1": 30.0}, method="random")
    classes = {"bbox/AP": {"cat & dog": 10.0, "<bird>": 30.0}}
    sizes = {"bbox/APs": 1.0, "bbox/APm": 2.0, "bbox/APl": None}
    cat = [[10.0, 10.0, 50.0, 50.0, 0.9, 0]]
    path = write(
        "mscn", "detection", {"bbox/AP": 20.0, **sizes}, protocol="voc_mscn", per_class=classes
    )
    write_gallery(path, [cat] * 8)
    other = {"bbox/AP": {"cat & dog": 14.0, "<bird>": 27.5}}
    path = write(
        "simclr", "detection", {"bbox/AP": 20.75, **sizes}, protocol="voc_mscn", per_class=other
    )
    write_gallery(path, [cat] * 5 + [[], cat, []])
    return write_report([root], root / "out").page


@pytest.fixture(scope="module")
def started(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
        assert not browser.problems  # of all tests: no message, no exception, nothing fetched


@pytest.fixture
def browser(started: Browser, page: Path) -> Browser:
    """The page as it opens on a desktop."""
    started.resize(1200, 900)
    started.emulate()
    started.open(page)
    started.run("localStorage.clear()")
    return started
