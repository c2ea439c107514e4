"""Rows, columns and numbers of the tables against numpy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretrain.common.config import load_config
from pretrain.common.errors import InputError
from transfer.classification.defaults import ROLES, get_defaults
from transfer.report.from_records import build_results
from transfer.report.run import write_report
from transfer.results.read_records import read_records


def _results(tmp_path: Path):
    return build_results(read_records([tmp_path]).files)


def test_numbers_and_order(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    values = [40.0, 43.5, 41.0]
    for trial, value in enumerate(values):
        write_run("simclr", "linear", {"top1": value, "top5": 90.0}, trial)
        write_run("zero", "linear", {"top1": 10.0 + trial, "top5": 50.0}, trial, method="random")
    write_run(
        "mscn",
        "knn",
        {"knn20_top1": 51.0, "knn100_top1": 49.0, "knn10_top1": 50.0, "features/norm": 9.0},
    )
    write_run("imagenet", "knn", {"knn20_top1": 60.0}, method="supervised")
    results = _results(tmp_path)
    labels = [row.label for row in results.checkpoints]
    assert labels == ["zero", "imagenet", "mscn", "simclr"]  # untrained, supervised, the others
    assert [protocol.task for protocol in results.protocols] == ["knn", "linear"]
    knn, linear = results.protocols
    assert results.metrics[knn.key] == ["knn10_top1", "knn20_top1", "knn100_top1", "features/norm"]
    cell = results.cell(results.checkpoints[3], linear)
    summary = cell.summaries["top1"]
    assert (summary.mean, summary.n) == (pytest.approx(np.mean(values)), 3)
    assert summary.std == pytest.approx(np.std(values, ddof=1))
    assert cell.values["top1"] == values and cell.seconds == pytest.approx(31.0)
    # other seeds are other weights, and still one row
    assert results.cell(results.checkpoints[0], linear).summaries["top1"].mean == 11.0
    assert results.cell(results.checkpoints[2], linear) is None
    assert [(p.task, m) for p, m in results.headlines()] == [
        ("knn", "knn20_top1"),
        ("linear", "top1"),
    ]


def test_protocols_never_meet(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    write_run("simclr", "linear", {"top1": 40.0}, protocol="linear_moco")
    write_run("simclr", "linear", {"top1": 60.0}, protocol="linear_simsiam")
    results = _results(tmp_path)
    means = [
        results.cell(results.checkpoints[0], protocol).summaries["top1"].mean
        for protocol in results.protocols
    ]
    assert means == [40.0, 60.0]


def test_same_name_other_config_says_how(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    common = {"name": "linear", "engine": "torch", "engine_version": "1"}
    plain = {**common, "config_sha256": "aa" * 32, "overrides": []}
    short = {**common, "config_sha256": "bb" * 32, "overrides": ["SOLVER.EPOCHS", "5"]}
    write_run("simclr", "linear", {"top1": 40.0}, protocol="a")
    for folder, protocol in (("b", plain), ("c", short)):
        path = write_run("mscn", "linear", {"top1": 50.0}, protocol=folder)
        _replace(path, protocol)
    labels = [protocol.label for protocol in _results(tmp_path).protocols]
    assert labels[0] == "a"
    assert "as shipped" in labels[1] and "SOLVER.EPOCHS 5" in labels[2]


@pytest.mark.parametrize("name", ["knn_gray_tiny100", "knn_tiny100"])
def test_gray_and_colour_are_never_averaged(
    name: str, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    """Whether the shipped config asks for grey, or a word on the command line."""
    words = [] if "gray" in name else ["PROTOCOL.GRAY", "True"]
    for folder, file, overrides, value in (
        ("colour", "knn_tiny100", [], 40.0),
        ("gray", name, words, 60.0),
    ):
        path = write_run("mscn", "knn", {"knn20_top1": value}, protocol=folder)
        sha256 = ROLES.sha256(load_config(f"{file}.yaml", get_defaults(), overrides))
        engine = {"engine": "torch", "engine_version": "1"}
        facts = {"name": file, "config_sha256": sha256, "overrides": overrides}
        _replace(path, {**engine, **facts})
    results = _results(tmp_path)
    (row,) = results.checkpoints
    means = {p.label: results.cell(row, p).summaries["knn20_top1"].mean for p in results.protocols}
    assert sorted(means.values()) == [40.0, 60.0]
    (gray,) = [label for label, mean in means.items() if mean == 60.0]
    assert "gray" in gray.lower()


def _replace(path: Path, protocol: dict) -> None:
    record = json.loads(path.read_text())
    record["protocol"] = protocol
    path.write_text(json.dumps(record))


def test_null_metrics_failed_and_shortened(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    write_run("simclr", "detection", {"bbox/AP": 30.0, "bbox/APs": None}, status="shortened")
    failed = write_run("simclr", "detection", {"bbox/AP": 1.0}, trial=1, status="failed")
    results = _results(tmp_path)
    cell = results.cell(results.checkpoints[0], results.protocols[0])
    assert set(cell.summaries) == {"bbox/AP"} and cell.summaries["bbox/AP"].n == 1
    assert cell.shortened
    assert any(str(failed) in note for note in results.notes)


def test_records_without_a_number_are_named(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    """AP of a test set without objects: no row, no column, and no crash."""
    empty = write_run("simclr", "detection", {"bbox/AP": None})
    write_run("mscn", "linear", {"top1": 50.0})
    results = _results(tmp_path)
    assert [row.label for row in results.checkpoints] == ["mscn"] and len(results.headlines()) == 1
    assert results.notes == [f"{empty}: none of its metrics has a value; left out"]
    with pytest.raises(InputError, match="no record with a number below .*none of its metrics"):
        write_report([empty.parent], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_checkpoint_under_two_names(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    """Equal weights have equal sha256; untrained backbones of one seed are not reported."""
    same = {"sha256": "ab" * 32}
    write_run("mscn_resnet50_100ep", "linear", {"top1": 50.0}, checkpoint=same)
    write_run("mine", "linear", {"top1": 50.0}, trial=1, checkpoint=same)
    write_run("other", "linear", {"top1": 50.0})
    for name in ("random_one", "random_two"):
        write_run(name, "linear", {"top1": 9.0}, method="random", checkpoint=same)
    results = _results(tmp_path)
    assert [row.label for row in results.checkpoints[-3:]] == [
        "mine",
        "mscn_resnet50_100ep",
        "other",
    ]
    assert results.notes == [
        "mine and mscn_resnet50_100ep are one checkpoint with 2 names: their weights are equal "
        "(sha256 abababa); use one --name for it in later runs"
    ]
