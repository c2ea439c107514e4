"""Precision at each recall, from the evaluators' curves, written as pr_curves.json for a report.

    {schema, recall: [0, 0.01, ..., 1], mean: {"bbox/AP50": [...], ...},
     class_recall: [0, 0.05, ..., 1], per_class: {"bbox/AP50": {class: [...]}, ...}}

Precision is interpolated, as both benchmarks do: the best one at this recall or a higher one, 0 if
a recall is not reached. `bbox/AP` is the mean over IoU .50, .55, ..., .95. Values are fractions,
rounded to 0.0001. The mean over recalls is COCO's AP; VOC's 2007 metric takes every tenth of them.

Legend: T IoU thresholds, R recalls, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pretrain.common.checkpoint import atomic_write_text

SCHEMA = 1
FILE_NAME = "pr_curves.json"
RECALL = np.linspace(0.0, 1.0, 101)
# A class's curve has every fifth recall, and only at IoU .5 and .75: 80 classes need 30 kB.
CLASS_STEP = 5


@dataclass
class PrecisionRecall:
    """Collects the curves of one evaluation."""

    mean: dict[str, list[float]] = field(default_factory=dict)
    per_class: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, kind: str, precision: np.ndarray, classes: Sequence[str]) -> None:
        """Takes precision (T, R, C) of "bbox" or "segm"; -1 for classes without an object."""
        seen = precision[0, 0] > -1
        found = precision[:, :, seen]
        names = [name for name, there in zip(classes, seen) if there]
        parts = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
        for part, rows in parts.items() if names else ():
            self.mean[f"{kind}/{part}"] = _rounded(found[rows].mean(axis=(0, 2)))
            if part != "AP":
                table = found[rows].mean(axis=0)[::CLASS_STEP]
                curves = {name: _rounded(table[:, i]) for i, name in enumerate(names)}
                self.per_class[f"{kind}/{part}"] = curves

    def write(self, folder: Path) -> Path:
        """Writes `folder`/pr_curves.json and returns its path."""
        content = {
            "schema": SCHEMA,
            "recall": _rounded(RECALL),
            "mean": self.mean,
            "class_recall": _rounded(RECALL[::CLASS_STEP]),
            "per_class": self.per_class,
        }
        atomic_write_text(folder / FILE_NAME, json.dumps(content) + "\n")
        return folder / FILE_NAME


def interpolate(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Returns the best precision at or above each of RECALL, (R,); `recall` (d,) rises, or is
    NaN.
    """
    if not len(recall) or np.isnan(recall).any():
        return np.zeros(len(RECALL))
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    # A recall of 0.3 may be computed as 0.30000000000000004 here and 0.3 there
    return envelope[np.searchsorted(recall, RECALL - 1e-12)]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
