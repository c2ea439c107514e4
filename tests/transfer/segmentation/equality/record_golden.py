"""Records golden outputs of mmsegmentation, for machines on which it is not installed.

Run it from the checkout, with a Python that has the packages that `mmseg_side.py` names: `python -m
tests.transfer.segmentation.equality.record_golden [CASE ...]`. It writes one small .npz per case to
`tests/transfer/segmentation/golden/`. After a change of cases.py, run it again and commit what it
wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.golden_files import record
from tests.transfer.segmentation.equality import mmseg_side
from tests.transfer.segmentation.equality.cases import CASES, SLOW, condense

FOLDER = Path(__file__).parents[1] / "golden"


def main(names: list[str]) -> None:
    """Records the named cases, all without a name."""
    cases = names or [case for case in CASES if case not in SLOW]
    record(FOLDER, cases, lambda name: condense(mmseg_side.run(name)))


if __name__ == "__main__":
    main(sys.argv[1:])
