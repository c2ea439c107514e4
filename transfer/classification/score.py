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
        views: images that went through the backbone; None: each image of both splits once.
        seconds_before: wall clock of the trial before it was interrupted.
        protocol: what the record's `protocol` says beside the config.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    outcomes: Outcomes = field(default_factory=Outcomes)
    views: int | None = None
    seconds_before: float = 0.0
    protocol: dict[str, Any] = field(default_factory=dict)
