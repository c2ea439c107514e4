"""From records and artifacts to groups of figures: what is drawn, and the text if nothing is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from transfer.classification.features.spectrum import write_spectrum
from transfer.report.from_records import build_results
from transfer.report.page.artifacts import Artifacts
from transfer.report.page.charts import (
    by_size,
    cost_against_quality,
    linear_against_detection,
    overview,
)
from transfer.report.page.classes import by_class, class_differences, class_values
from transfer.report.page.comparison import default_pair, pair_data
from transfer.report.page.curves import learning_curves, over_trials, precision_recall, spectra
from transfer.report.rows_columns_cells import Results
from transfer.results.read_records import read_records

Writer = Callable[..., Path]


def _results(root: Path) -> Results:
    return build_results(read_records([root]).files)


def _add_artifact(path: Path, kind: str, content: object) -> None:
    (path.parent / f"{kind}.json").write_text(json.dumps(content))
    record = json.loads(path.read_text())
    record["artifacts"][kind] = f"{kind}.json"
    path.write_text(json.dumps(record))


def test_nothing_is_drawn_from_nothing(tmp_path: Path, write_run: Writer) -> None:
    write_run("a", "knn", {"knn20_top1": 10.0}, pictures=False)
    results = _results(tmp_path)
    artifacts = Artifacts([])
    assert len(overview(results).charts) == 1
    for group in (
        linear_against_detection(results),
        cost_against_quality(results),
        by_size(results),
        by_class(results, artifacts),
        precision_recall(results, artifacts),
        spectra(results, artifacts),
        *learning_curves(results, artifacts),
    ):
        assert not group.charts and group.missing, group.name
    assert default_pair(results) is None and not artifacts.notes


def test_scatters(tmp_path: Path, write_run: Writer) -> None:
    for name, top1, ap in (("a", 50.0, 20.0), ("b", 60.0, 25.0)):
        write_run(name, "linear", {"top1": top1})
        write_run(name, "detection", {"bbox/AP": ap})
    write_run("zero", "linear", {"top1": 5.0}, method="random")
    results = _results(tmp_path)
    (chart,) = linear_against_detection(results).charts  # zero has no detector
    assert chart.svg.count("<g class=") == 2 and "a: linear_photos: top1 50" in chart.svg
    linear, detection = cost_against_quality(results).charts
    assert linear.title == "linear_photos: top1 against minutes of pretraining (no GPU)"
    assert "zero: minutes of pretraining (no GPU) 0, linear_photos: top1 5" in linear.svg
    assert "zero" not in detection.svg and "15.2" in detection.svg  # 912 s


def test_many_marks_have_a_legend(tmp_path: Path, write_run: Writer) -> None:
    for number in range(7):
        write_run(f"c{number}", "linear", {"top1": 50.0 + number})
        if number != 3:
            write_run(f"c{number}", "detection", {"bbox/AP": 20.0 + number})
    results = _results(tmp_path)
    assert not linear_against_detection(results).rows  # six names fit
    assert [row.label for row in cost_against_quality(results).rows] == [f"c{i}" for i in range(7)]


def test_gpu_time_and_other_time_are_apart(tmp_path: Path, write_run: Writer) -> None:
    path = write_run("a", "linear", {"top1": 50.0})
    record = json.loads(path.read_text())
    record["checkpoint"].update(pretrain_seconds=7200.0, pretrain_gpu_seconds=57600.0)
    path.write_text(json.dumps(record))
    write_run("b", "linear", {"top1": 60.0})
    write_run("zero", "linear", {"top1": 5.0}, method="random")
    gpu, other = cost_against_quality(_results(tmp_path)).charts
    assert "GPU hours of pretraining" in gpu.title and "a: GPU hours of pretraining 16" in gpu.svg
    assert ">b<" not in gpu.svg and ">a<" not in other.svg and ">b<" in other.svg


def test_sizes(tmp_path: Path, write_run: Writer) -> None:
    sizes = {"bbox/APs": None, "bbox/APm": 10.0, "bbox/APl": 20.0}
    write_run("a", "detection", {"bbox/AP": 15.0, **sizes})
    (chart,) = by_size(_results(tmp_path)).charts
    assert "medium" in chart.svg and "large" in chart.svg and "small" not in chart.svg


def test_classes_are_means_over_trials(tmp_path: Path, write_run: Writer) -> None:
    for trial, value in enumerate((10.0, 20.0)):
        classes = {"top1": {"cat": value, "dog": 50.0, "rare": None if trial else 3.0}}
        write_run("a", "linear", {"top1": 30.0}, trial, per_class=classes)
    write_run("b", "linear", {"top1": 40.0}, per_class={"top1": {"cat": 25.0, "dog": 45.0}})
    write_run("c", "linear", {"top1": 40.0})
    results = _results(tmp_path)
    metric, values = class_values(results, results.protocols[0])
    assert metric == "top1" and values == {
        0: {"cat": 15.0, "dog": 50.0},
        1: {"cat": 25.0, "dog": 45.0},
    }
    assert len(by_class(results, Artifacts([])).charts) == 1
    ((pair, tables),) = class_differences(results, Artifacts([])).items()
    assert pair == "0-1" and tables[0]["rows"] == [("dog", 5.0), ("cat", -10.0)]


def test_only_the_largest_of_many_classes(tmp_path: Path, write_run: Writer) -> None:
    for name, sign in (("a", 1), ("b", -1)):
        classes = {f"class{i}": 50.0 + sign * i / 2 for i in range(40)}
        write_run(name, "linear", {"top1": 50.0}, per_class={"top1": classes})
    results = _results(tmp_path)
    (chart,) = by_class(results, Artifacts([])).charts
    assert "24 of 40" in chart.title and "class16" in chart.svg and ">class15<" not in chart.svg
    (table,) = class_differences(results, Artifacts([]))["0-1"]
    assert "12 largest of 40" in table["title"]
    assert [name for name, _ in table["rows"]] == [f"class{i}" for i in range(39, 27, -1)]


def test_classes_have_readable_names(tmp_path: Path, write_run: Writer) -> None:
    for name, value in (("a", 10.0), ("b", 25.0)):
        classes = {"top1": {"n01443537": value, "n02012849": 50.0, "dog": 3.0}}
        path = write_run(name, "linear", {"top1": 30.0}, per_class=classes)
    _add_artifact(path, "class_names", {"n01443537": "goldfish", "n02012849": "crane"})
    results, artifacts = _results(tmp_path), Artifacts([])
    (chart,) = by_class(results, artifacts).charts
    (table,) = class_differences(results, artifacts)["0-1"]
    assert [name for name, _ in table["rows"]] == ["crane", "dog", "goldfish"]
    assert ">goldfish<" in chart.svg and "n01443537" not in chart.svg
    _add_artifact(path, "class_names", {"n01443537": 3})
    by_class(results, artifacts)
    assert len(artifacts.notes) == 1 and "a name is not a text" in artifacts.notes[0]


def test_precision_is_the_mean_over_trials(tmp_path: Path, write_run: Writer) -> None:
    recall, heights = [0.0, 0.5, 1.0], [[1.0, 0.5, 0.0], [0.8, 0.9, 0.0], [0.9, 0.1, 0.3]]
    trials = [{"recall": recall, "mean": {"bbox/AP": height}} for height in heights]
    line = over_trials("a", 2, "bbox/AP", [*trials, {"recall": recall, "mean": {}}])
    assert (line.label, line.series) == ("a (n=3)", 2)
    assert [x for x, _ in line.points] == recall
    assert [y for _, y in line.points] == pytest.approx(np.mean(heights, axis=0))
    assert line.band == list(zip(recall, np.min(heights, axis=0), np.max(heights, axis=0)))
    assert over_trials("a", 0, "bbox/AP", trials[:1]).band == ()
    for trial, content in enumerate(trials[:2]):
        path = write_run("a", "detection", {"bbox/AP": 20.0}, trial)
        _add_artifact(path, "pr_curves", content)
    _add_artifact(write_run("b", "detection", {"bbox/AP": 20.0}), "pr_curves", trials[2])
    results = _results(tmp_path)
    (chart,) = precision_recall(results, Artifacts(results.notes)).charts
    (band,) = re.findall('<polygon class="band c0" points="([^"]+)"/>', chart.svg)
    assert len(band.split()) == 6 and "<title>a (n=2)</title>" in chart.svg
    assert "band c1" not in chart.svg and "<title>b (n=1)</title>" in chart.svg


def test_curves_of_artifacts(tmp_path: Path, write_run: Writer) -> None:
    recall = [0.0, 0.5, 1.0]
    for name, precision in (("a", [1.0, 0.5, 0.0]), ("b", [1.0, 0.75])):
        path = write_run(name, "detection", {"bbox/AP": 20.0})
        content = {"recall": recall, "mean": {"bbox/AP50": precision}}
        _add_artifact(path, "pr_curves", content)
        _add_artifact(path, "spectrum", {"singular_values": [4.0, 2.0, 1.0, 0.0]})
    artifacts = Artifacts([])
    results = _results(tmp_path)
    group = precision_recall(results, artifacts)
    assert [row.label for row in group.rows] == ["a"]  # b's lists do not fit together
    assert len(artifacts.notes) == 1 and "pr curves left out (bbox/AP50 has 2" in artifacts.notes[0]
    (chart,) = spectra(results, artifacts).charts
    assert "a: 0.25 at 3" in chart.svg and chart.svg.count("<polyline") == 2
    pretraining, detection = learning_curves(results, artifacts)
    assert pretraining.heading == "Learning curves: pretraining"
    assert [chart.title for chart in detection.charts] == ["loss"]


def test_a_curve_is_drawn_once_and_a_point_is_not_a_curve(
    tmp_path: Path, write_run: Writer
) -> None:
    for name, gap in (("a", 0.0), ("b", 0.5)):
        path = write_run(name, "linear", {"top1": 1.0}, pictures=False)
        rows = [
            {"step": i, "loss": 2 - i / 9, "nt_xent": 2 - i / 9, "part": i + gap} for i in (1, 2)
        ]
        rows[0]["knn"] = 40.0
        _add_artifact(path, "curves", rows)
    artifacts = Artifacts([])
    (linear,) = learning_curves(_results(tmp_path), artifacts)
    assert [chart.title for chart in linear.charts] == ["loss = nt_xent", "part"]
    assert artifacts.notes == [
        "Learning curves: linear_photos: not drawn, because they have one value: knn"
    ]
    _add_artifact(path, "curves", [{"step": 0, "loss": 1.0}])
    (path.parent.parent.parent / "a/trial_0/curves.json").write_text('[{"step": 3, "loss": 2}]')
    (group,) = learning_curves(_results(tmp_path), Artifacts([]))
    assert not group.charts


def test_pairs(tmp_path: Path, write_run: Writer) -> None:
    for trial in range(2):
        write_run("a", "linear", {"top1": 50.0 + trial}, trial)
    write_run("b", "linear", {"top1": 40.25, "top5": 70.0})
    write_run("c", "knn", {"knn20_top1": 5.0})
    write_run("zero", "linear", {"top1": 5.0, "top5": 9.0}, method="random")
    results = _results(tmp_path)
    data = pair_data(results)
    assert data["labels"] == ["zero", "a", "b", "c"] and data["units"] == ["checkpoint"] * 4
    columns = [(c["metric"], c["headline"], c["texts"]) for c in data["columns"]]
    assert columns[1] == ("top1", True, ["5.0 (n=1)", "50.5 ± 0.7 (n=2)", "40.2 (n=1)", ""])
    assert columns[2][:2] == ("top5", False)
    assert {pair: [row[:2] for row in rows] for pair, rows in data["pairs"].items()} == {
        "0-1": [[1, -45.5]],
        "0-2": [[1, -35.25], [2, -61.0]],
        "1-2": [[1, 10.25]],
    }
    # The single trials take the spread of the two of "a"; top5 has no spread at all
    low, high, verdict, _, covers = data["pairs"]["1-2"][0][2:]
    reach = stats.t.ppf(0.975, 1) * math.sqrt(0.5 * (1 / 2 + 1))
    assert (low, high) == pytest.approx((10.25 - reach, 10.25 + reach), abs=1e-4)
    assert verdict == "not resolved: one trial"
    assert data["covers"][covers] == "trials; pooled SD 0.71, 1 df"
    one_trial = [None, None, "not resolved: no interval (one trial, no replicates)", None]
    assert data["pairs"]["0-2"][1][2:6] == one_trial
    assert default_pair(results) == (2, 1)  # two trained ones, though zero and b share more
    assert default_pair(results, ("a", "zero")) == (1, 0)


def test_pairs_have_intervals(tmp_path: Path, write_run: Writer) -> None:
    """They equal scipy's t interval of two independent samples, for any seeds."""
    values = {"a": [50.0, 52.5, 51.0, 53.0], "b": [48.0, 51.5, 50.5, 50.0]}
    for name, numbers in values.items():
        for trial, value in enumerate(numbers):
            write_run(name, "linear", {"top1": value}, trial)
    data = pair_data(_results(tmp_path))
    ((_, difference, low, high, verdict, detectable, covers),) = data["pairs"]["0-1"]
    assert data["covers"][covers] == "trials; pooled SD 1.4, 6 df"
    interval = stats.ttest_ind(values["a"], values["b"]).confidence_interval(0.95)
    assert difference == pytest.approx(np.mean(values["a"]) - np.mean(values["b"]))
    assert (low, high) == pytest.approx(tuple(interval), abs=1e-4)
    assert verdict == "not resolved" and low < 0 < high
    assert detectable > difference


