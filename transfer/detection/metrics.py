"""The curve of a training run: metrics.json (one JSON object per line) and TensorBoard.

In: an iteration and scalars. Out: lines with Detectron2's names ("iteration", "total_loss", "lr",
"eta_seconds", "bbox/AP", ...); a resumed run drops the lines after the iteration it resumes at.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pretrain.common.distributed import is_main

METRICS_FILE = "metrics.json"


class MetricsFile:
    """Appends to `output`/metrics.json; silent on all but the main process."""

    def __init__(self, output: Path, start_iteration: int) -> None:
        self._path = output / METRICS_FILE
        self._board: Any = None
        if not is_main():
            return
        from torch.utils.tensorboard import SummaryWriter

        rows = read_metrics(output) if self._path.exists() else []
        kept = [row for row in rows if row["iteration"] < start_iteration]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._board = SummaryWriter(str(output), purge_step=start_iteration)

    def write(self, iteration: int, **scalars: float) -> None:
        """Adds one line; what is not finite becomes null."""
        if self._board is None:
            return
        values = {k: float(v) if math.isfinite(v) else None for k, v in scalars.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flushes TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """All lines of metrics.json; one cut off by a killed process is left out."""
    rows = []
    for line in (output / METRICS_FILE).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
