"""Reads `recorded.json`, and compares new measurements with it."""

from __future__ import annotations

import json
from typing import Any

from tests.gpu.rehearsal import RECORDED, differences

Numbers = dict[str, dict[str, Any]]


def read_record() -> Numbers:
    """The recorded numbers of each case."""
    return json.loads(RECORDED.read_text())


def check(case: str, now: Numbers, recorded: Numbers) -> None:
    """Asserts that one case's numbers are the recorded ones."""
    assert case in recorded, f"run: python -m tests.gpu.rehearsal --record {case}"
    assert "error" not in now[case], now[case]["error"]
    changed = differences(now[case], recorded[case])
    assert not changed, "\n".join(
        [*changed, "If meant, run: python -m tests.gpu.rehearsal --record"]
    )
