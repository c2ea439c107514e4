"""The report of fixed records, byte for byte: a change of the code must not change its content."""

from __future__ import annotations

import pytest

from tests.transfer.report.golden_report import FILES, read_golden, report_texts


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return report_texts(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", FILES)
def test_report_is_the_golden(written: dict[str, str], name: str) -> None:
    """If the change is wanted: python -m tests.transfer.report.golden_report."""
    assert written[name].splitlines() == read_golden(name).splitlines()
    assert written[name] == read_golden(name)


def test_golden_holds_every_kind_of_record() -> None:
    """So that a report which loses one of them cannot equal a golden that lost it too."""
    text = read_golden("report.md")
    for part in (
        "published",
        "method (3 pretraining seeds)",
        "SOLVER.MAX_ITER 600",
        "the run failed",
    ):
        assert part in text
    for part in (
        "†",
        "★",
        "resolved",
        "t[",
        "i[",
        "schema 1",
        "counted once",
        "not JSON",
        "has a value",
    ):
        assert part in text
    page = read_golden("report.html")
    for part in (
        "data:image/png",
        "Precision and recall",
        "Feature spectrum",
        "By class",
        "sheet-0",
    ):
        assert part in page
