"""What every task of fine-tuning writes beside its records."""

from __future__ import annotations

import json
import math
from pathlib import Path

from transfer.trials.command import write_evaluation
from transfer.trials.task import Request, Scored


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def test_an_evaluation_is_strict_json_where_a_metric_has_no_value(tmp_path: Path) -> None:
    """As the AP of large objects has none where the test set has no large object."""
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
