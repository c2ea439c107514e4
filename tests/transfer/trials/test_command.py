"""What every fine-tuning task writes in addition to its records."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode

from pretrain.common.config import load_config
from transfer.classification.task import ClassificationTask
from transfer.detection.task import DetectionTask
from transfer.segmentation.task import SegmentationTask
from transfer.trials import command
from transfer.trials.command import evaluate_command, run_command, run_request, write_evaluation
from transfer.trials.task import Request, Scored, Task


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def test_an_evaluation_is_strict_json_where_a_metric_has_no_value(tmp_path: Path) -> None:
    """For example, the AP of large objects has no value if the test set has no large object."""
    request = Request("coco.yaml", "weights.pth", str(tmp_path / "scored"))
    metrics = {"bbox/AP": 12.5, "bbox/APl": math.nan}
    per_class = {"bbox/AP": {"cat": math.nan, "dog": 9.0}}
    write_evaluation(request, Scored("model_final.pth", metrics, per_class))
    text = (tmp_path / "scored" / "evaluation.json").read_text()
    assert json.loads(text, parse_constant=refuse) == {
        "model": "model_final.pth",
        "metrics": {"bbox/AP": 12.5, "bbox/APl": None},
        "per_class": {"bbox/AP": {"cat": None, "dog": 9}},
    }


@pytest.mark.parametrize(
    ("task", "config", "key"),
    [
        (DetectionTask(), "coco_mscn.yaml", "TRANSFER.TF32"),
        (SegmentationTask(), "voc12aug_fcn.yaml", "TRANSFER.TF32"),
        (ClassificationTask(), "finetune_flowers5.yaml", "TRAIN.TF32"),
    ],
)
def test_tf32_is_asked_for_before_the_trials_and_is_a_protocol_of_its_own(
    task: Task[Any],
    config: str,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[str, str]] = []

    def allow(device: torch.device, key: str) -> str:
        asked.append((device.type, key))
        return f"{key} was asked for"

    def read(*words: str) -> CfgNode:
        place = "classification" if isinstance(task, ClassificationTask) else "detection"
        return load_config(config, task.roles.make_defaults(), words, place)

    monkeypatch.setattr(command, "allow_tf32", allow)
    monkeypatch.setattr(command, "run_trials", lambda task, job: [])
    monkeypatch.setattr(type(task), "describe", lambda self, job: [])
    plain, tf32 = read(), read(key, "True")
    for cfg in (plain, tf32):
        job: Any = SimpleNamespace(cfg=cfg)
        run_request(task, Request(config, "random", "x"), job)
    assert asked == [("cpu", key)] and f"{key} was asked for" in capsys.readouterr().err
    assert task.roles.sha256(plain) != task.roles.sha256(tf32)


def test_tf32_is_nothing_to_protocols_on_frozen_features() -> None:
    task = ClassificationTask()
    cfg = load_config(
        "knn_imagenet.yaml", task.roles.make_defaults(), ("TRAIN.TF32", "True"), "classification"
    )
    assert task.tf32_key(cfg) == ""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_under_torchrun_each_process_opens_the_data_once_and_the_first_scans_the_images(
    rank: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also --eval-only; a second opening would read the annotations of both sets again."""
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    scans: list[bool] = []
    opened = SimpleNamespace(cfg=CfgNode())
    used: list[Any] = []

    def open_once(request: Request, *, scan: bool = True) -> Any:
        scans.append(scan)
        return opened

    def evaluate(request: Request, trained: Any) -> None:
        used.append(trained)

    task: Any = SimpleNamespace(
        name="detection",
        saved=(),
        prepare=open_once,
        open_trained=open_once,
        evaluate=evaluate,
        check_processes=lambda cfg, processes: None,
        tf32_key=lambda cfg: "",
        describe=lambda job: [],
    )
    monkeypatch.setattr(command, "init_distributed", lambda: None)
    monkeypatch.setattr(command, "check_trial_folders", lambda task, job: None)
    monkeypatch.setattr(command, "run_trials", lambda task, job: used.append(job))
    monkeypatch.setattr(command, "last_lines", lambda folders: [])
    run_command(task, Request("c.yaml", "random", str(tmp_path / "run")), 1)
    if rank == "1":  # the first would print what a real task writes
        evaluate_command(task, Request("c.yaml", "random", str(tmp_path / "eval")), 1)
    assert len(used) == len(scans) and all(one is opened for one in used)
    assert set(scans) == {rank == "0"}
