"""The curve of a training run: metrics.json (one JSON object per line) and TensorBoard.

The names are Detectron2's ("iteration", "total_loss", "lr", "eta_seconds", "bbox/AP", ...). A
resumed run drops the lines of the iterations that it takes again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pretrain.common.logs import MetricsWriter

METRICS_FILE = "metrics.json"


def open_metrics(output: Path, start_iteration: int) -> MetricsWriter:
    """A writer of `output`/metrics.json, without the lines of `start_iteration` and later."""
    return MetricsWriter(output, start_iteration - 1, file_name=METRICS_FILE, step_name="iteration")


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """All lines of metrics.json; one cut off by a killed process is left out."""
    rows = []
    for line in (output / METRICS_FILE).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