def test_missing_files_are_counted_and_broken_ones_named(tmp_path: Path, write_run: Writer) -> None:
    paths = [write_run(name, "linear", {"top1": 1.0}) for name in "abc"]
    (paths[0].parent / "curves.json").unlink()
    (paths[1].parent / "curves.json").unlink()
    (paths[2].parent / "curves.json").write_text("[{")
    artifacts = Artifacts([])
    learning_curves(_results(tmp_path), artifacts)
    artifacts.finish()
    broken, missing = artifacts.notes
    assert str(paths[2].parent) in broken and "left out" in broken
    assert missing.startswith("curves: 2 files named by records not found, such as ")


@pytest.mark.parametrize("content", [[], {}, {"singular_values": []}, {"singular_values": ["x"]}])
def test_malformed_artifacts_are_noted(tmp_path: Path, write_run: Writer, content: object) -> None:
    _add_artifact(write_run("a", "linear", {"top1": 1.0}), "spectrum", content)
    artifacts = Artifacts([])
    assert not spectra(_results(tmp_path), artifacts).charts
    assert len(artifacts.notes) == (0 if content == {"singular_values": []} else 1)


def test_features_of_a_collapse_have_no_spectrum(tmp_path: Path, write_run: Writer) -> None:
    """All equal: no singular value is above 0, of which the others could be shares."""
    folder = write_run("a", "linear", {"top1": 1.0}).parent
    file = write_spectrum(torch.full((40, 4), 0.3), folder)
    _add_artifact(folder / "record.json", "spectrum", json.loads(file.read_text()))
    artifacts = Artifacts([])
    assert not spectra(_results(tmp_path), artifacts).charts
    assert artifacts.notes == [f"{file}: spectrum left out (the features do not vary)"]
