"""Records golden outputs from the real Detectron2, for machines on which it cannot be installed.

Run it from the checkout, with a Python that has Detectron2: `python -m
tests.transfer.detection.equality.record_golden [CASE ...]`. It writes one small .npz per case to
`tests/transfer/detection/golden/`. Weights and inputs are not stored, because they follow from
names and seeds. After a change of cases.py or inputs.py, run it again and commit what it wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests import golden_files
from tests.transfer.detection.equality.cases import CASES, SLOW
from tests.transfer.detection.equality.runs import condense, run_case
from tests.transfer.detection.equality.their_inputs import record
from tests.transfer.detection.equality.their_side import Theirs

# Not voc_ties: what an unstable sort makes of equal scores depends on the processor.
GOLDEN_TOPICS = (
    *("geometry", "orders", "repeats", "rates", "clipped", "mapped", "crops", "crops_polygons"),
    *("jitter", "jitter_polygons", "keypoints", "voc_metrics", "naive_sync"),
    *("lvis_metrics", "cityscapes_metrics"),
)
FOLDER = Path(__file__).parents[1] / "golden"


def main(names: list[str]) -> None:
    """Records the named cases and topics, all without a name."""
    wanted = names or [*(case for case in CASES if case not in SLOW), *GOLDEN_TOPICS]
    golden_files.record(FOLDER, wanted, _computed)


def _computed(name: str) -> Mapping[str, np.ndarray]:
    return condense(run_case(Theirs(), name)) if name in CASES else record(name)


if __name__ == "__main__":
    main(sys.argv[1:])
