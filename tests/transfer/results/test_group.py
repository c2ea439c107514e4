"""Which records are averaged, pooled and compared: one changed field at a time."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from transfer.results.group import CheckpointKey, cell_of, method_of, run_of, why_left_out

RECORD: dict[str, Any] = {
    "checkpoint": {
        "name": "mscn",
        "sha256": "ab" * 32,
        "source": "mscn",
        "method": "mscn",
        "backbone": "resnet50",
        "pretrain_epochs": 100,
        "pretrain_seed": 0,
        "pretrain_config_sha256": "cd" * 32,
    },
    "task": "detection",
    "dataset": "voc_2007_test",
    "protocol": {
        "name": "voc_mscn",
        "config_sha256": "ef" * 32,
        "engine": "torchvision",
        "engine_version": "0.29",
        "overrides": [],
    },
    "trial": 0,
    "seed": 0,
    "metrics": {"bbox/AP": 50.0, "bbox/APs": None},
    "status": "done",
    "started": "2026-01-01T00:00:00+00:00",
    "hardware": {"device": "cpu"},
}
# What two records of one cell must share, and what may differ between them
SHARED = {
    "checkpoint.name": "other",
    "checkpoint.sha256": "00" * 32,
    "task": "segmentation",
    "dataset": "voc_2012_val",
    "protocol.name": "voc_random",
    "protocol.engine": "detectron2",
    "protocol.config_sha256": "11" * 32,
}
FREE = {
    "status": "shortened",
    "started": "2027-01-01T00:00:00+00:00",
    "hardware": {"device": "NVIDIA H100"},
    "protocol.engine_version": "0.30",
    "protocol.overrides": ["DATALOADER.NUM_WORKERS 0"],
}


def _changed(**fields: Any) -> dict[str, Any]:
    record = copy.deepcopy(RECORD)
    for field, value in fields.items():
        *parents, last = field.split(".")
        place = record
        for parent in parents:
            place = place[parent]
        place[last] = value
    return record


@pytest.mark.parametrize("field", SHARED)
def test_not_averaged(field: str) -> None:
    other = _changed(**{field: SHARED[field]})
    assert cell_of(other) != cell_of(RECORD) and run_of(other) != run_of(RECORD)


@pytest.mark.parametrize("field", FREE)
def test_one_run_whatever_else_differs(field: str) -> None:
    other = _changed(**{field: FREE[field]})
    assert cell_of(other) == cell_of(RECORD) and run_of(other) == run_of(RECORD)


@pytest.mark.parametrize("field", ["trial", "seed"])
def test_trials_are_averaged_and_are_runs_of_their_own(field: str) -> None:
    other = _changed(**{field: 1})
    assert cell_of(other) == cell_of(RECORD) and run_of(other) != run_of(RECORD)


@pytest.mark.parametrize("field", ["checkpoint.source", "checkpoint.method"])
def test_untrained_weights_are_one_checkpoint(field: str) -> None:
    """Each trial may draw its own: the rows agree, the runs do not."""
    one = _changed(**{field: "random"})
    other = _changed(**{field: "random", "checkpoint.sha256": "22" * 32})
    assert cell_of(one) == cell_of(other) != cell_of(RECORD)
    assert run_of(one) != run_of(other)
    assert cell_of(one)[0] == CheckpointKey("mscn", "random")


def test_seeds_of_one_method() -> None:
    key = method_of(RECORD["checkpoint"])
    other_seed = {"checkpoint.pretrain_seed": 1, "checkpoint.name": "s1"}
    assert key and method_of(_changed(**other_seed)["checkpoint"]) == key
    for field, value in (("epochs", 200), ("config_sha256", "33" * 32)):
        assert method_of(_changed(**{f"checkpoint.pretrain_{field}": value})["checkpoint"]) != key
    assert method_of(_changed(**{"checkpoint.method": "simclr"})["checkpoint"]) != key
    for field in ("method", "pretrain_seed", "pretrain_config_sha256"):
        assert method_of(_changed(**{f"checkpoint.{field}": None})["checkpoint"]) is None
    assert method_of(_changed(**{"checkpoint.source": "random"})["checkpoint"]) is None


def test_left_out() -> None:
    assert why_left_out(RECORD) is None
    assert why_left_out(_changed(status="shortened")) is None
    assert why_left_out(_changed(status="failed")) == "the run failed"
    assert "none of its metrics" in str(why_left_out(_changed(metrics={"bbox/AP": None})))
