"""What one trial of a protocol found, on its way into the record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transfer.classification.replicates import Outcomes


@dataclass(frozen=True)
class Score:
    """A protocol's result on one checkpoint.

    Attributes:
        metrics: in percent; per_class: {metric: {class: percent}}.
        curve: rows for curves.json; notes: for selection.json.
        outcomes: of each test image, for replicates.json.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    outcomes: Outcomes = field(default_factory=Outcomes)
