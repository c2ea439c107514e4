"""When checkpoints are written; a row of metrics is the mean since the last row."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain.common.logs import MetricsWriter, read_metrics
from pretrain.engine.callbacks import Checkpoint, Metrics, due


def test_due_counts_completed_epochs(at: Callable) -> None:
    assert [step for step in range(1, 13) if due(at(step), 2)] == [6, 12]
    assert not any(due(at(step), 0) for step in range(1, 13))


@pytest.mark.parametrize(
    "every_epochs, every_steps, keep, expected",
    [
        (2, 0, 0, [(6, "checkpoint.pth"), (12, "checkpoint.pth")]),
        (0, 5, 0, [(5, "checkpoint.pth"), (10, "checkpoint.pth"), (12, "checkpoint.pth")]),
        (0, 0, 3, [(9, "checkpoint_3.pth"), (12, "checkpoint.pth")]),
    ],
)
def test_checkpoints(
    at: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    every_epochs: int,
    every_steps: int,
    keep: int,
    expected: list,
) -> None:
    written: list[tuple[int, str]] = []
    monkeypatch.setattr(
        "pretrain.engine.callbacks.save_training",
        lambda training, facts, path: written.append((training.step, path.name)),
    )
    periods = {"every_epochs": every_epochs, "every_steps": every_steps}
    callback = Checkpoint(tmp_path, {}, MetricsWriter(tmp_path), **periods, keep_every_epochs=keep)
    for step in range(1, 13):
        callback.step(at(step), {})
    callback.end(at(12))
    assert written == expected


def test_rows_hold_means_since_the_last_row(at: Callable, tmp_path: Path) -> None:
    metrics = Metrics(MetricsWriter(tmp_path), every_steps=2)
    metrics.start(at(0))
    for step in range(1, 6):
        outcome = {
            "loss": torch.tensor(float(step)),
            "terms": {"half": torch.tensor(step / 2)},
            "features": torch.randn(4, 3),
            "taken": True,
        }
        metrics.step(at(step, total=5), outcome)
    metrics.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["loss"], r["half"]) for r in rows] == [
        (2, 1.5, 0.75),
        (4, 3.5, 1.75),
        (5, 5.0, 2.5),
    ]
    assert all(row["images_per_s"] == pytest.approx(2.0) for row in rows)


def test_skipped_steps_are_left_out_of_the_means(at: Callable, tmp_path: Path) -> None:
    metrics = Metrics(MetricsWriter(tmp_path), every_steps=2)
    metrics.start(at(0))
    for step, (loss, taken) in enumerate([(1.0, True), (math.nan, False), (9.0, False)] * 2, 1):
        outcome = {"loss": torch.tensor(loss), "terms": {}, "features": torch.randn(4, 3)}
        metrics.step(at(step, total=6), {**outcome, "taken": taken})
    metrics.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(2, 1.0), (4, 1.0)]
