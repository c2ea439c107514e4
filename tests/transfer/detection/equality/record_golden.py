"""Records golden outputs from the real Detectron2, for machines on which it cannot be installed.

Run it from the checkout, with a Python that has Detectron2: `python -m
tests.transfer.detection.equality.record_golden [CASE ...]`. It writes one small .npz per case to
`tests/transfer/detection/golden/`. Weights and inputs are not stored, because they follow from
names and seeds. After a change of cases.py or inputs.py, run it again and commit what it wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

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
    FOLDER.mkdir(exist_ok=True)
    torch.set_num_threads(1)  # sums in one order on machines of any size
    for name in names or [*(case for case in CASES if case not in SLOW), *GOLDEN_TOPICS]:
        if name in CASES:
            arrays = condense(run_case(Theirs(), name))
        else:
            arrays = record(name)
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **arrays)
        print(f"{path}: {path.stat().st_size / 1024:.1f} KiB, {len(arrays)} arrays")


if __name__ == "__main__":
    main(sys.argv[1:])
