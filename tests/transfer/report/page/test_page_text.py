"""What the page says about the numbers, without a browser: intervals, marks, flags, rows."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from transfer.report.run import write_report

Writer = Callable[..., Path]


def _rows(page: str, table: str) -> dict[str, list[str]]:
    """Returns the other cells, as text, by the first cell of each row of one table's bodies."""
    body = page[page.index(f'id="{table}"') :]
    body = body[body.index("<tbody") : body.index("</table>")]
    rows = {}
    for row in re.findall("<tr.*?</tr>", body, flags=re.S):
        cells = [
            re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", " ", cell))).strip()
            for cell in re.findall("<t[hd].*?</t[hd]>", row, flags=re.S)
        ]
        rows[cells[0]] = cells[1:]
    return rows


@pytest.fixture
def page(tmp_path: Path, write_run: Writer) -> str:
    generator = np.random.default_rng(0)
    hard = generator.uniform(0, 30, 60)
    for name, shift in (("good", 30.0), ("bad", 10.0)):
        for trial in range(3):
            scores = hard + shift + generator.normal(0, 1, 60)
            write_run(
                name, "detection", {"bbox/AP": 0.0}, trial, protocol="voc_mscn", scores=scores
            )
    write_run("single", "linear", {"top1": 40.0}, scores=hard)
    write_run("zero", "detection", {"bbox/AP": 60.0}, protocol="voc_mscn", method="random")
    write_run("zero", "detection", {"bbox/AP50": 3.0}, protocol="short", method="random")
    for seed in range(3):
        changes = {"pretrain_seed": seed, "pretrain_config_sha256": "c" * 64}
        write_run(f"seed{seed}", "knn", {"knn20_top1": 50.0 + seed}, checkpoint=changes)
    written = write_report([tmp_path], tmp_path / "out")
    return written.page.read_text(encoding="utf-8")


def test_intervals_and_marks(page: str) -> None:
    rows = _rows(page, "main")
    cell = next(text for text in rows["good"] if "n=3" in text)
    assert re.fullmatch(r"★ \d\d\.\d ± 0\.\d n=3 \[\d\d\.\d, \d\d\.\d\]", cell), cell
    assert not any("★" in text for text in rows["bad"])
    assert re.search(r"n=1 i\[\d+\.\d, \d+\.\d\]", " ".join(rows["single"]))
    assert "not run" in rows["good"]


def test_flags(page: str) -> None:
    flags = page[page.index('class="flags"') : page.index("</div>", page.index('class="flags"'))]
    lines = re.findall("<summary>(.*?)</summary>", flags)
    below = "below the random initialisation (2 times)"
    assert f"<b>voc_mscn</b>: no config was kept, {below}, too few trials" in lines
    assert len(lines) == len(set(line.partition("</b>")[0] for line in lines))
    assert re.search(r"<li>good: bbox/AP \d+\.\d is below the random initialisation", flags)
    assert page.index('id="results"') < page.index('id="compare"') < page.index('id="flags"')


def test_a_method_is_a_row_of_its_own(page: str) -> None:
    rows = _rows(page, "main")
    (label,) = (name for name in rows if "3 seeds" in name)
    assert label.startswith("simclr") and "51.0 ± 1.0 n=3" in " ".join(rows[label])
    data = json.loads(re.search('id="pairs">(.*?)</script>', page, flags=re.S)[1])
    assert data["units"][-1] == "method (3 pretraining seeds)"


def test_published_rows_are_marked(page: str) -> None:
    rows = _rows(page, "main")
    published = {name: cells for name, cells in rows.items() if "published" in name}
    assert len(published) > 5 and not any("n=" in text for c in published.values() for text in c)
    supervised = next(cells for name, cells in published.items() if name.startswith("Supervised"))
    assert "53.5" in supervised  # MoCo's README, in transfer/report/published.csv
    assert "facebookresearch/moco@" in page[page.index('class="sources"') :]


def test_differences(page: str) -> None:
    data = json.loads(re.search('id="pairs">(.*?)</script>', page, flags=re.S)[1])
    one, two = sorted((data["labels"].index("good"), data["labels"].index("bad")))
    (found,) = data["pairs"][f"{one}-{two}"]
    assert found[2] < found[1] < found[3] and found[4] == "resolved" and 0 < found[5] < 10
    assert abs(abs(found[1]) - 20) < 1


def test_nothing_to_compare(tmp_path: Path, write_run: Writer) -> None:
    write_run("alone", "knn", {"knn20_top1": 50.0})
    page = write_report([tmp_path], tmp_path / "out").page.read_text(encoding="utf-8")
    assert 'id="compare"' not in page and "Linear probe against detection: not run" in page
    assert "Newest record: 2026-01-01 00:00 UTC" in page


def test_heads_say_how_columns_differ(tmp_path: Path, write_run: Writer) -> None:
    for protocol, epochs in (("short", 5), ("long", 90)):
        config = {"SOLVER": {"EPOCHS": epochs, "LR_PER_256": [0.1]}, "PROTOCOL": {"NAME": "linear"}}
        write_run("a", "linear", {"top1": 50.0}, protocol=protocol, config=config)
    page = write_report([tmp_path], tmp_path / "out").page.read_text(encoding="utf-8")
    heads = re.findall('<th scope="colgroup".*?</th>', page, flags=re.S)
    assert len(heads) == 3  # the last one is the costs'
    assert "SOLVER.EPOCHS 5 / 90</small>" in heads[1] and "90 / 5</small>" in heads[0]


def test_feature_statistics_are_not_percent(tmp_path: Path, write_run: Writer) -> None:
    for name in "ab":
        write_run(name, "knn", {"knn20_top1": 50.0, "features/std": 0.0123, "features/rank": 71.25})
    page = write_report([tmp_path], tmp_path / "out").page.read_text(encoding="utf-8")
    assert "0.0123" in page and "71.2</span>" in page
    assert "percent, features/ in different units" in page
    data = json.loads(re.search('id="pairs">(.*?)</script>', page, flags=re.S)[1])
    assert [column["metric"] for column in data["columns"]] == ["knn20_top1"]
