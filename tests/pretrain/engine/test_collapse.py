"""When features count as collapsed, and that training warns of it without a kNN monitor."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pretrain.common.logs import MetricsWriter
from pretrain.engine.callbacks import Metrics
from pretrain.engine.collapse import warn_of_collapse


@pytest.mark.parametrize(
    "std, rank, collapsed",
    [
        (0.017, 256.0, False),
        (0.0072, 272.0, False),
        (0.0008, 90.0, True),
        (0.03, 1.2, True),
        (0.017, None, False),
        (0.0008, None, True),
    ],
)
def test_a_collapse_is_warned_of(
    std: float, rank: float | None, collapsed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The first two are a trained and an untrained ResNet-18's (docs/results/first_run.md)."""
    assert warn_of_collapse(std, 512, rank) == collapsed
    assert [record.levelname for record in caplog.records] == ["WARNING"] * collapsed
    assert all("0.044 if spread evenly" in record.message for record in caplog.records)


def test_training_warns_once_from_its_batches(
    at: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(features: Tensor, can_collapse: bool) -> int:
        caplog.clear()
        metrics = Metrics(MetricsWriter(tmp_path), every_steps=1, can_collapse=can_collapse)
        metrics.start(at(0))
        for step in (1, 2, 3):
            outcome = {"loss": torch.tensor(1.0), "terms": {}, "features": features, "taken": True}
            metrics.step(at(step), outcome)
        metrics.close()
        return sum("have collapsed" in record.message for record in caplog.records)

    caplog.set_level(logging.WARNING)
    spread = torch.randn(16, 8)
    constant = torch.ones(16, 8) + 1e-4 * spread
    assert run(constant, True) == 1 and run(spread, True) == 0 and run(constant, False) == 0
