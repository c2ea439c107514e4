"""The curve of a training run: metrics.json (one JSON object per line) and the run's loggers.

The names are Detectron2's ("iteration", "total_loss", "lr", "eta_seconds", "bbox/AP", ...). A
resumed run drops the lines of the iterations that it repeats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretrain.common import logs
from pretrain.common.logs import MetricsWriter

METRICS_FILE, STEP = "metrics.json", "iteration"


def open_metrics(output: Path, start_iteration: int, loggers: str) -> MetricsWriter:
    """Returns a writer of `output`/metrics.json; drops lines of `start_iteration` and later.

    Args:
        loggers: see `MetricsWriter`.
    """
    names = {"file_name": METRICS_FILE, "step_name": STEP}
    return MetricsWriter(output, start_iteration - 1, loggers=loggers, **names)


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """Returns all rows of metrics.json; see `pretrain.common.logs.read_metrics`."""
    return logs.read_metrics(output / METRICS_FILE, STEP)
