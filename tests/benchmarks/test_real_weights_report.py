"""The table of docs/results/real_weights.md agrees with the stored records; counts are right."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.marked_page import begin_of, replaced
from benchmarks.real_weights_report import (
    LEAST_IMAGES,
    MODULE,
    PAGE,
    RECORDS,
    enough,
    rows_of,
    table,
    tasks,
)
from pretrain.common.config import find_config
from transfer.report.compare import compare_rows
from transfer.report.from_records import build_results
from transfer.results.read_records import read_records

TASK = next(task for task in tasks() if task["name"] == "flowers_linear_lite0")


def test_the_page_has_the_table_of_its_records() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert (
        replaced(text, MODULE, table(RECORDS)) == text
    ), "python -m benchmarks.real_weights_report"
    assert text.count(begin_of(MODULE)) == 1


def test_the_suite_has_all_weights_and_sets_in_colour_and_grey() -> None:
    names = {task["name"] for task in tasks()}
    probes = [
        f"{colour}{probe}" for colour in ("", "gray_") for probe in ("knn", "linear", "kshot")
    ]
    for size in range(3):
        for images in ("tiny", "flowers", "groceries"):
            assert {f"{images}_{probe}_lite{size}" for probe in probes} <= names
        assert {
            f"{images}_fpn_lite{size}" for images in ("groceries", "voc20", "coco_mini")
        } <= names
    assert len(names) == 63
    for task in tasks():
        find_config(task["config"], {"cls": "classification", "det": "detection"}[task["command"]])
        assert task["trials"] == (1 if "knn" in task["name"] else 3)


def test_what_would_have_been_enough() -> None:
    """By the definition of power, with the spread and the draws of the records."""
    results = build_results(read_records([RECORDS / TASK["name"]]).files)
    rows = {row.label: row for row in results.checkpoints}
    (pair,) = compare_rows(results, rows["lite0"], rows["random0"])
    assert pair.metric == "top1" and pair.spread is not None
    values = [np.array(sample.values) for sample in pair.samples]
    size = values[0].mean() - values[1].mean()
    pooled = math.sqrt(sum(one.var(ddof=1) for one in values) / 2)
    least = enough(pair)

    def power(trials: int) -> float:
        se, df = pooled * math.sqrt(2 / trials), 2 * (trials - 1)
        return float(stats.nct.sf(stats.t.ppf(0.975, df), df, size / se))

    assert power(least.trials) >= 0.8 and (least.trials == 2 or power(least.trials - 1) < 0.8)
    apart = pair.samples[0].replicates.mean(axis=0) - pair.samples[1].replicates.mean(axis=0)
    by_images = pair.samples[0].images * ((1.96 + 0.84) * apart.std(ddof=1) / size) ** 2
    assert least.images == max(math.ceil(by_images), LEAST_IMAGES)


def test_a_task_counts_only_if_all_of_its_trials_are_there(tmp_path: Path) -> None:
    shutil.copytree(RECORDS / TASK["name"], tmp_path / TASK["name"])
    assert len(rows_of(TASK, tmp_path)) == 1
    (tmp_path / TASK["name"] / "random0" / "trial_2" / "record.json").unlink()
    assert rows_of(TASK, tmp_path) == []
    lines = table(tmp_path)
    assert lines[-1].startswith("Run: 0 of the suite's 63 tasks. Not run yet: `tiny_knn_lite0`,")
