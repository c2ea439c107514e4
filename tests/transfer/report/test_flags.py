"""Doubts that the report names, differences of protocols, published rows, broken artifacts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from transfer.report.configs import difference, flatten, learning_rate
from transfer.report.exports import to_csv, to_latex
from transfer.report.flags import find_flags
from transfer.report.published import FILE, published_rows
from transfer.report.results import Results
from transfer.report.tables import build_results
from transfer.report.text import to_markdown
from transfer.results.store import read_store

Writer = Callable[..., Path]
CONFIGS = Path(__file__).parents[3] / "configs"


def results_of(folder: Path) -> Results:
    return build_results(read_store([folder]).entries)


def flags_of(folder: Path) -> str:
    return "\n".join(find_flags(results_of(folder)))


def test_clean_results_raise_no_flag(tmp_path: Path, write_run: Writer) -> None:
    for trial in range(3):
        write_run("a", "detection", {"bbox/AP": 40.0 + trial}, trial)
        write_run("zero", "detection", {"bbox/AP": 20.0 + trial}, trial, method="random")
    accuracy = {"knn20_top1": {name: 50.0 for name in "abcde"}}
    write_run("a", "knn", {"knn20_top1": 50.0}, per_class=accuracy)
    assert flags_of(tmp_path) == ""


def test_detection_below_the_random_row(tmp_path: Path, write_run: Writer) -> None:
    write_run("a", "detection", {"bbox/AP": 12.0})
    write_run("zero", "detection", {"bbox/AP": 20.0}, method="random")
    assert "a, detection_photos: bbox/AP 12.0 is below the random" in flags_of(tmp_path)


@pytest.mark.parametrize("value, far", [(53.3, False), (49.0, True), (55.0, True)])
def test_msra_far_from_its_number(
    tmp_path: Path, write_run: Writer, value: float, far: bool
) -> None:
    write_run("msra", "detection", {"bbox/AP": value}, protocol="voc_supervised_msra")
    assert ("far from the 53.5" in flags_of(tmp_path)) == far


def test_knn_at_chance(tmp_path: Path, write_run: Writer) -> None:
    for name, value in (("bad", 20.5), ("good", 45.0)):
        accuracy = {"knn20_top1": {c: value for c in "abcde"}}
        write_run(name, "knn", {"knn20_top1": value}, per_class=accuracy)
    # 23 % of 60 images: above chance, but not by what 60 images can say
    right = np.r_[np.ones(14), np.zeros(46)] * 100
    accuracy = {"knn20_top1": {c: 23.3 for c in "abcde"}}
    write_run("few", "knn", {"knn20_top1": 0}, per_class=accuracy, scores=right)
    flags = flags_of(tmp_path)
    assert "bad, knn_photos: knn20_top1 20.5 is at chance (20.0)" in flags
    assert "few, knn_photos: knn20_top1 23.3 is at chance" in flags and "good" not in flags


def test_proof(tmp_path: Path, write_run: Writer) -> None:
    write_run("theirs", "knn", {"knn20_top1": 50.0}, checkpoint={"proof": "none"})
    write_run("old", "knn", {"knn20_top1": 50.0}, checkpoint={"proof": None})
    flags = flags_of(tmp_path)
    assert "converted without proof: theirs;" in flags and "schema 1): old" in flags


def test_few_trials_shortened_and_overrides(tmp_path: Path, write_run: Writer) -> None:
    protocol = {
        "name": "voc_mscn",
        "config_sha256": "ab" * 32,
        "engine": "torchvision",
        "engine_version": "1",
        "overrides": ["SOLVER.IMS_PER_BATCH 8", "DATALOADER.NUM_WORKERS 0"],
    }
    write_run("a", "detection", {"bbox/AP": 40.0}, protocol=protocol["name"])
    path = tmp_path / "runs/detection/voc_mscn/a/trial_0/record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "protocol": protocol, "status": "shortened"}))
    flags = flags_of(tmp_path)
    assert "too few trials for a claim about a checkpoint (at least 3): a 1" in flags
    assert "a, voc_mscn: shortened" in flags
    assert "not the config's own protocol: SOLVER.IMS_PER_BATCH 8" in flags
    assert "NUM_WORKERS" not in flags
    assert not results_of(tmp_path).protocols[0].published  # another protocol than the published


def test_columns_say_how_they_differ(tmp_path: Path, write_run: Writer) -> None:
    fixed = {"SOLVER": {"LR_PER_256": [0.1], "EPOCHS": 100}, "PROTOCOL": {"NAME": "linear"}}
    swept = {**fixed, "SOLVER": {"LR_PER_256": [0.1, 1.0], "EPOCHS": 90}, "OUTPUT_DIR": "x"}
    write_run("a", "linear", {"top1": 40.0}, protocol="one", config=fixed)
    write_run("a", "linear", {"top1": 41.0}, protocol="two", config=swept)
    results = results_of(tmp_path)
    assert [p.label for p in results.protocols] == ["one, fixed lr", "two, swept lr"]
    (line,) = results.protocols[0].differs
    assert line == (
        "differs from two: SOLVER.EPOCHS 100 / 90; SOLVER.LR_PER_256 [0.1] / [0.1, 1.0]"
    ).replace("two:", "two, swept lr:")
    assert line in to_markdown(results) and "SOLVER.EPOCHS" in to_latex(results)
    write_run("a", "linear", {"top1": 41.0}, protocol="three")
    lines = results_of(tmp_path).protocols[0].differs
    assert any("from three: a config was not kept" in line for line in lines)


def test_learning_rates() -> None:
    sweep = flatten({"TRANSFER": {"LR_SWEEP": {"RATES": [0.01, 0.02]}}})
    assert learning_rate("detection", sweep, []) == "swept lr"
    assert learning_rate("detection", {"TRANSFER.LR_SWEEP.RATES": []}, []) == "fixed lr"
    assert learning_rate("detection", None, [Path("x/lr_sweep.json")]) == "swept lr"
    assert learning_rate("knn", sweep, []) == "" and learning_rate("linear", None, []) == ""
    many = difference({f"K{i}": 0 for i in range(20)}, {"K1": 1})
    assert len(many) == 9 and many[-1] == "and 12 more keys"


def test_published_rows_stand_apart(tmp_path: Path, write_run: Writer) -> None:
    write_run("mine", "detection", {"bbox/AP": 57.2, "bbox/AP50": 82.0}, protocol="voc_mscn")
    results = results_of(tmp_path)
    text = to_markdown(results)
    assert "MoCo v2 800ep (published) | 57.4 | 82.5 | 5 |" in text
    assert "facebookresearch/moco" in text and "published" in to_latex(results)
    lines = list(csv.DictReader(to_csv(results).splitlines()))
    theirs = [line for line in lines if line["unit"] == "published"]
    assert theirs and all(line["source"] and not line["sha256"] for line in theirs)
    assert [line["checkpoint"] for line in lines if line["unit"] == "checkpoint"] == ["mine"] * 2
    assert not published_rows("voc_mscn_10pct") and not published_rows("linear_imagenet")


def test_the_published_file_is_of_shipped_configs() -> None:
    known = {path.stem for path in CONFIGS.rglob("*.yaml")}
    with FILE.open(encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            assert set(line["configs"].split()) <= known, line
            assert 0 < float(line["value"]) < 100 and line["source"] and line["method"]


def test_broken_replicates_and_configs_are_noted(tmp_path: Path, write_run: Writer) -> None:
    """The numbers stay; the interval is then over trials alone."""
    right = np.random.default_rng(0).normal(50, 5, 40)
    for trial in range(3):
        path = write_run("a", "linear", {"top1": 0}, trial, scores=right + trial, config={"A": 1})
    (path.parent / "replicates.json").write_text("{")
    (path.parent.parent / "trial_0/config.yaml").write_text("a: [")
    results = results_of(tmp_path)
    summary = results.cell(results.checkpoints[0], results.protocols[0]).summaries["top1"]
    assert summary.covers == "trials" and summary.n == 3
    assert any("replicates.json: no file of replicates" in note for note in results.notes)
    assert any("config.yaml: config left out" in note for note in results.notes)
    other = path.parent.parent / "trial_1/replicates.json"
    (path.parent / "replicates.json").write_text(other.read_text())
    assert any("of another evaluation" in note for note in results_of(tmp_path).notes)
    (path.parent / "replicates.json").unlink()
    assert any("cannot be read" in note for note in results_of(tmp_path).notes)
