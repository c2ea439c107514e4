"""Precise batch norm: what its import prints on a terminal. The statistics are in test_run."""

from __future__ import annotations

import subprocess
import sys

from pretrain.common.config import CHECKOUT

CODE = """
import pretrain.engine.run, sys
assert "fvcore.nn" not in sys.modules
pretrain.engine.precise_bn.import_fvcore().update_bn_stats
"""


def test_no_warning_of_others_code_is_shown() -> None:
    words = [sys.executable, "-W", "error::FutureWarning", "-c", CODE]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
