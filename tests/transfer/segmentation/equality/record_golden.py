"""Records golden outputs of mmsegmentation, for machines on which it is not installed.

Run it from the checkout, with a Python that has the packages that `mmseg_side.py` names: `python -m
tests.transfer.segmentation.equality.record_golden [CASE ...]`. It writes one small .npz per case to
`tests/transfer/segmentation/golden/`. After a change of cases.py, run it again and commit what it
wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from tests.transfer.segmentation.equality import mmseg_side
from tests.transfer.segmentation.equality.cases import CASES, SLOW, condense

FOLDER = Path(__file__).parents[1] / "golden"


def main(names: list[str]) -> None:
    """Records the named cases, all without a name."""
    FOLDER.mkdir(exist_ok=True)
    torch.set_num_threads(1)  # sums in one order on machines of any size
    for name in names or [case for case in CASES if case not in SLOW]:
        arrays = condense(mmseg_side.run(name))
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **arrays)
        print(f"{path}: {path.stat().st_size / 1024:.1f} KiB, {len(arrays)} arrays")


if __name__ == "__main__":
    main(sys.argv[1:])
